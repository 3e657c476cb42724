"""Rolls minutes up to hours and hours to days, and drops what is older than its level keeps. Each step is one
transaction under the writers' lock and can be repeated: a span is computed anew from all that it is made of, so that
nothing is counted twice, and what came late rolls it up again. Nothing is dropped before it is rolled up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from time import time
from typing import Final

from django.db import transaction

from telemetry import audit
from telemetry.tsdb.models import SIX_HOURS, Sample, SeriesLevel, SeriesUnrolled, Span
from telemetry.tsdb.store import COARSER, COLUMNS, FINER, Key, levels, locked_levels, put
from telemetry.tsdb.totals import Totals

GRACE_SECONDS: Final = 120
"""After its end, a span gets what was still on its way."""
MAX_DAYS: Final = 36_500
_SPANS_AT_ONCE: Final = 10  # of their rows, in one transaction
_DAY: Final = Span.DAY.value


# -- rolling up ------------------------------------------------------------------------------------------------------
def roll_up(now: float | None = None, *, most: int | None = None) -> int:
    """The number of hours and days that were rolled up, oldest first; at most so many. Raises DatabaseError; what was
    committed stays."""
    now = time() if now is None else now
    done = 0
    for span in (Span.HOUR, Span.DAY):
        due = SeriesUnrolled.objects.filter(span=span, at__lte=now - span - GRACE_SECONDS).order_by("at")
        for at in due.values_list("at", flat=True)[: None if most is None else most - done]:
            done += _roll(span, at)
    return done


def _roll(span: Span, at: int) -> int:
    finer = FINER[span]
    with transaction.atomic():
        locked_levels()
        parts = SeriesUnrolled.objects.filter(span=finer, at__gte=at, at__lt=at + span)
        mark = SeriesUnrolled.objects.filter(span=span, at=at)
        if not mark.exists() or parts.exists():
            return 0
        put(_sums(finer, at, at + span, SIX_HOURS if span is Span.DAY else span))
        if span is Span.DAY:
            put(_sums(SIX_HOURS, at, at + span, span))
        mark.delete()
    return 1


def _sums(finer: int, start: int, end: int, span: int) -> Mapping[Key, Totals]:
    rows: defaultdict[Key, Totals] = defaultdict(Totals)
    found = Sample.objects.filter(span=finer, at__gte=start, at__lt=end)
    for series, at, *row in found.values_list("series", "at", *COLUMNS).iterator():
        rows[span, at - at % span, series].merge(row)
    return rows


# -- dropping --------------------------------------------------------------------------------------------------------
def prune(now: float | None = None, *, most: int | None = None) -> int:
    """Drops the rows that are older than their level keeps, in small steps; at most so many of these. The number of
    rows. Raises DatabaseError; what was committed stays."""
    now = time() if now is None else now
    dropped = steps = 0
    untils = {int(span): _close(span, now) for span in Span}
    for span, until in {**untils, SIX_HOURS: untils[Span.HOUR]}.items():
        old = Sample.objects.filter(span=span, at__lt=until).order_by("at")
        while most is None or steps < most:
            first = old.values_list("at", flat=True).first()
            if first is None:
                break
            with transaction.atomic():
                dropped += old.filter(at__lt=first + _SPANS_AT_ONCE * span).order_by().delete()[0]
            steps += 1
    return dropped


def _close(span: Span, now: float) -> int:
    """Until when rows of the level may be dropped. From then on nothing reads or writes them."""
    above = COARSER.get(span, span)
    with transaction.atomic():
        level = locked_levels()[span]
        until = int(now) - level.days * _DAY
        if above is not span:
            waiting = SeriesUnrolled.objects.filter(span=above).order_by("at").values_list("at", flat=True).first()
            until = until if waiting is None else min(until, waiting)
        until -= until % above
        if until > level.pruned_until:
            level.pruned_until = until
            level.save()
    return level.pruned_until


# -- how long --------------------------------------------------------------------------------------------------------
class TooShort(ValueError):
    """A level would be kept for less than the one below it. Its argument is the level."""


def retention() -> dict[Span, int]:
    """In days."""
    return {Span(span): level.days for span, level in levels().items()}


def set_retention(*, days: Mapping[Span, int]) -> None:
    """Of the levels that are named. Raises TooShort."""
    with transaction.atomic():
        kept = locked_levels()
        changes = {}
        for span, wanted in days.items():
            if kept[span].days != wanted:
                changes[f"{Span(span).name.lower()}_days"] = [kept[span].days, wanted]
                kept[span].days = wanted
        for span, above in COARSER.items():
            if kept[above].days < kept[span].days:
                raise TooShort(above if above in days and span not in days else span)
        if changes:
            SeriesLevel.objects.bulk_update(kept.values(), ["days"])
            audit.record("tsdb.retention", resource="tsdb/retention", changes=changes)
