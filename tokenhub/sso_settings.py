"""What django-allauth wants of the settings, where OpenID Connect or second factors are asked for. Imports neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

APPS: Final = ["allauth", "allauth.account", "allauth.socialaccount", "allauth.socialaccount.providers.openid_connect"]
MIDDLEWARE: Final = "allauth.account.middleware.AccountMiddleware"
BACKEND: Final = "allauth.account.auth_backends.AuthenticationBackend"
CONTEXT: Final = "tokenhub.sso.page"
PROVIDER_ID: Final = "sso"
RESERVED_NAMES: Final = ["admin", "admin-token"]
"""Of `tokenhub.login` and `tokenhub.admin_token`, which make these users superusers."""


def allauth(*, issuer: str, client_id: str, secret: str, title: str, secure: bool) -> Mapping[str, Any]:
    """Settings by name."""
    app = {
        "provider_id": PROVIDER_ID, "name": title, "client_id": client_id, "secret": secret,
        "settings": {"server_url": issuer, "oauth_pkce_enabled": True},
    }  # fmt: skip
    return {
        "LOGIN_URL": "/accounts/login/",
        "ACCOUNT_ADAPTER": "tokenhub.sso.Accounts",
        "ACCOUNT_EMAIL_VERIFICATION": "none",
        "ACCOUNT_SESSION_REMEMBER": True,
        "ACCOUNT_SESSION_COOKIE_AGE": 43_200,  # as the settings' own; allauth's would be three weeks
        "ACCOUNT_UNIQUE_EMAIL": False,
        "ACCOUNT_LOGIN_METHODS": {"username"},
        "ACCOUNT_SIGNUP_FIELDS": ["username*", "password1*", "password2*"],
        "ACCOUNT_USERNAME_BLACKLIST": RESERVED_NAMES,
        "ACCOUNT_DEFAULT_HTTP_PROTOCOL": "https" if secure else "http",
        "ACCOUNT_LOGOUT_REDIRECT_URL": "/admin/",
        "SOCIALACCOUNT_ADAPTER": "tokenhub.sso.SocialAccounts",
        "SOCIALACCOUNT_AUTO_SIGNUP": True,
        "SOCIALACCOUNT_LOGIN_ON_GET": True,  # a link: a form may post nowhere but here, by the content policy
        "SOCIALACCOUNT_EMAIL_AUTHENTICATION": False,
        "SOCIALACCOUNT_STORE_TOKENS": False,
        "SOCIALACCOUNT_PROVIDERS": {"openid_connect": {"APPS": [app] if issuer else []}},
        "MFA_SUPPORTED_TYPES": ["totp", "recovery_codes"],
        "MFA_TOTP_ISSUER": "TokenHub",
    }
