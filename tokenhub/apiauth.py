"""Who may use the admin API: whoever holds the admin token, or a staff session. Named in the settings, and therefore
loaded with DRF itself: it must not import a view."""

from __future__ import annotations

from typing import Any

from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from tokenhub import admin_token


class TokenHolder:
    """May do everything, and has no row in the database."""

    pk = id = None
    username = "admin-token"
    is_authenticated = is_active = is_staff = is_superuser = True
    is_anonymous = False

    def has_perm(self, permission: str, obj: Any = None) -> bool:
        return True

    def __str__(self) -> str:
        return self.username


def check(token: bytes, *, address: str) -> None:
    """Raises AuthenticationFailed, Throttled."""
    try:
        right = admin_token.verify(token, address=address)
    except admin_token.TooManyFailures as problem:
        raise Throttled(wait=problem.retry_after_seconds, detail="Too many wrong admin tokens.") from None
    if not right:
        raise AuthenticationFailed("This is not the admin token.")


class AdminToken(BaseAuthentication):
    """`Authorization: Bearer <admin token>`."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        scheme, _, token = str(request.META.get("HTTP_AUTHORIZATION", "")).strip().partition(" ")
        if scheme.lower() != "bearer":
            return None
        check(token.strip().encode("latin-1", "replace"), address=admin_token.address_of(request._request))  # noqa: SLF001  DRF's interface
        return TokenHolder(), None

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="TokenHub admin"'


class StaffSession(SessionAuthentication):
    """A login of Django's; whoever changes something must send the CSRF token."""
