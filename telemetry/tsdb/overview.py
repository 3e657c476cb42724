"""What the dashboard shows of the time series: a window up to now beside the one before it, in all and by a label, and
in steps for charts. One query reads all measures of a window; its cost grows with the series and the steps, and never
with the requests."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import connection

from telemetry.sketch import Sketch, add_to, merged, percentile, told
from telemetry.tsdb.metrics import NANO
from telemetry.tsdb.models import SIX_HOURS, Sample, Series, SeriesUnrolled, Span
from telemetry.tsdb.query import Piece, pieces
from telemetry.tsdb.store import chunks, levels, table_of

if TYPE_CHECKING:
    from telemetry.tsdb.gather import Array, Table


class Window(NamedTuple):
    seconds: int
    step: int


WINDOWS: Final = {
    "1h": Window(3600, 60),
    "24h": Window(86_400, 3600),
    "7d": Window(7 * 86_400, 6 * 3600),
    "30d": Window(30 * 86_400, 86_400),
}
LABELS: Final = ("model_id", "provider_id", "project", "mode", "error_class")
_SUMS: Final = ("requests", "errors", "cost_nano_sum", "input_tokens_sum", "output_tokens_sum")
_SKETCHES: Final = ("latency_ms_sketch", "time_to_first_chunk_ms_sketch")


class Spread:
    """What percentiles need of one measure; sketches are put together once, when the first is asked for. `counts`: as
    telemetry.tsdb.gather has them."""

    __slots__ = ("_counts", "_sketch", "_waiting")

    def __init__(self, counts: Array | None = None) -> None:
        self._counts = counts
        self._sketch: Sketch = {}
        self._waiting: list[bytes] = []

    def add(self, encoded: bytes) -> None:
        if encoded:
            self._waiting.append(encoded)

    def sketch(self) -> Sketch:
        if self._counts is not None:
            from telemetry.tsdb.gather import sketch_of

            self._sketch, self._counts = sketch_of(self._counts), None
        if self._waiting:
            add_to(self._sketch, merged(self._waiting))
            self._waiting = []
        return self._sketch

    def add_all(self, others: Iterable[Spread]) -> None:
        for one in others:
            add_to(self._sketch, one.sketch())

    def percentile(self, percent: int) -> float | None:
        found = self.sketch()
        return told(percentile(found, percent)) if found else None


@dataclass(slots=True)
class Figures:
    requests: int = 0
    errors: int = 0
    cost_nano: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    latency: Spread = field(default_factory=Spread, repr=False)
    first_chunk: Spread = field(default_factory=Spread, repr=False)

    def count(self, sums: Sequence[int]) -> None:
        """In the order of a row's columns."""
        self.requests += sums[0]
        self.errors += sums[1]
        self.cost_nano += sums[2]
        self.input_tokens += sums[3]
        self.output_tokens += sums[4]

    @property
    def cost_usd(self) -> float:
        return self.cost_nano / NANO

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None

    def latency_ms(self, percent: int) -> float | None:
        return self.latency.percentile(percent)

    def first_chunk_ms(self, percent: int) -> float | None:
        return self.first_chunk.percentile(percent)


@dataclass(frozen=True, slots=True)
class Overview:
    """`since` is the beginning of a step, so the window may be longer than its name by less than one. `before` is as
    long, and ends where it begins. `groups`: by label, the busiest first. `points`: by the beginning of their steps."""

    since: int
    until: int
    step: int
    now: Figures
    before: Figures
    groups: list[tuple[str, Figures, Figures]]
    points: dict[int, Figures]


def overview(*, until: int, window: Window, by: str = "") -> Overview:
    """`until`: the first second that is not shown, since 1970. Without `by`, there are no groups. Raises
    DatabaseError."""
    from telemetry.tsdb.gather import Table

    if by and by not in LABELS:
        raise ValueError(f"no label of a series: {by}")
    until += -until % Span.MINUTE
    since = until - window.seconds
    since -= since % window.step
    begin = 2 * since - until
    pruned = {Span(span): level.pruned_until for span, level in levels().items()}
    marks: dict[Span, list[int]] = {one: [] for one in Span}
    unrolled = SeriesUnrolled.objects.filter(at__gte=begin - begin % Span.DAY, at__lt=until)
    for span, at in unrolled.values_list("span", "at"):
        marks[Span(span)].append(at)
    days = _days_of_six_hours(since, until) if window.step == SIX_HOURS else ()
    table = Table(len(_SUMS), len(_SKETCHES))
    table.take(_read(by, cover(since, until, marks, pruned, coarsest=window.step, six_hours=days)))
    is_before = table.size
    table.take(_read(by, cover(begin, since, marks, pruned)))
    starts = range(since, until, window.step)
    steps = (table.at - since).clip(0) // window.step
    steps[is_before:] = len(starts)  # the window before is one more
    *points, before = _figures(table, steps, len(starts) + 1)
    groups = _groups(table, is_before) if by else []
    points_at = dict(zip(starts, points, strict=True))
    return Overview(since, until, window.step, _together(points), before, groups, points_at)


