"""The newest requests of the log, of which a bounded number is read, by the index of their moment: for pages that show
what the time series do not know."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from telemetry.events import SILENT_ENDPOINTS
from telemetry.models import RequestLog
from telemetry.sketch import bucket_of, encode
from telemetry.tsdb.overview import Figures
from telemetry.tsdb.totals import CLIENT_LEFT, LARGEST

ROWS: Final = 10_000
TOLD: Final = (
    "request_id", "endpoint", "api_key_name", "project", "requested_model", "alias", "mode", "model_id", "provider_id",
    "status", "routing_reason", "error_class", "error_code", "stream", "input_tokens", "output_tokens", "cost_usd",
    "latency_ms", "time_to_first_chunk_ms", "attempts", "client_disconnected",
)  # fmt: skip
"""By the names that they have in events, too."""
NANO: Final = 1_000_000_000


class Sample(NamedTuple):
    """`keys`: id, name and figures, the busiest first. `back_to`: the oldest request that was looked at, where the
    window holds more than ROWS."""

    keys: list[tuple[str, str, Figures]]
    back_to: datetime | None


def by_key(*, since: int) -> Sample:
    """Of what came since that second."""
    newest = RequestLog.objects.filter(created_at__gte=datetime.fromtimestamp(since, UTC)).order_by("-created_at")
    rows = newest.values_list(
        "api_key_id", "api_key_name", "status", "cost_usd", "input_tokens", "output_tokens", "model_id",
        "latency_ms", "time_to_first_chunk_ms",
    )[:ROWS]  # fmt: skip
    found: defaultdict[str, Figures] = defaultdict(Figures)
    times: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    names: dict[str, str] = {}
    count = 0
    for key, name, status, cost, asked, answered, model, latency, first in rows:
        count += 1
        names.setdefault(key, name)
        failed = int(status >= 400 and status != CLIENT_LEFT)
        found[key].count((1, failed, int(cost * NANO) if cost is not None else 0, asked, answered))
        latencies, firsts = times[key]
        if model:
            latencies.append(latency)
        if first is not None:
            firsts.append(first)
    for key, (latencies, firsts) in times.items():
        found[key].latency.add(_sketch(latencies))
        found[key].first_chunk.add(_sketch(firsts))
    keys = sorted(found.items(), key=lambda one: -one[1].requests)
    back_to = newest.values_list("created_at", flat=True)[ROWS - 1 : ROWS].first() if count == ROWS else None
    return Sample([(key, names[key], figures) for key, figures in keys], back_to)


def _sketch(numbers: list[int]) -> bytes:
    return encode(Counter(bucket_of(min(number, LARGEST)) for number in numbers))


def newest(*, since: datetime, most: int) -> list[dict[str, Any]]:
    """Such as an event tells of a request, with its moment, and of those that have events; the newest first."""
    found = RequestLog.objects.filter(created_at__gte=since).exclude(endpoint__in=SILENT_ENDPOINTS)
    rows = found.order_by("-created_at").values(*TOLD, "created_at")[:most]
    return [
        {**row, "cost_usd": None if row["cost_usd"] is None else float(row["cost_usd"]), "timestamp": row["created_at"]}
        for row in rows
    ]
