"""One-time login links: 256 random bits, stored as a digest, valid ten minutes, used up by the first POST."""

from __future__ import annotations

import secrets
from datetime import timedelta
from hashlib import sha256

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from tokenhub.models import LoginLink

VALID_FOR = timedelta(minutes=10)
ADMIN_NAME = "admin"


def ensure_admin() -> User:
    """The first superuser; made without a password when there is none."""
    found = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
    if found is None:
        found, _ = User.objects.get_or_create(username=ADMIN_NAME)
        found.is_staff = found.is_superuser = found.is_active = True
        found.set_unusable_password()
        found.save()
    return found


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
