"""How models do beside one another over a window up to now: one query of the time series for all their measures. Its
cost grows with the series and the spans, and never with the requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from telemetry.tsdb.metrics import NANO
from telemetry.tsdb.models import SeriesUnrolled, Span
from telemetry.tsdb.overview import Spread, cover
from telemetry.tsdb.query import Piece
from telemetry.tsdb.store import chunks, levels

_SUMS: Final = (
    "requests", "errors", "cost_nano_sum", "cost_nano_count", "input_tokens_sum", "output_tokens_sum",
    "reward_nano_sum", "reward_nano_count",
)  # fmt: skip
_SKETCHES: Final = ("latency_ms_sketch", "time_to_first_chunk_ms_sketch")


@dataclass(slots=True)
class Leader:
    """A model's figures. A mean or percentile is None where nothing was measured."""

    model_id: str
    provider_id: str
    sums: Sequence[int]
    latency: Spread = field(repr=False)
    first_chunk: Spread = field(repr=False)

    @property
    def requests(self) -> int:
        return self.sums[0]

    @property
    def success(self) -> float | None:
        return 1 - self.sums[1] / self.sums[0] if self.sums[0] else None

    @property
    def percent(self) -> float | None:
        """Of requests that succeeded."""
        return None if self.success is None else 100 * self.success

    @property
    def cost_usd(self) -> float:
        return self.sums[2] / NANO

    @property
    def cost_of_one(self) -> float | None:
        return self.sums[2] / self.sums[3] / NANO if self.sums[3] else None

    @property
    def tokens(self) -> int:
        return self.sums[4] + self.sums[5]

    @property
    def reward(self) -> float | None:
        return self.sums[6] / self.sums[7] / NANO if self.sums[7] else None

    @property
    def rewards(self) -> int:
        return self.sums[7]

    @property
    def p50(self) -> float | None:
        return self.latency.percentile(50)

    @property
    def p95(self) -> float | None:
        return self.latency.percentile(95)

    @property
    def first_p50(self) -> float | None:
        return self.first_chunk.percentile(50)


def leaders(*, until: int, seconds: int) -> list[Leader]:
    """Of models that a request reached, the busiest first. `until`: seconds since 1970. Raises DatabaseError."""
    from telemetry.tsdb.gather import Table

    until += -until % Span.MINUTE
    since = until - seconds
    pruned = {Span(span): level.pruned_until for span, level in levels().items()}
    marks: dict[Span, list[int]] = {one: [] for one in Span}
    unrolled = SeriesUnrolled.objects.filter(at__gte=since - since % Span.DAY, at__lt=until)
    for span, at in unrolled.values_list("span", "at"):
        marks[Span(span)].append(at)
    table = Table(len(_SUMS), len(_SKETCHES))
    table.take(_read(cover(since, until, marks, pruned)))
    count = len(table.labels)
    sums = zip(*table.sums(table.codes, count), strict=True)
    spreads = zip(*(map(Spread, table.sketches(one, table.codes, count)) for one in range(len(_SKETCHES))), strict=True)
    found = [
        Leader(model, provider, some, latency, first)
        for (model, provider), some, (latency, first) in zip(table.labels, sums, spreads, strict=True)
    ]
    return sorted(found, key=lambda one: (-one.requests, one.model_id))


def _read(parts: Sequence[Piece]) -> Iterator[list[tuple[Any, ...]]]:
    names = ", ".join(f"sample.{one}" for one in (*_SUMS, *_SKETCHES))
    columns = f"sample.at, series.model_id, series.provider_id, {names}"
    for rows in chunks(columns, parts, only=" AND series.model_id <> ''"):
        yield [(at, (model, provider), *row) for at, model, provider, *row in rows]
