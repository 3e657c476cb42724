"""The dashboard's figures against what the same requests add up to when one looks at them all."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from telemetry import log_sample
from telemetry.journal import Entry
from telemetry.models import RequestLog, Sample, SeriesLevel
from telemetry.tsdb.leaders import leaders
from telemetry.tsdb.models import SIX_HOURS, Span
from telemetry.tsdb.overview import WINDOWS, Overview, cover, failing, overview
from telemetry.tsdb.store import fold, levels
from telemetry.tsdb.upkeep import prune, roll_up

pytestmark = pytest.mark.django_db
DAY, HOUR, MINUTE = 86_400, 3600, 60
MIDNIGHT = 1_764_028_800
NOW = MIDNIGHT + 13 * HOUR + 17 * MINUTE + 9
LONG_AGO = NOW - 70 * DAY


def entry(second: int, **changes: object) -> Entry:
    made = Entry(id="x", at=second * 1_000_000, endpoint="chat", status=200, model="m", provider="p", cost_nano=1)
    return msgspec.structs.replace(made, **changes)


def note(*entries: Entry) -> None:
    with transaction.atomic():
        fold(entries)


def traffic(count: int = 150) -> list[Entry]:
    dice = random.Random(7)
    return [
        entry(
            NOW - int(dice.random() ** 5 * 69 * DAY),
            model=dice.choice("abc"),
            status=dice.choice([200, 200, 503]),
            cost_nano=dice.randrange(10**9),
            input_tokens=dice.randrange(1000),
            output_tokens=dice.randrange(1, 100),
            latency_ms=dice.randrange(5000),
        )
        for _ in range(count)
    ]


def sums(entries: list[Entry], start: int, end: int) -> tuple[int, int, int, int]:
    within = [one for one in entries if start <= one.at // 1_000_000 < end]
    tokens = sum(one.input_tokens + one.output_tokens for one in within)
    return len(within), sum(one.status >= 400 for one in within), sum(one.cost_nano or 0 for one in within), tokens


def told(figures: Any) -> tuple[int, int, int, int]:
    return figures.requests, figures.errors, figures.cost_nano, figures.tokens


def look(window: str, by: str = "model_id") -> Overview:
    return overview(until=NOW, window=WINDOWS[window], by=by)


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_a_window_and_the_one_before_are_what_their_requests_add_up_to(is_rolled_up: bool) -> None:
    entries = traffic()
    note(*entries)
    if is_rolled_up:
        assert roll_up(NOW) > 0
        SeriesLevel.objects.update(days=800)
    for window in WINDOWS:
        found = look(window)
        before = 2 * found.since - found.until
        assert found.until - NOW < MINUTE
        assert 0 <= found.until - WINDOWS[window].seconds - found.since < WINDOWS[window].step
        assert told(found.now) == sums(entries, found.since, found.until)
        assert told(found.before) == sums(entries, before, found.since)
        for name, now, earlier in found.groups:
            own = [one for one in entries if one.model == name]
            assert (told(now), told(earlier)) == (
                sums(own, found.since, found.until), sums(own, before, found.since)
            )  # fmt: skip
        assert {at: told(one) for at, one in found.points.items()} == {
            at: sums(entries, at, at + found.step) for at in range(found.since, found.until, found.step)
        }


def test_what_the_minutes_have_forgotten_is_read_from_the_hours_and_days() -> None:
    entries = traffic()
    note(*entries)
    roll_up(NOW)
    prune(NOW)
    found = look("30d")
    assert told(found.now) == sums(entries, found.since, found.until)
    pruned = levels()[Span.MINUTE].pruned_until
    assert 2 * found.since - found.until < pruned
    begin = 2 * found.since - found.until
    assert told(found.before) == sums(entries, begin - begin % HOUR, found.since)


def test_a_week_is_read_by_six_hours_where_days_are_rolled_up() -> None:
    marks: dict[Span, list[int]] = {Span.MINUTE: [], Span.HOUR: [], Span.DAY: [4 * DAY]}
    span = (2 * DAY + 18 * HOUR, 4 * DAY + 12 * HOUR, marks, dict.fromkeys(Span, 0))
    assert cover(*span, coarsest=6 * HOUR, six_hours=[2 * DAY, 3 * DAY, 4 * DAY]) == [
        (SIX_HOURS, 2 * DAY + 18 * HOUR, 3 * DAY), (SIX_HOURS, 3 * DAY, 4 * DAY), (HOUR, 4 * DAY, 4 * DAY + 12 * HOUR),
    ]  # fmt: skip
    entries = traffic()
    note(*entries)
    roll_up(NOW)
    assert set(Sample.objects.filter(span=SIX_HOURS).values_list("at", flat=True)) == {
        one - one % SIX_HOURS for entry in entries if (one := entry.at // 1_000_000) < MIDNIGHT
    }
    Sample.objects.filter(span=SIX_HOURS).update(errors=F("errors") + 100)  # not from anywhere else
    found = look("7d")
    assert found.now.errors > sums(entries, found.since, found.until)[1]


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_what_comes_late_is_in_the_week_at_once(is_rolled_up: bool) -> None:
    early, late = entry(NOW - 3 * DAY), entry(NOW - 3 * DAY + HOUR, cost_nano=5)
    note(early)
    roll_up(NOW)
    note(late)
    if is_rolled_up:
        roll_up(NOW)
    assert told(look("7d").now)[:3] == (2, 0, 6)


def test_a_day_that_a_version_before_rolled_up_is_read_by_hours() -> None:
    note(*(entries := traffic()))
    roll_up(NOW)
    Sample.objects.filter(span=SIX_HOURS, at__gte=MIDNIGHT - 2 * DAY).delete()
    found = look("7d")
    assert told(found.now) == sums(entries, found.since, found.until)


def test_without_a_label_there_are_the_same_figures_and_no_groups() -> None:
    note(*traffic())
    found, labelled = look("7d", ""), look("7d")
    assert (told(found.now), told(found.before)) == (told(labelled.now), told(labelled.before))
    assert found.groups == []


def test_percentiles_are_within_one_percent() -> None:
    note(*(entry(NOW - 5, latency_ms=number, first_chunk_ms=10 * number) for number in range(1, 1001)))
    now = look("1h").now
    assert now.latency_ms(50) == pytest.approx(500, rel=0.01)
    assert now.latency_ms(95) == pytest.approx(950, rel=0.01)
    assert now.first_chunk_ms(95) == pytest.approx(9500, rel=0.01)
    assert look("1h").before.latency_ms(95) is None


@pytest.mark.parametrize("number", [1, 8, 49, 50, 59, 65, 69, 89, 137, 1183, 1184, 30_001])
def test_one_request_is_within_one_percent_of_itself(number: int) -> None:
    note(entry(NOW - 5, latency_ms=number, first_chunk_ms=number))
    now = look("1h").now
    (leader,) = leaders(until=NOW, seconds=3600)
    for told in (now.latency_ms(50), now.first_chunk_ms(95), leader.p50, leader.p95, leader.first_p50):
        assert told == pytest.approx(number, rel=0.01)


def test_the_busiest_comes_first() -> None:
    note(*(entry(NOW - number, provider="quiet" if number < 3 else "busy") for number in range(9)))
    assert [name for name, *_ in look("1h", "provider_id").groups] == ["busy", "quiet"]


def test_an_overview_costs_the_same_queries_whatever_there_is() -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            look("7d")
        return len(queries)

    nothing = cost()
    note(*traffic())
    assert nothing == cost() == 5


def test_an_unknown_label_is_no_way_into_the_query() -> None:
    with pytest.raises(ValueError, match="no label"):
        look("1h", "id FROM x; --")


def test_failures_of_the_last_minutes_are_told_by_class() -> None:
    note(
        entry(NOW - 20), entry(NOW - 30, status=503, error_class="transient"),
        entry(NOW - 40, status=429, error_code="budget_exceeded"), entry(NOW - 20 * MINUTE, status=503),
        entry(NOW - 50, status=499),
    )  # fmt: skip
    assert failing(until=NOW, minutes=15) == (4, {"transient": 1, "budget_exceeded": 1})


# -- client keys -----------------------------------------------------------------------------------------------------
def row(second: int, **fields: Any) -> RequestLog:
    defaults = {
        "request_id": uuid4(),
        "endpoint": "chat",
        "status": 200,
        "created_at": datetime.fromtimestamp(second, UTC),
    }
    return RequestLog.objects.create(**{**defaults, **fields})


def test_client_keys_are_added_up_by_their_requests() -> None:
    for number in range(3):
        row(
            NOW - number,
            api_key_id="k",
            api_key_name="shop",
            cost_usd="0.5",
            input_tokens=2,
            model_id="m",
            latency_ms=80,
        )
    row(NOW, api_key_id="l", api_key_name="batch", status=503)
    row(NOW - 2 * HOUR, api_key_id="l", api_key_name="batch")
    keys, back_to = log_sample.by_key(since=NOW - HOUR)
    assert [(key, name, told(figures)) for key, name, figures in keys] == [
        ("k", "shop", (3, 0, 1_500_000_000, 6)), ("l", "batch", (1, 1, 0, 0)),
    ]  # fmt: skip
    assert keys[0][2].latency_ms(95) == pytest.approx(80, rel=0.01)
    assert keys[1][2].latency_ms(95) is None
    assert back_to is None


def test_no_more_than_a_bounded_number_of_requests_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sample, "ROWS", 2)
    for number in range(3):
        row(NOW - number, api_key_id="k")
    keys, back_to = log_sample.by_key(since=NOW - HOUR)
    assert (keys[0][2].requests, back_to) == (2, datetime.fromtimestamp(NOW - 1, UTC))