def _groups(table: Table, is_before: int) -> list[tuple[str, Figures, Figures]]:
    """`is_before`: from that row on."""
    places = 2 * table.codes
    places[is_before:] += 1
    parts = _figures(table, places, 2 * len(table.labels))
    found = [(name, parts[2 * place], parts[2 * place + 1]) for name, place in table.labels.items()]
    return sorted(found, key=lambda one: (-one[1].requests, -one[2].requests, one[0]))


def _figures(table: Table, places: Array, count: int) -> list[Figures]:
    """What the rows of each of so many places add up to."""
    sums = zip(*table.sums(places, count), strict=True)
    spreads = zip(*(map(Spread, table.sketches(one, places, count)) for one in range(len(_SKETCHES))), strict=True)
    return [Figures(*some, *both) for some, both in zip(sums, spreads, strict=True)]


def _together(parts: Collection[Figures]) -> Figures:
    found = Figures()
    for one in parts:
        found.count((one.requests, one.errors, one.cost_nano, one.input_tokens, one.output_tokens))
    found.latency.add_all(one.latency for one in parts)
    found.first_chunk.add_all(one.first_chunk for one in parts)
    return found


def failing(*, until: int, minutes: int) -> tuple[int, dict[str, int]]:
    """How many requests there were in the last minutes, and how many of them failed, by class of error."""
    failed: dict[str, int] = {}
    until += -until % Span.MINUTE
    requests = 0
    sql = (
        "SELECT series.error_class, SUM(sample.requests), SUM(sample.errors)"  # noqa: S608  names are our own
        f" FROM {table_of(Sample)} sample JOIN {table_of(Series)} series ON series.id = sample.series"
        " WHERE sample.span = %s AND sample.at >= %s AND sample.at < %s GROUP BY 1"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [Span.MINUTE.value, until - 60 * minutes, until])
        for name, count, errors in cursor.fetchall():
            requests += int(count)
            if errors:
                failed[name] = int(errors)
    return requests, failed


def _days_of_six_hours(since: int, until: int) -> set[int]:
    """Those that have such rows. A version before, at work beside this one, rolls days up without them."""
    found = Sample.objects.filter(span=SIX_HOURS, at__gte=since - since % Span.DAY, at__lt=until)
    return {at - at % Span.DAY for at in found.values_list("at", flat=True).distinct()}


def cover(
    start: int, end: int, marks: Mapping[Span, Sequence[int]], pruned: Mapping[Span, int], *,
    coarsest: int = Span.DAY, six_hours: Collection[int] = (),
) -> list[Piece]:  # fmt: skip
    """Spans that make up the time from start to end, whole minutes both; as few as there can be, none longer than
    `coarsest`. `six_hours`: days that are to be read from such rows, as far as they are rolled up. Where minutes are
    not kept any more, it begins with the hour or the day that holds the start."""
    finest = next((one for one in Span if start >= pruned[one]), Span.DAY)
    start -= start % finest
    found: list[Piece] = []
    _cover(start, end, max(finest, *(one for one in Span if one <= coarsest)), marks, found)
    kept = {one: pruned[Span(one.span)] for one in found}
    found = [one._replace(start=max(one.start, since)) for one, since in kept.items() if one.end > since]
    days = set(six_hours).difference(marks[Span.DAY])
    return [part for one in found for part in (_six_hours(one, days) if one.span == Span.HOUR else [one])]


def _six_hours(hours: Piece, days: Collection[int]) -> Iterator[Piece]:
    """The same time, by rows of six hours on these days."""
    at = hours.start
    while at < hours.end:
        end = min(hours.end, at - at % Span.DAY + Span.DAY)
        first, last = at + -at % SIX_HOURS, end - end % SIX_HOURS
        if at - at % Span.DAY not in days or first >= last:
            first = last = end
        parts = Piece(Span.HOUR, at, first), Piece(SIX_HOURS, first, last), Piece(Span.HOUR, last, end)
        yield from (one for one in parts if one.start < one.end)
        at = end


def _cover(start: int, end: int, span: Span, marks: Mapping[Span, Sequence[int]], found: list[Piece]) -> None:
    if start >= end:
        return
    if span is Span.MINUTE:
        found.append(Piece(span, start, end))
        return
    finer = Span.HOUR if span is Span.DAY else Span.MINUTE
    first, last = start + -start % span, end - end % span
    if first >= last:
        _cover(start, end, finer, marks, found)
        return
    _cover(start, first, finer, marks, found)
    found.extend(pieces(span, first, last, marks))
    _cover(last, end, finer, marks, found)


def _read(by: str, parts: Sequence[Piece]) -> Iterator[list[tuple[Any, ...]]]:
    return chunks(
        ", ".join(["sample.at", f"series.{by}" if by else "''", *(f"sample.{one}" for one in (*_SUMS, *_SKETCHES))]),
        parts,
    )
