"""The groups that come with TokenHub, and what they may. Each `migrate` sets their rights anew, so that an
upgrade's new rows have theirs: for other rights, make a group of your own.

Every kind of row must be named here, as one that viewers see or as one that they do not: a test asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.apps import apps as django_apps

_VERBS: Final = ("view", "add", "change", "delete")

VIEWED: Final = (
    "telemetry.requestlog", "telemetry.auditentry", "telemetry.webhook", "telemetry.webhookdelivery",
    "telemetry.sample", "telemetry.series", "telemetry.serieslevel",
    "keys.clientkey", "keys.project", "keys.budget", "keys.budgetperiod",
    "providers.provider",
    "routing.model", "routing.price", "routing.alias", "routing.aliasvariant", "routing.routingprofile",
    "routing.routingdefaults", "routing.feedback", "routing.policyevaluation",
    "orchestration.planrun", "orchestration.planleg", "orchestration.prompttemplate", "tokenhub.jobstate",
)  # fmt: skip
WITHHELD: Final = (
    "vault.vaultstate", "vault.secret",
    "auth.user", "auth.group", "auth.permission", "admin.logentry", "contenttypes.contenttype", "sessions.session",
    "telemetry.capture", "telemetry.journalsegment", "telemetry.keyspending", "telemetry.audithead",
    "telemetry.seriesunrolled", "keys.lease",
    "routing.healthrecord", "routing.healthnotice", "routing.banditdelta",
    "routing.configversion", "routing.idempotentcall", "tokenhub.loginlink",
    "axes.accessattempt", "axes.accesslog", "axes.accessfailurelog", "axes.accessattemptexpiration",
)  # fmt: skip
OPERATED: Final = (
    "providers.provider", "routing.model", "routing.price", "routing.alias", "routing.aliasvariant",
    "routing.routingprofile", "routing.routingdefaults", "telemetry.webhook", "telemetry.serieslevel",
    "orchestration.planrun", "orchestration.prompttemplate", "tokenhub.jobstate",
)  # fmt: skip
KEPT: Final = ("keys.clientkey", "keys.project", "keys.budget")
ADMINISTER: Final = "tokenhub.administer"
PLAY: Final = "keys.use_playground"


def _may(verbs: Iterable[str], models: Iterable[str]) -> frozenset[str]:
    return frozenset(one.replace(".", f".{verb}_") for one in models for verb in verbs)


_VIEWER: Final = _may(("view",), VIEWED)
_OPERATOR: Final = _VIEWER | _may(_VERBS, OPERATED) | {PLAY}
_KEY_MANAGER: Final = _VIEWER | _may(_VERBS, KEPT) | {PLAY}
ROLES: Final = {
    "Viewer": _VIEWER,
    "Operator": _OPERATOR,
    "Key manager": _KEY_MANAGER,
    "Admin": _OPERATOR | _KEY_MANAGER | _may(_VERBS, ("auth.user", "auth.group")) | _may(("view",), WITHHELD[:2])
    | _may(("view",), ("telemetry.capture",)) | {ADMINISTER},
}  # fmt: skip


def install(using: str, apps: Any = django_apps, **_: Any) -> None:
    """After each migrate: permissions are made by it, too. Says nothing to the audit log, for nobody did it.
    A flush names no `apps`."""
    try:
        group_model, permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    except LookupError:  # halfway back in the history
        return
    links = group_model.permissions.through
    known = {
        f"{app}.{codename}": pk
        for pk, app, codename in permission.objects.using(using).values_list(
            "pk", "content_type__app_label", "codename"
        )
    }
    for name, rights in ROLES.items():
        groups = group_model.objects.using(using)
        if not groups.filter(name=name).exists():
            groups.bulk_create([group_model(name=name)], ignore_conflicts=True)
        group = groups.get(name=name)
        wanted = {known[one] for one in rights if one in known}
        held = set(links.objects.using(using).filter(group_id=group.pk).values_list("permission_id", flat=True))
        links.objects.using(using).filter(group_id=group.pk, permission_id__in=held - wanted).delete()
        links.objects.using(using).bulk_create(
            [links(group_id=group.pk, permission_id=one) for one in sorted(wanted - held)], ignore_conflicts=True
        )
