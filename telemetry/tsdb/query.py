"""Answers questions to the time series. Picks the coarsest level whose spans fit into the steps; what of it is not
rolled up yet is read from the level below, so that an answer is whole at any moment. Where the minutes of the asked
time are not kept any more, the steps become as long as the spans that are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from django.db import connection

from telemetry.sketch import merged, percentile, told
from telemetry.tsdb.metrics import EMPTY_IS_ZERO, PERCENTILES, Metric
from telemetry.tsdb.models import PARTS, Sample, Series, SeriesUnrolled, Span
from telemetry.tsdb.store import FINER, levels, table_of

MAX_STEPS: Final = 11_000
MAX_POINTS: Final = 100_000
"""Of all series of an answer."""
_HOW: Final = ("SUM", "SUM", "MIN", "MAX")
_STEPS: Final = (60, 300, 900, 3600, 6 * 3600, 86_400, 7 * 86_400)
_DEFAULT_STEPS: Final = 300


class TooMany(ValueError):
    """Points. Its arguments are the parameter to blame, and a sentence."""


@dataclass(frozen=True, slots=True)
class Question:
    """Seconds since 1970. `step`: 0 for one that suits. `labels`: what series must have."""

    metric: Metric
    aggregate: str
    start: int
    end: int
    step: int = 0
    group_by: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class Line(NamedTuple):
    labels: dict[str, str]
    points: list[tuple[int, float | int | None]]


class Answer(NamedTuple):
    step: int
    lines: list[Line]


class Piece(NamedTuple):
    """`span`: a level's, or SIX_HOURS."""

    span: int
    start: int
    end: int


def ask(question: Question) -> Answer:
    """Points at multiples of the step, from the one that holds the start. Raises TooMany, DatabaseError."""
    pruned = {Span(span): level.pruned_until for span, level in levels().items()}
    step = step_of(question.start, question.end, question.step, pruned)
    start, end = question.start - question.start % step, question.end + -question.end % step
    steps = (end - start) // step
    if steps > MAX_STEPS:
        raise TooMany("step_ms", f"that makes {steps} points; at most {MAX_STEPS} are given. Take longer steps.")
    span = next(one for one in reversed(Span) if step % one == 0)
    marks: dict[Span, list[int]] = {one: [] for one in Span}
    for one, at in SeriesUnrolled.objects.filter(at__gte=start - start % Span.DAY, at__lt=end).values_list(
        "span", "at"
    ):
        marks[Span(one)].append(at)
    names = len(question.group_by)
    groups: dict[tuple[str, ...], dict[int, _Sum]] = {} if question.group_by else {(): {}}
    for piece in pieces(span, start, end, marks):
        for at, *row in _read(question, step, piece._replace(start=max(piece.start, pruned[Span(piece.span)]))):
            labels = tuple(row[:names])
            group = groups.get(labels)
            if group is None:
                group = groups[labels] = {}
                if len(groups) * steps > MAX_POINTS:
                    raise TooMany(
                        "group_by", f"that makes more than {MAX_POINTS} points. Filter, or take longer steps."
                    )
            so_far = group.get(at)
            if so_far is None:
                so_far = group[at] = _Sum()
            so_far.add(*row[names:])
    empty = 0 if question.aggregate in EMPTY_IS_ZERO else None
    return Answer(
        step,
        [
            Line(
                dict(zip(question.group_by, labels, strict=True)),
                [(at, found[at].value(question, step) if at in found else empty) for at in range(start, end, step)],
            )
            for labels, found in sorted(groups.items())
        ],
    )


def step_of(start: int, end: int, wanted: int, pruned: Mapping[Span, int]) -> int:
    """In seconds: as wanted, or one that suits; made longer until it is whole spans of a level that is kept."""
    step = wanted or next((one for one in _STEPS if (end - start) <= one * _DEFAULT_STEPS), _STEPS[-1])
    span = next((one for one in Span if start >= pruned[one]), Span.DAY)
    return step + -step % span


def pieces(span: Span, start: int, end: int, marks: Mapping[Span, Sequence[int]]) -> list[Piece]:
    """What is to be read, in the order of time: of the span's level, but for what is marked as not rolled up. Start and
    end are multiples of the span."""
    found: list[Piece] = []
    at = start
    for mark in sorted(one for one in marks[span] if start <= one < end and span in FINER):
        if at < mark:
            found.append(Piece(span, at, mark))
        for piece in pieces(FINER[span], mark, mark + span, marks):
            if found and found[-1].span == piece.span and found[-1].end == piece.start:
                found[-1] = found[-1]._replace(end=piece.end)
            else:
                found.append(piece)
        at = mark + span
    if at < end:
        found.append(Piece(span, at, end))
    return found


class _Sum:
    __slots__ = ("count", "largest", "least", "sketches", "total")

    def __init__(self) -> None:
        self.count = self.total = self.least = self.largest = 0
        self.sketches: list[bytes] = []

    def add(self, count: Any, total: Any, least: int = 0, largest: int = 0, sketch: bytes = b"") -> None:
        """PostgreSQL's sums are Decimals."""
        if not self.count or least < self.least:
            self.least = least
        if largest > self.largest:
            self.largest = largest
        self.count += int(count)
        self.total += int(total)
        if sketch:
            self.sketches.append(sketch)

    def value(self, question: Question, step: int) -> float | int | None:
        aggregate, scale = question.aggregate, question.metric.scale
        match aggregate:
            case "count":
                return self.count
            case "sum":
                return _scaled(self.total, scale)
            case "rate":
                return self.total / scale / step
        if not self.count:
            return None
        match aggregate:
            case "avg":
                return self.total / self.count / scale
            case "min":
                return _scaled(self.least, scale)
            case "max":
                return _scaled(self.largest, scale)
        found = min(max(percentile(merged(self.sketches), PERCENTILES[aggregate]), self.least), self.largest)
        return _scaled(told(found), scale)


def _scaled(number: float, scale: int) -> float | int:
    return number if scale == 1 else number / scale


def _read(question: Question, step: int, piece: Piece) -> Iterator[tuple[Any, ...]]:
    """The beginning of a step, the labels to group by, and what to add there. The database sums what it can; sketches
    it cannot."""
    column = question.metric.column
    names = [f"series.{name}" for name in question.group_by]
    which = ["sample.span = %s", "sample.at >= %s", "sample.at < %s"]
    which += [f"series.{name} = %s" for name in question.labels]
    join = "JOIN {} series ON series.id = sample.series" if names or question.labels else ""
    group = f"GROUP BY {', '.join(str(number + 1) for number in range(len(names) + 1))}"
    if question.metric.is_counter:
        parts = f"SUM(sample.requests), SUM(sample.{column})"
    else:
        which.append(f"sample.{column}_count > 0")
        parts = ", ".join(f"{how}(sample.{column}_{part})" for how, part in zip(_HOW, PARTS, strict=False))
        if question.aggregate in PERCENTILES:
            parts, group = ", ".join(f"sample.{column}_{part}" for part in PARTS), ""
    sql = (
        f"SELECT {', '.join([f'sample.at - sample.at %% {step}', *names, parts])} "  # noqa: S608  names are our own
        f"FROM {table_of(Sample)} sample {join.format(table_of(Series))} WHERE {' AND '.join(which)} {group}"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [int(piece.span), piece.start, piece.end, *question.labels.values()])
        while rows := cursor.fetchmany(1000):
            yield from rows
