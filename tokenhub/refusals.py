"""Who refused a request for how much was asked: a budget or a rate limit, as it was at that moment. From the row
alone."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.utils.timezone import localtime

from telemetry import money
from telemetry.models import RequestLog

_LIMITS: Final = {
    "rps": "Requests per second", "rpm": "Requests per minute", "tpm": "Tokens per minute",
    "concurrency": "Open requests", "address": "Requests per second",
}  # fmt: skip


class Refusal(NamedTuple):
    """`facts`: what is told of the budget that could not pay, and how much; or of the rate limit. `url`: where that is
    set, if anywhere, for whoever has the permission `needs`."""

    sentence: str
    facts: list[tuple[str, str]]
    url: str = ""
    link: str = ""
    needs: str = ""


def refusal(row: RequestLog) -> Refusal | None:
    """Which rate limit refused it, or why no budget paid it; as it was at that moment."""
    told = row.detail.get("refusal", {})
    if row.error_code == "rate_limit_exceeded":
        return _rate_limit(row, told)
    if row.error_code != "budget_exceeded":
        return None
    place = reverse("admin:keys_budget_changelist"), "Budgets as they are now", "keys.view_budget"
    if not told:
        return Refusal("A budget could not pay it. Which one, was not noted.", [], *place)
    whole, spent, needed = (float(told.get(f"{name}_usd", 0.0)) for name in ("budget", "spent", "needed"))
    rest = max(whole - spent, 0.0)
    is_held = needed <= rest
    facts = [
        ("Budget", f"{money.dollars(whole)} per {told.get('period', '')}"),
        ("Spent at that moment", money.dollars(spent)),
        ("Not spent yet", f"{money.dollars(rest)}{', but held for requests under way' if is_held else ''}"),
        ("Needed for this request, at least", money.dollars(needed)),
        ("Begins anew", _local(told.get("resets_at")) or "never"),
    ]
    why = (
        "what was left was held for requests under way, which give back what they do not use"
        if is_held
        else "less was left than the request may cost"
    )
    return Refusal(f"The budget of {told.get('budget') or 'its payer'} could not pay it: {why}.", facts, *place)


def _rate_limit(row: RequestLog, told: dict[str, Any]) -> Refusal:
    if not told:
        return Refusal("A rate limit refused it. Which one, was not noted.", [])
    name, value, at_once = _LIMITS[told["limit"]], told.get("value", 0), told.get("at_once")
    place: tuple[str, str, str] = ("", "", "")
    if told["limit"] == "address":
        whose = f"the address {told.get('address', '')}"
    elif project := told.get("project", ""):
        whose = f"the project {project}"
        place = reverse("admin:keys_project_change", args=[quote(project)]), "The project", "keys.view_project"
    else:
        whose = f"the client key {row.api_key_name}"
        place = reverse("admin:keys_clientkey_change", args=[row.api_key_id]), "The client key", "keys.view_clientkey"
    facts = [
        ("Limit", name),
        ("Of", whose),
        ("Its value", _number(value) + (f", {_number(at_once)} at once" if at_once else "")),
        ("Free again after", f"{told.get('wait_seconds', 0.0):,.1f} s"),
    ]
    if told["limit"] == "address":
        facts.append(("Set by", "TOKENHUB_RATE_LIMIT_RPS, TOKENHUB_RATE_LIMIT_BURST"))
    return Refusal(f"The limit of {name.lower()} of {whose} was reached.", facts, *place)


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"


def _local(moment: Any) -> str:
    at = parse_datetime(moment) if isinstance(moment, str) else None
    return "" if at is None else f"{localtime(at):%Y-%m-%d %H:%M}"
