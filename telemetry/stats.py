"""Totals of the request log over a window that ends now: requests, errors, tokens, cost, latency.
Bounded whatever the log holds: the newest ROWS requests of the window at most, found by the index of their moment."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.db.models import Avg, Count, Max, Q, QuerySet, Sum

from telemetry.models import RequestLog

ROWS: Final = 50_000
_PERCENTILES: Final = (50, 95, 99)
_TOKENS: Final = ("input", "cached_input", "cache_write", "output", "reasoning", "total")
_SUMS: Final[dict[str, Any]] = {
    "requests": Count("pk"),
    "errors": Count("pk", filter=Q(status__gte=400)),
    "cost": Sum("cost_usd"),
    "latency": Avg("latency_ms"),
    "slowest": Max("latency_ms"),
    **{f"sum_{name}": Sum(f"{name}_tokens") for name in _TOKENS},
}


def totals(*, now: datetime, window: timedelta, filters: dict[str, str]) -> dict[str, Any]:
    """`filters`: fields of a row, by equality. `complete` is false when the window holds more than was looked at; then
    `from` is the moment of the oldest that was."""
    since = now - window
    found = RequestLog.objects.filter(created_at__gte=since, created_at__lt=now, **filters)
    beyond = found.order_by("-created_at").values_list("created_at", flat=True)[ROWS : ROWS + 1]
    limit = next(iter(beyond), None)
    if limit is not None:
        since = limit
        found = found.filter(created_at__gt=limit)
    whole = _figures(found.aggregate(**_SUMS))
    return {
        "from": since,
        "to": now,
        "complete": limit is None,
        **whole,
        "latency_ms": {**whole["latency_ms"], **_percentiles(found, whole["requests"])},
        "by_model": _grouped(found, "model_id", "provider_id"),
        "by_provider": _grouped(found, "provider_id"),
    }


def _grouped(found: QuerySet[RequestLog], *names: str) -> list[dict[str, Any]]:
    """Those that a request went to, the busiest first; a refusal went to none."""
    served = found.exclude(**{names[0]: ""}).order_by().values(*names)
    rows = served.annotate(**_SUMS).order_by("-requests", *names)
    return [{name: row[name] for name in names} | _figures(row) for row in rows]


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    requests = row["requests"]
    return {
        "requests": requests,
        "errors": row["errors"],
        "error_rate": round(row["errors"] / requests, 6) if requests else 0.0,
        "cost_usd": float(row["cost"] or Decimal(0)),
        "tokens": {name: row[f"sum_{name}"] or 0 for name in _TOKENS},
        "latency_ms": {
            "avg": None if row["latency"] is None else round(row["latency"], 1),
            "max": row["slowest"],
        },
    }


def _percentiles(found: QuerySet[RequestLog], requests: int) -> dict[str, int | None]:
    """The smallest latency that so many percent do not exceed."""
    if not requests:
        return {f"p{one}": None for one in _PERCENTILES}
    sorted_ms = sorted(found.order_by().values_list("latency_ms", flat=True))
    return {f"p{one}": sorted_ms[max(0, -(-len(sorted_ms) * one // 100) - 1)] for one in _PERCENTILES}
