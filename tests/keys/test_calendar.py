"""Periods of budgets, by the calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.calendar import Every, span_of
from keys.models import Every as Choices

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 3, 29, 12, 0, tzinfo=BERLIN)  # a Sunday of 23 hours


@pytest.mark.parametrize(
    ("every", "starts", "ends"),
    [
        (Every.DAY, "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        (Every.WEEK, "2026-03-23T00:00+01:00", "2026-03-30T00:00+02:00"),
        (Every.MONTH, "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00"),
    ],
)
def test_periods_begin_at_midnights_of_the_zone(every: Every, starts: str, ends: str) -> None:
    span = span_of(every, NOON.astimezone(UTC), BERLIN)
    assert (span.starts_at, span.ends_at) == (datetime.fromisoformat(starts), datetime.fromisoformat(ends))


def test_a_total_has_no_end() -> None:
    span = span_of(Every.TOTAL, NOON, BERLIN)
    assert span.ends_at is None
    assert span == span_of(Every.TOTAL, NOON + timedelta(days=5000), BERLIN)


@given(
    st.datetimes(datetime(2001, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from([Every.DAY, Every.WEEK, Every.MONTH]),
    st.sampled_from([BERLIN, ZoneInfo("UTC"), ZoneInfo("America/New_York"), ZoneInfo("Asia/Kathmandu")]),
)
def test_periods_follow_on_each_other_without_gaps(now: datetime, every: Every, zone: ZoneInfo) -> None:
    span = span_of(every, now, zone)
    assert span.ends_at is not None
    assert span.starts_at <= now < span.ends_at
    assert span_of(every, span.ends_at, zone).starts_at == span.ends_at
    assert span_of(every, span.ends_at - timedelta(seconds=1), zone) == span


def test_the_choices_are_these() -> None:
    assert set(Choices.values) == set(Every)
