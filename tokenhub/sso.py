"""Logins by OpenID Connect and second factors, by django-allauth: only where the settings ask for them, as an extra
that is installed on purpose. This module says who comes in: whoever the identity provider puts into one of the named
groups.

Roles follow the identity provider at each login. Nobody signs up, and no account is taken over because its name or
mail address is the same, nor joined to an identity of the provider."""

from __future__ import annotations

from typing import Any, Final

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.providers.base.constants import AuthProcess
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.shortcuts import redirect
from django.urls import reverse
from django.views.defaults import permission_denied

from tokenhub.admin_token import address_of

SUPERUSER: Final = "superuser"


def page(request: HttpRequest) -> dict[str, Any]:
    """A context processor: allauth's pages look like the admin's, and lead back to it."""
    if not request.path.startswith("/accounts/"):
        return {}
    return {**admin.site.each_context(request), "site_url": reverse("admin:index")}


def roles_of(told: dict[str, Any]) -> set[str]:
    """The roles that the identity provider's word about somebody comes to."""
    claims = {**told.get("id_token", {}), **told.get("userinfo", told)}
    groups = claims.get(settings.TOKENHUB_OIDC_GROUPS_CLAIM, [])
    held = {groups} if isinstance(groups, str) else set(map(str, groups if isinstance(groups, list) else []))
    return {role for group, role in settings.TOKENHUB_OIDC_ROLES.items() if group in held}


class Accounts(DefaultAccountAdapter):  # type: ignore[misc]  # allauth has no type information
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        return address_of(request)

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Wrong passwords are counted once, by axes: by name and address, for all workers, and to be lifted by
        commands. allauth's own count would lock a name out from everywhere."""

    def get_login_redirect_url(self, request: HttpRequest) -> str:
        return "/admin/"


class SocialAccounts(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        return True  # `pre_social_login` has let him through

    def is_auto_signup_allowed(self, request: HttpRequest, sociallogin: Any) -> bool:
        return True  # where the name is taken, he gets one with a number; a mail address means nothing here

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        if sociallogin.state.get("process") != AuthProcess.LOGIN:  # an account from here stays one of here
            raise ImmediateHttpResponse(permission_denied(request, PermissionDenied()))
        roles = roles_of(sociallogin.account.extra_data)
        if not roles:
            if sociallogin.is_existing:
                _set_roles(sociallogin.user, set())
            messages.error(request, "You are in no group that may come in here.")
            raise ImmediateHttpResponse(redirect("account_login"))
        if sociallogin.is_existing:
            _set_roles(sociallogin.user, roles)

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        user: User = super().save_user(request, sociallogin, form)
        _set_roles(user, roles_of(sociallogin.account.extra_data))
        return user


def _set_roles(user: User, roles: set[str]) -> None:
    """Whoever has none is staff no longer: his other sessions end with his next page."""
    user.is_staff = bool(roles)
    user.is_superuser = SUPERUSER in roles
    user.save(update_fields=["is_staff", "is_superuser"])
    user.groups.set(Group.objects.filter(name__in=roles))
