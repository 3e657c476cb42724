"""What is wrong now, the worst first, each with the page where it can be put right. A handful of queries, none of which
looks at a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import time
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.db.models import F, FloatField, Q
from django.db.models.functions import Cast
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.timesince import timesince

from keys.models import NANO, BudgetPeriod, ClientKey, Subject
from providers.outcomes import ErrorClass
from routing.errors import CODES
from routing.health_store import health_report
from routing.models import Model
from routing.runtime import journal_folder
from routing.words import UNPRICED
from telemetry.money import dollars
from telemetry.tsdb.overview import failing
from tokenhub.gauges import backlog
from tokenhub.models import JobState, Outcome
from vault.keyring import KEYRING
from vault.models import VaultState

BAD: Final = "bad"
WARN: Final = "warn"
NOTE: Final = "note"
LAG_SECONDS: Final = 30.0
LAG_BAD_SECONDS: Final = 300.0
NEAR_PERCENT: Final = 80
SPENT_PERCENT: Final = 100
CLIENTS: Final = {code for code, (status, _) in CODES.items() if status < 500} - {
    "upstream_rate_limited", "output_schema_mismatch",
} | {ErrorClass.INVALID_REQUEST.value, ErrorClass.CONTEXT_OVERFLOW.value}  # fmt: skip
"""Errors that whoever asks can avoid, by their codes and classes: no failure of a provider, nor of TokenHub."""
STRANGERS: Final = ("missing_api_key", "invalid_api_key")
FAILING_MINUTES: Final = 15
FAILING_REQUESTS: Final = 10
FAILING_SHARE: Final = 0.05
FAILING_BAD_SHARE: Final = 0.25
NAMED: Final = 5
CAUSES: Final = 3
MOST: Final = 20
"""Of a kind: who has more than that on fire reads the lists."""


class Trouble(NamedTuple):
    level: str
    what: str
    detail: str
    url: str
    where: str


class State(NamedTuple):
    """`facts`: what was looked at and is well, for a page that has nothing to complain about. `notes`: what is nobody's
    trouble here, and worth a look."""

    troubles: list[Trouble]
    facts: list[str]
    notes: list[Trouble]


def state(user: Any) -> State:
    """Of what the user may see. Raises DatabaseError."""
    found: list[Trouble] = []
    facts: list[str] = []
    found += _vault()
    if not found:
        facts.append("the vault is open")
    if user.has_perm("providers.view_provider"):
        report = health_report()["providers"]
        found += _health(report)
        facts.append(f"{len(report)} provider{'s' if len(report) != 1 else ''} watched")
    if user.has_perm("routing.view_model"):
        found += _unpriced()
    notes: list[Trouble] = []
    if user.has_perm("telemetry.view_sample"):
        failures, notes = _failures()
        found += failures
    if user.has_perm("keys.view_budget"):
        found += _budgets()
    lag = lag_seconds()
    found += _ingestion(lag)
    facts.append("the request log is up to date" if lag < 1 else f"the request log is {lag:.0f} s behind")
    if user.has_perm("tokenhub.view_jobstate"):
        found += _jobs()
    return State(sorted(found, key=lambda one: one.level != BAD), facts, notes)


def lag_seconds() -> float:
    """The age of the oldest request that is not in the log yet."""
    ((_, seconds),) = backlog(journal_folder())["tokenhub_journal_lag_seconds"]
    return seconds if isinstance(seconds, float) else 0.0


def _vault() -> Iterator[Trouble]:
    if KEYRING.is_open:
        return
    page = reverse("admin:vault_vaultstate_changelist")
    if VaultState.objects.exists():
        yield Trouble(BAD, "The vault is locked", "Providers with a credential cannot be asked.", page, "Unlock it")
    else:
        yield Trouble(WARN, "The vault has no password yet", "It keeps credentials encrypted.", page, "Set it up")


def _health(report: list[dict[str, Any]]) -> Iterator[Trouble]:
    for provider in report:
        name = provider["provider_id"]
        page = reverse("admin:providers_provider_change", args=[quote(name)])
        if provider["state"] == "down":
            yield Trouble(BAD, f"{name} is down", _why(provider), page, "Provider")
        elif provider["state"] == "degraded" and all(one["state"] == "healthy" for one in provider["models"]):
            yield Trouble(WARN, f"{name} is degraded", _why(provider), page, "Provider")
        troubled = [one for one in provider["models"] if one["state"] != "healthy"]
        for model in troubled[:MOST] if provider["state"] != "down" else []:
            page = reverse("admin:routing_model_change", args=[quote(model["model_id"])])
            level = BAD if model["state"] == "down" else WARN
            word = "cools down" if model["cooldown_until"] and level == WARN else f"is {model['state']}"
            yield Trouble(level, f"{model['model_id']} at {name} {word}", _why(model), page, "Model")


def _why(told: dict[str, Any]) -> str:
    parts = [f"{told['consec_errors']} errors in a row"] if told["consec_errors"] > 1 else []
    parts += [str(told["last_error"])] if told["last_error"] else []
    until = parse_datetime(told["cooldown_until"]) if told["cooldown_until"] else None
    if until is not None and until > timezone.now():
        seconds = (until - timezone.now()).total_seconds()
        parts.append(f"asked again in {seconds:.0f} s")
    last = parse_datetime(told["last_success_at"]) if told["last_success_at"] else None
    parts.append(f"last success {timesince(last)} ago" if last is not None else "no success yet")
    return "; ".join(parts) + "."


def _failures() -> tuple[list[Trouble], list[Trouble]]:
    """Troubles, and notes of what clients did wrong themselves. The tile counts both, and strangers, too."""
    requests, errors = failing(until=int(time()) + 1, minutes=FAILING_MINUTES)
    for name in STRANGERS:  # whoever scans the internet shall raise no alarm
        requests -= errors.pop(name, 0)
    theirs = {name: errors.pop(name) for name in CLIENTS & errors.keys()}
    total, refused = sum(errors.values()), sum(theirs.values())
    log = reverse("admin:telemetry_requestlog_changelist") + "?"
    troubles: list[Trouble] = []
    notes: list[Trouble] = []
    if requests < FAILING_REQUESTS:
        return troubles, notes
    if total >= FAILING_SHARE * requests:
        level = BAD if total >= FAILING_BAD_SHARE * requests else WARN
        detail = f"{total} of {requests} in {FAILING_MINUTES} minutes: {_causes(errors)}."
        if refused:
            detail += f" Not among them, but in the figure of errors: {refused} by what clients sent."
        page = log + urlencode({"outcome": "failed"})
        troubles.append(
            Trouble(level, f"{_percent(total, requests)} of the requests fail", detail, page, "Failed requests")
        )
    if refused >= FAILING_SHARE * requests:
        detail = (
            f"{refused} of {requests} in {FAILING_MINUTES} minutes: {_causes(theirs)}. No provider failed in these."
        )
        what = f"{_percent(refused, requests)} of the requests are refused for what clients sent or may spend"
        notes.append(Trouble(NOTE, what, detail, log + urlencode({"outcome": "client"}), "Refused requests"))
    return troubles, notes


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


def _causes(counts: Mapping[str, int]) -> str:
    """The most frequent ones, and how many requests had others."""
    found = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    named = ", ".join(f"{count} {name}" for name, count in found[:CAUSES])
    rest = sum(count for _, count in found[CAUSES:])
    return f"{named} and {rest} other{'s' if rest != 1 else ''}" if rest else named


def _budgets() -> Iterator[Trouble]:
    now = timezone.now()
    share = Cast("settled_nano", FloatField()) / (Cast("budget__amount_usd", FloatField()) * NANO + 0.001)
    near = (
        BudgetPeriod.objects.filter(
            Q(ends_at__isnull=True) | Q(ends_at__gt=now), starts_at__lte=now, every=F("budget__every")
        )
        .annotate(share=share)
        .filter(share__gte=NEAR_PERCENT / 100 - 1e-9)
        .select_related("budget")
        .order_by("-share")[:MOST]
    )
    periods = list(near)
    ids = [one.budget.subject_id for one in periods if one.budget.subject == Subject.KEY]
    names = (
        {str(pk): name for pk, name in ClientKey.objects.filter(pk__in=ids).values_list("pk", "name")} if ids else {}
    )
    for period in periods:
        budget, percent = period.budget, int(100 * period.share + 1e-4)
        spent = percent >= SPENT_PERCENT
        name = Subject(budget.subject).label.lower()
        name += f" {names.get(budget.subject_id, budget.subject_id)}" if budget.subject_id else ""
        yield Trouble(
            BAD if spent else WARN,
            f"The budget of {name} is {'spent' if spent else f'spent to {percent} %'}",
            f"{dollars(period.settled_nano / NANO)} of {dollars(budget.amount_usd)} per {budget.every}"
            + (f"; anew in {timesince(now, period.ends_at)}." if period.ends_at is not None else "."),
            reverse("admin:keys_budget_change", args=[budget.pk]),
            "Budget",
        )


def _unpriced() -> Iterator[Trouble]:
    names = list(
        Model.objects.filter(enabled=True, provider__enabled=True)
        .unpriced(timezone.now())
        .order_by("pk")
        .values_list("pk", flat=True)[: MOST + 1]
    )
    if not names:
        return
    count = (
        f"More than {MOST} models have"
        if len(names) > MOST
        else (f"{len(names)} models have" if len(names) > 1 else f"{names[0]} has")
    )
    listed = f"{', '.join(names[:NAMED])}{' and others' if len(names) > NAMED else ''}. " if len(names) > 1 else ""
    page = reverse("admin:routing_model_changelist") + "?priced=no"
    yield Trouble(WARN, f"{count} no price", f"{listed}{UNPRICED}", page, "Models")


def _ingestion(lag: float) -> Iterator[Trouble]:
    if lag >= LAG_SECONDS:
        yield Trouble(
            BAD if lag >= LAG_BAD_SECONDS else WARN,
            f"The request log is {lag:.0f} s behind",
            "Requests are answered and charged, but the figures below and the log lack the newest ones.",
            reverse("admin:tokenhub_jobstate_changelist"),
            "Background jobs",
        )


def _jobs() -> Iterator[Trouble]:
    for job in JobState.objects.filter(last_outcome=Outcome.FAILED).order_by("name")[:MOST]:
        page = reverse("admin:tokenhub_jobstate_change", args=[job.pk])
        yield Trouble(WARN, f"The job {job} failed", job.last_result[:200], page, "Job")
