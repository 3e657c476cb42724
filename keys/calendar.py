"""When a budget's period begins and ends, by the calendar of a time zone. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo


class Every(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


class Span(NamedTuple):
    """From `starts_at` to just before `ends_at`; None: without end."""

    starts_at: datetime
    ends_at: datetime | None


EVER = datetime(2000, 1, 1, tzinfo=ZoneInfo("UTC"))


def span_of(every: Every, now: datetime, zone: ZoneInfo) -> Span:
    """The period that `now` lies in, by midnights of the zone; a week begins on Monday."""
    midnight = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    match every:
        case Every.TOTAL:
            return Span(EVER, None)
        case Every.DAY:
            return Span(midnight, midnight + timedelta(days=1))
        case Every.WEEK:
            start = midnight - timedelta(days=midnight.weekday())
            return Span(start, start + timedelta(days=7))
        case Every.MONTH:
            start = midnight.replace(day=1)
            return Span(start, (start + timedelta(days=32)).replace(day=1))
