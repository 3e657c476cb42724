"""Which rows' changes are in the audit log, and what they are called there; and who comes and goes."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Group, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed

from keys.models import Budget, ClientKey, Project
from orchestration.models import PromptTemplate
from providers.models import Provider
from routing import changes
from routing.models import Alias, AliasVariant, Model, Price, RoutingDefaults, RoutingProfile
from telemetry import audit
from telemetry.models import Webhook
from vault.models import Secret


def connect() -> None:
    """What is told of is changed in turn: each entry locks the head of the chain, whatever is locked after it."""
    audit.watch(Provider, "provider")
    audit.watch(Model, "model")
    audit.watch(Price, "price")
    audit.watch(Alias, "alias")
    audit.watch(AliasVariant, "alias_variant")
    audit.watch(RoutingProfile, "profile")
    audit.watch(RoutingDefaults, "routing_config")
    audit.watch(ClientKey, "apikey", masked=("digest", "old_digest"))
    audit.watch(Project, "project")
    audit.watch(Budget, "budget")
    audit.watch(Secret, "secret")
    audit.watch(Webhook, "webhook")
    audit.watch(PromptTemplate, "prompt")
    audit.watch(User, "user", masked=("password",))
    audit.watch(Group, "group")
    for unseen in (Webhook, User, Group):  # the others are in the snapshot
        changes.in_turn(unseen)
    user_logged_in.connect(_opened, dispatch_uid="audit-session-open")
    user_logged_out.connect(_closed, dispatch_uid="audit-session-close")
    user_login_failed.connect(_refused, dispatch_uid="audit-session-refused")


def _opened(user: Any, **_: Any) -> None:
    audit.record("session.open", resource=f"user/{user.pk}", name=str(user), actor=str(user))


def _closed(user: Any, **_: Any) -> None:
    if user is not None:
        audit.record("session.close", resource=f"user/{user.pk}", name=str(user), actor=str(user))


def _refused(credentials: dict[str, Any], **_: Any) -> None:
    """Names that nobody has are not told: one may be a password in the wrong field."""
    name = str(credentials.get("username", ""))
    is_known = User.objects.filter(username=name[:150]).exists()
    audit.refused("session.refused", user=name if is_known else "unknown")
