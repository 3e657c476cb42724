"""Totals of the request log over a window that ends now: requests, errors, tokens, cost, latency.
Bounded whatever the log holds: the newest ROWS requests of the window at most, found by the index of their moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, Max, Q, QuerySet, Sum

from telemetry.models import RequestLog
from telemetry.search import equal

ROWS: Final = 30_000
_PERCENTILES: Final = (50, 95, 99)
_TOKENS: Final = ("input", "cached_input", "cache_write", "output", "reasoning", "total")
_SUMS: Final[dict[str, Any]] = {
    "requests": Count("pk"),
    "errors": Count("pk", filter=Q(status__gte=400)),
    "cost": Sum("cost_usd"),
    "latency": Sum("latency_ms"),
    **{name: Sum(f"{name}_tokens") for name in _TOKENS},
}


def totals(*, now: datetime, window: timedelta, filters: dict[str, str]) -> dict[str, Any]:
    """`filters`: fields of a row, by equality. `complete` is false when the window holds more than was looked at; then
    `from` is the moment of the oldest that was."""
    since = now - window
    terms = [equal(name, value) for name, value in filters.items()]
    conditions = [one.rest if place or one.lead is None else one.lead for place, one in enumerate(terms)]
    found = RequestLog.objects.filter(*conditions, created_at__gte=since, created_at__lt=now)
    beyond = found.order_by("-created_at").values_list("created_at", flat=True)[ROWS : ROWS + 1]
    limit = next(iter(beyond), None)
    if limit is not None:
        since = limit
        found = found.filter(created_at__gt=limit)
    by_target = found.order_by().values("model_id", "provider_id")
    rows = by_target.annotate(**_SUMS, slowest=Max("latency_ms"))  # one pass: they are wide, and anywhere on the disk
    groups = [{**row} for row in rows]
    whole = _figures(groups)
    return {
        "from": since,
        "to": now,
        "complete": limit is None,
        **whole,
        "latency_ms": {**whole["latency_ms"], **_percentiles(found, whole["requests"])},
        "by_model": _grouped(groups, "model_id", "provider_id"),
        "by_provider": _grouped(groups, "provider_id"),
    }


def _grouped(groups: Iterable[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Those that a request went to, the busiest first; a refusal went to none."""
    alike: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for one in groups:
        if one[names[0]]:
            alike[tuple(one[name] for name in names)].append(one)
    rows = [dict(zip(names, values, strict=True)) | _figures(some) for values, some in alike.items()]
    return sorted(rows, key=lambda row: (-row["requests"], *(row[name] for name in names)))


def _figures(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sums = {name: sum(one[name] or 0 for one in groups) for name in _SUMS}
    requests = sums["requests"]
    return {
        "requests": requests,
        "errors": sums["errors"],
        "error_rate": round(sums["errors"] / requests, 6) if requests else 0.0,
        "cost_usd": float(sums["cost"]),
        "tokens": {name: sums[name] for name in _TOKENS},
        "latency_ms": {
            "avg": round(sums["latency"] / requests, 1) if requests else None,
            "max": max((one["slowest"] for one in groups), default=None),
        },
    }


def _percentiles(found: QuerySet[RequestLog], requests: int) -> dict[str, int | None]:
    """The smallest latency that so many percent do not exceed."""
    if not requests:
        return {f"p{one}": None for one in _PERCENTILES}
    sorted_ms = sorted(found.order_by().values_list("latency_ms", flat=True))
    return {f"p{one}": sorted_ms[max(0, -(-len(sorted_ms) * one // 100) - 1)] for one in _PERCENTILES}
