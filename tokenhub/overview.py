"""The dashboard's parts, each fetched by the page for itself: what is wrong now; the figures of a window beside those
of the one before, in all and by a label. Figures come from the time series; client keys, which are no label of it, from
the newest requests, of which a bounded number is read."""

from __future__ import annotations

from datetime import UTC, datetime
from time import time
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path, reverse
from django.utils.timezone import localtime
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from telemetry import log_sample
from telemetry.money import dollars
from telemetry.tsdb.overview import WINDOWS, Figures, Overview, overview
from tokenhub import troubles

BY: Final = {
    "model": ("model_id", "Model"),
    "provider": ("provider_id", "Provider"),
    "project": ("project", "Project"),
    "key": ("api_key_id", "Client key"),
}
MOST: Final = 50
"""Rows of a table; the rest are the least busy ones."""


class Tile(NamedTuple):
    """`change`: in percent against the window before; `good`: whether it is for the better, None where neither is."""

    name: str
    value: str
    more: str
    change: float | None
    good: bool | None
    url: str


class Row(NamedTuple):
    name: str
    url: str
    figures: Figures
    change: float | None
    errors_url: str


@never_cache
@require_GET
def state(request: HttpRequest) -> HttpResponse:
    return render(request, "admin/dashboard_state.html", {"state": troubles.state(request.user)})


@never_cache
@require_GET
def figures(request: HttpRequest) -> HttpResponse:
    """`?window=1h|24h|7d|30d&by=model|provider|project|key`; others are the default."""
    if not request.user.has_perm("telemetry.view_sample"):
        raise PermissionDenied
    window = request.GET.get("window", "")
    window = window if window in WINDOWS else "24h"
    by = request.GET.get("by", "")
    by = by if by in BY and (by != "key" or request.user.has_perm("telemetry.view_requestlog")) else "model"
    field, label = BY[by]
    until = int(time()) + 1  # this second, too
    found = overview(until=until, window=WINDOWS[window], by="" if by == "key" else field)
    context: dict[str, Any] = {
        "window": window,
        "by": by,
        "label": label,
        "found": found,
        "since": datetime.fromtimestamp(found.since, UTC),
        "tiles": tiles(found),
        "points": points(found),
    }
    if by == "key":
        sample = log_sample.by_key(since=found.since)
        context["sample"] = sample
        rows = [Row(name, log(found, api_key_id=key), total, None, log(found, api_key_id=key, outcome="failed"))
                for key, name, total in sample.keys]  # fmt: skip
    else:
        rows = [
            Row(
                name, log(found, **{field: name}) if name else "", now, change(now.requests, before.requests),
                log(found, outcome="failed", **({field: name} if name else {})),
            )
            for name, now, before in found.groups
        ]  # fmt: skip
    context |= {"rows": rows[:MOST], "further": len(rows) - MOST}
    return render(request, "admin/dashboard_figures.html", context)


def tiles(found: Overview) -> list[Tile]:
    now, before = found.now, found.before
    rates = now.error_rate, before.error_rate
    return [
        Tile("Requests", f"{now.requests:,}", f"{before.requests:,} before", change(now.requests, before.requests),
             None, log(found)),
        Tile("Errors", "-" if rates[0] is None else f"{100 * rates[0]:.1f} %",
             f"{now.errors:,} failed", *_worse_if_more(*rates), log(found, outcome="failed")),
        Tile("Cost", dollars(now.cost_usd), f"{dollars(before.cost_usd)} before",
             change(now.cost_usd, before.cost_usd), None, log(found)),
        Tile("Tokens", short(now.tokens), f"{short(now.input_tokens)} in, {short(now.output_tokens)} out",
             change(now.tokens, before.tokens), None, log(found)),
        Tile("Latency, median", *_milliseconds(now.latency_ms(50), now.latency_ms(95)),
             *_worse_if_more(now.latency_ms(50), before.latency_ms(50)), log(found)),
        Tile("Latency, p95", *_milliseconds(now.latency_ms(95), None),
             *_worse_if_more(now.latency_ms(95), before.latency_ms(95)), log(found)),
        Tile("First chunk, median", *_milliseconds(now.first_chunk_ms(50), now.first_chunk_ms(95)),
             *_worse_if_more(now.first_chunk_ms(50), before.first_chunk_ms(50)), log(found, stream="1")),
        Tile("First chunk, p95", *_milliseconds(now.first_chunk_ms(95), None),
             *_worse_if_more(now.first_chunk_ms(95), before.first_chunk_ms(95)), log(found, stream="1")),
    ]  # fmt: skip


def points(found: Overview) -> dict[str, Any]:
    """Of the charts, a list for each line; a step without a request has no latency."""
    steps = found.points.values()
    return {
        "step": found.step,
        "at": list(found.points),
        "requests": [one.requests for one in steps],
        "errors": [one.errors for one in steps],
        "cost": [round(one.cost_usd, 6) for one in steps],
        "p50": [one.latency_ms(50) for one in steps],
        "p95": [one.latency_ms(95) for one in steps],
        "first": [one.first_chunk_ms(95) for one in steps],
    }


def change(now: float, before: float) -> float | None:
    """In percent; None where there was nothing before."""
    return 100 * (now - before) / before if before else None


def _worse_if_more(now: float | None, before: float | None) -> tuple[float | None, bool | None]:
    if now is None or before is None or now == before:
        return None, None
    return change(now, before), now < before


def _milliseconds(value: float | None, slowest: float | None) -> tuple[str, str]:
    more = "" if slowest is None else f"p95 {slowest:,} ms"
    return ("-", more) if value is None else (f"{value:,} ms", more)


def short(number: int) -> str:
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):,.1f} {unit}"
    return f"{number:,}"


def log(found: Overview, **filters: str) -> str:
    """The request log's page, from the beginning of the window."""
    since = localtime(datetime.fromtimestamp(found.since, UTC))
    day = {"created_at_from_0": f"{since:%Y-%m-%d}", "created_at_from_1": f"{since:%H:%M:%S}"}
    return reverse("admin:telemetry_requestlog_changelist") + "?" + urlencode(day | filters)


urlpatterns = [
    path("state/", admin.site.admin_view(state), name="dashboard-state"),
    path("figures/", admin.site.admin_view(figures), name="dashboard-figures"),
]
