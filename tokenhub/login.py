"""One-time login links: 256 random bits, stored as a digest, valid ten minutes, used up by the first POST."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from itertools import chain, count
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from tokenhub.models import LoginLink

VALID_FOR = timedelta(minutes=10)
ADMIN_NAME = "admin"


def ensure_admin() -> User:
    """The first superuser of our own; made without a password when there is none. Whom single sign-on made is left to
    it, even if the name is `admin`."""
    own = User.objects.exclude(pk__in=of_single_sign_on())
    found = own.filter(is_superuser=True, is_active=True).order_by("pk").first()
    if found is None:
        theirs = set(of_single_sign_on().filter(username__startswith=ADMIN_NAME).values_list("username", flat=True))
        names = chain([ADMIN_NAME], (f"{ADMIN_NAME}-{number}" for number in count(2)))
        found, _ = User.objects.get_or_create(username=next(name for name in names if name not in theirs))
        found.is_staff = found.is_superuser = found.is_active = True
        found.set_unusable_password()
        found.save()
    return found


def of_single_sign_on() -> QuerySet[User]:
    """Those who log in by an identity provider."""
    if not apps.is_installed("allauth.socialaccount"):
        return User.objects.none()
    accounts = apps.get_app_config("socialaccount").get_model("SocialAccount")
    return User.objects.filter(pk__in=accounts._default_manager.values("user"))  # noqa: SLF001  Django's interface


def counted_name(request: HttpRequest, credentials: Mapping[str, Any] | None = None) -> str:
    """The name under which a wrong password is counted: `ROOT` is `root`, as it is to who looks it up regardless of
    case. By way of upper case, which knows a dotless i for an I, as Postgres does."""
    told = credentials if credentials is not None else request.POST
    return str(told.get("username") or "").upper().casefold()[:255]


def somebody_has_a_password() -> bool:
    return any(user.has_usable_password() for user in User.objects.filter(is_staff=True, is_active=True))


def new_link() -> str:
    """The link's secret part; earlier links stay valid until they end."""
    token = secrets.token_urlsafe(32)
    now = timezone.now()
    LoginLink.objects.filter(expires_at__lt=now).delete()
    LoginLink.objects.create(digest=_digest(token), expires_at=now + VALID_FOR)
    return token


def prune_sessions() -> int:
    """Those that are over. How many."""
    return Session.objects.filter(expire_date__lt=timezone.now()).delete()[0]


def link_url(token: str, *, listen: str) -> str:
    return f"{public_url(listen)}{reverse('login-link', args=[token])}"


def public_url(listen: str) -> str:
    """Where a browser on this machine, or wherever the operator said, finds the server."""
    if settings.TOKENHUB_PUBLIC_URL:
        return str(settings.TOKENHUB_PUBLIC_URL).rstrip("/")
    host, _, port = listen.rpartition(":")
    return f"http://{'127.0.0.1' if host in {'0.0.0.0', '[::]', '::'} else host}:{port}"  # noqa: S104


def is_valid(token: str) -> bool:
    return LoginLink.objects.filter(digest=_digest(token), used_at=None, expires_at__gt=timezone.now()).exists()


def void_links() -> None:
    """All that are out: somebody has a password now."""
    LoginLink.objects.filter(used_at=None).delete()


@transaction.atomic
def use(token: str) -> User | None:
    """The user to log in, once; None when the link is unknown, used or too old."""
    now = timezone.now()
    if not LoginLink.objects.filter(digest=_digest(token), used_at=None, expires_at__gt=now).update(used_at=now):
        return None
    return ensure_admin()


def _digest(token: str) -> str:
    return sha256(token.encode("utf-8", "replace")).hexdigest()
