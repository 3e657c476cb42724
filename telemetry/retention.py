"""What is old is removed, a little at a time: requests by age and by number, deliveries of webhooks and the time series
by age.

SQLite has one writer, so rows go in chunks that hold it for HELD_SECONDS, with rests in which the ingester and
everybody else get their turn; the room they leave in the file is used again. On PostgreSQL whole months are dropped,
and only what is left over goes in chunks. Killed at any point, the next pass goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from time import monotonic, sleep
from typing import Final

from django.conf import settings
from django.db import connection
from django.db.models import Max, QuerySet
from django.db.utils import Error
from django.utils import timezone

from telemetry import partitions, webhooks
from telemetry.logs import EventLogger
from telemetry.models import RequestLog
from telemetry.tsdb import upkeep

log = EventLogger(__name__)
HELD_SECONDS: Final = 0.008
REST: Final = 3.0
"""Rests are so many times as long as what was held: pruning takes a quarter of the writer's time at most."""
SMALLEST, LARGEST = 8, 2000


def prune_log(*, now: datetime | None = None, rest: Callable[[float], object] = sleep) -> int:
    """The request log, by TOKENHUB_LOG_RETENTION_DAYS and TOKENHUB_LOG_MAX_ROWS. How many rows or months went. Raises
    DatabaseError."""
    now = now or timezone.now()
    oldest = (
        now - timedelta(days=settings.TOKENHUB_LOG_RETENTION_DAYS) if settings.TOKENHUB_LOG_RETENTION_DAYS else None
    )
    gone = 0
    if connection.vendor == "postgresql":
        partitions.ensure(now)
        for month in partitions.months():
            if _is_over(month, oldest):
                gone += partitions.drop(month)
        if oldest:  # a wrong clock's rows, from before the first month
            oldest = min([partitions.month_of(oldest), *partitions.months()])
    if oldest:
        gone += _delete(RequestLog.objects.filter(created_at__lt=oldest).order_by("created_at"), rest)
    if too_many := _number_beyond():
        gone += _delete(RequestLog.objects.filter(pk__lte=too_many).order_by("pk"), rest)
    return gone


def _number_beyond() -> int:
    """The number up to which rows are too many; 0: none. By their numbers: counting rows would read them all."""
    if not settings.TOKENHUB_LOG_MAX_ROWS:
        return 0
    highest = RequestLog.objects.order_by().aggregate(highest=Max("pk"))["highest"] or 0
    return max(0, highest - settings.TOKENHUB_LOG_MAX_ROWS)


def _is_over(month: datetime, oldest: datetime | None) -> bool:
    """Whether all of its rows are too old, or too many."""
    end = partitions.month_after(month)
    if oldest and end <= oldest:
        return True
    if end > timezone.now() or not (too_many := _number_beyond()):
        return False
    rows = RequestLog.objects.order_by().filter(created_at__gte=month, created_at__lt=end)
    return not rows.filter(pk__gt=too_many).exists()


def _delete(rows: QuerySet[RequestLog], rest: Callable[[float], object]) -> int:
    """Chunk by chunk; each as large as its time allows."""
    gone, size = 0, SMALLEST
    while True:
        keys = list(rows.values_list("pk", flat=True)[:size])  # read before the writer is held
        if not keys:
            break
        begun = monotonic()
        RequestLog.objects.filter(pk__in=keys)._raw_delete(rows.db)  # noqa: SLF001  one statement: nothing hangs on a row
        held = monotonic() - begun
        gone += len(keys)
        size = max(SMALLEST, min(LARGEST, int(len(keys) * min(2.0, HELD_SECONDS / max(held, 1e-6)))))
        rest(held * REST)
    return gone


def prune_series() -> int:
    """The time series. Raises DatabaseError."""
    upkeep.roll_up()
    return upkeep.prune()


PRUNERS: list[Callable[[], int]] = [prune_log, webhooks.prune, prune_series]
"""Each removes what is old of its kind, in transactions of a few milliseconds, and says how much that was."""


def prune_once(pruners: Iterable[Callable[[], int]] = PRUNERS) -> int:
    """One pass. One that fails does not keep the others from theirs."""
    gone = 0
    for prune in pruners:
        try:
            removed = prune()
        except Error as problem:
            log.warning("prune_failed", what=prune.__name__, error=type(problem).__name__, reason=str(problem)[:200])
            continue
        if removed:
            log.info("pruned", what=prune.__name__, removed=removed)
        gone += removed
    return gone
