"""The time series against what the same requests add up to when one looks at them all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.core.management import call_command
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.ingest import ingest_all
from telemetry.journal import Entry, encode_line
from telemetry.models import Sample, Series, SeriesLevel, SeriesUnrolled
from telemetry.tsdb import upkeep
from telemetry.tsdb.metrics import METRICS
from telemetry.tsdb.models import Span
from telemetry.tsdb.query import Question, TooMany, ask, pieces, step_of
from telemetry.tsdb.store import fold
from telemetry.tsdb.upkeep import prune, roll_up, set_retention
from tests.support import postgres
from tests.support.gateway import ROOT, environment
from tests.telemetry.series_told import told

DAY, HOUR, MINUTE = 86_400, 3600, 60
MIDNIGHT = 1_764_028_800
NOON = MIDNIGHT + 12 * HOUR
COST = METRICS["cost_usd"]
LATENCY = METRICS["latency_ms"]


def entry(second: int, **changes: object) -> Entry:
    made = Entry(id="x", at=second * 1_000_000, endpoint="chat", status=200, model="m", provider="p", cost_nano=1)
    return msgspec.structs.replace(made, **changes)


def note(*entries: Entry) -> None:
    with transaction.atomic():
        fold(entries)


def asked(start: int, end: int, step: int, *, metric: str = "requests", agg: str = "sum", **more: Any) -> list[Any]:
    """The values of the one series that there is."""
    (line,) = ask(Question(METRICS[metric], agg, start, end, step, **more)).lines
    return [value for _, value in line.points]


def grouped(metric: str, agg: str, *labels: str, **only: str) -> dict[tuple[str, ...], Any]:
    """Of the day at hand."""
    question = Question(METRICS[metric], agg, MIDNIGHT, MIDNIGHT + DAY, DAY, group_by=labels, labels=only)
    return {tuple(line.labels.values()): line.points[0][1] for line in ask(question).lines}


def exact(entries: Iterable[Entry], start: int, end: int, step: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(start, end, step)]
    for one in entries:
        second = one.at // 1_000_000
        if start <= second < end:
            found[(second - start) // step].append(one.latency_ms)
    return found


# -- whatever happens, the answer is right -----------------------------------------------------------------------------

moments = st.integers(MIDNIGHT, MIDNIGHT + 3 * DAY - 1)
happenings = st.lists(
    st.lists(st.tuples(moments, st.integers(0, 100_000), st.sampled_from("ab")), min_size=1, max_size=12)
    | st.tuples(st.just("roll up"), st.integers(MIDNIGHT, MIDNIGHT + 5 * DAY))
    | st.tuples(st.just("prune"), st.integers(MIDNIGHT + 7 * DAY, MIDNIGHT + 12 * DAY)),
    max_size=8,
)


@pytest.mark.django_db(transaction=True)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings)
def test_answers_are_exact_whatever_is_rolled_up_dropped_or_late(happened: list[Any]) -> None:
    for model in (Sample, Series, SeriesLevel, SeriesUnrolled):
        model.objects.all().delete()
    entries: list[Entry] = []
    for one in happened:
        match one:
            case ("roll up", now):
                roll_up(now)
            case ("prune", now):
                prune(now)
            case _:
                some = [entry(second, latency_ms=value, cost_nano=value, model=name) for second, value, name in one]
                note(*some)
                entries += some
    start, end = MIDNIGHT, MIDNIGHT + 3 * DAY
    for wanted in (5 * MINUTE, HOUR, 5 * HOUR, DAY):
        answer = ask(Question(COST, "sum", start, end, wanted))
        step = answer.step
        first = answer.lines[0].points[0][0]
        parts = exact(entries, first, first + len(answer.lines[0].points) * step, step)
        assert [round((value or 0) * 10**9) for _, value in answer.lines[0].points] == [sum(part) for part in parts]
        for percent in (50, 95):
            (line,) = ask(Question(LATENCY, f"p{percent}", start, end, wanted)).lines
            for (_, value), part in zip(line.points, parts, strict=True):
                if not part:
                    assert value is None
                    continue
                right = sorted(part)[ceil(percent * len(part) / 100) - 1]
                assert value is not None
                assert abs(value - right) <= 0.01 * right
    if entries:
        by_model = ask(Question(METRICS["requests"], "sum", start, end, 3 * DAY, group_by=("model_id",))).lines
        assert {line.labels["model_id"]: sum(int(value or 0) for _, value in line.points) for line in by_model} == {
            name: sum(one.model == name for one in entries) for name in {one.model for one in entries}
        }


# -- what is counted ---------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_every_metric_is_what_the_requests_say() -> None:
    note(
        entry(NOON, latency_ms=40, cost_nano=5, input_tokens=10, output_tokens=20, cached_input_tokens=4, at_home=True),
        entry(NOON + 1, latency_ms=60, first_chunk_ms=7, cost_nano=None, input_tokens=30, output_tokens=1, reward=0.25),
        entry(
            NOON + 2, latency_ms=1, model="", provider="", status=429, error_code="rate_limit_exceeded", cost_nano=None
        ),
        entry(NOON + 3, latency_ms=80, status=429, error_class="rate_limited", error_code="upstream_rate_limited"),
        entry(NOON + 4, latency_ms=20, status=499, cost_nano=0),
    )

    def seen(metric: str, *aggregates: str) -> list[Any]:
        return [asked(MIDNIGHT, MIDNIGHT + DAY, DAY, metric=metric, agg=one)[0] for one in aggregates]

    assert seen("requests", "sum", "count", "rate") == [5, 5, 5 / DAY]
    assert seen("errors", "sum", "avg") == [2, 0.4]
    assert seen("rate_limited", "sum") == [2]
    assert seen("affinity_hits", "sum") == [1]
    assert seen("latency_ms", "count", "avg", "min", "max", "p50", "p99") == [
        4,
        50,
        20,
        80,
        40,
        pytest.approx(80, 0.01),
    ]
    assert seen("time_to_first_chunk_ms", "count", "p50") == [1, 7]
    assert seen("cost_usd", "count", "sum", "max") == [3, 6e-9, 5e-9]
    assert seen("input_tokens", "count", "sum") == [2, 40]
    assert seen("output_tokens", "sum") == [21]
    assert seen("cached_input_tokens", "sum", "avg") == [4, 2]
    assert seen("reward", "count", "sum", "p50") == [1, 0.25, 0.25]


@pytest.mark.django_db
def test_series_are_told_apart_and_chosen_by_their_labels() -> None:
    note(
        *(entry(NOON, model=model, project=project) for model in ("m/1", "m/2") for project in ("", "x", "x")),
        entry(NOON, model="m/2", mode="cheap", status=504, error_class="timeout"),
    )
    assert grouped("requests", "sum", "model_id") == {("m/1",): 3, ("m/2",): 4}
    assert grouped("requests", "sum", "project", "model_id", mode="") == {
        ("", "m/1"): 1, ("", "m/2"): 1, ("x", "m/1"): 2, ("x", "m/2"): 2,
    }  # fmt: skip
    assert grouped("errors", "sum", "error_class", model_id="m/2") == {("",): 0, ("timeout",): 1}
    assert grouped("requests", "sum", "mode", project="y") == {}
    assert grouped("requests", "sum", provider_id="p", model_id="m/1") == {(): 3}
    assert grouped("latency_ms", "p50", "model_id", project="x").keys() == {("m/1",), ("m/2",)}


@pytest.mark.django_db
def test_where_nothing_happened_sums_are_zero_and_averages_are_nothing() -> None:
    note(entry(NOON, latency_ms=30))
    span = (NOON - MINUTE, NOON + 2 * MINUTE, MINUTE)
    assert asked(*span) == [0, 1, 0]
    assert asked(*span, metric="latency_ms", agg="count") == [0, 1, 0]
    assert asked(*span, metric="latency_ms", agg="rate") == [0, 0.5, 0]
    for agg in ("avg", "min", "max", "p50"):
        assert asked(*span, metric="latency_ms", agg=agg) == [None, 30, None]


# -- levels ------------------------------------------------------------------------------------------------------------


def test_what_is_not_rolled_up_is_read_from_the_level_below() -> None:
    marks: Mapping[Span, list[int]] = {
        Span.MINUTE: [], Span.HOUR: [DAY + HOUR, DAY + 2 * HOUR, 2 * DAY], Span.DAY: [DAY, 2 * DAY],
    }  # fmt: skip
    assert pieces(Span.MINUTE, 0, DAY, marks) == [(Span.MINUTE, 0, DAY)]
    assert pieces(Span.HOUR, DAY, DAY + 4 * HOUR, marks) == [
        (Span.HOUR, DAY, DAY + HOUR),
        (Span.MINUTE, DAY + HOUR, DAY + 3 * HOUR),
        (Span.HOUR, DAY + 3 * HOUR, DAY + 4 * HOUR),
    ]
    assert pieces(Span.DAY, 0, 3 * DAY, marks) == [
        (Span.DAY, 0, DAY),
        (Span.HOUR, DAY, DAY + HOUR),
        (Span.MINUTE, DAY + HOUR, DAY + 3 * HOUR),
        (Span.HOUR, DAY + 3 * HOUR, 2 * DAY),
        (Span.MINUTE, 2 * DAY, 2 * DAY + HOUR),
        (Span.HOUR, 2 * DAY + HOUR, 3 * DAY),
    ]


@pytest.mark.parametrize(
    ("start", "end", "wanted", "step"),
    [
        (10 * DAY, 11 * DAY, MINUTE, MINUTE),
        (10 * DAY, 11 * DAY, 0, 5 * MINUTE),
        (10 * DAY, 40 * DAY, 0, 6 * HOUR),
        (5 * DAY, 11 * DAY, 5 * MINUTE, HOUR),  # minutes begin with day 10
        (5 * DAY, 11 * DAY, 90 * MINUTE, 2 * HOUR),
        (DAY, 11 * DAY, HOUR, DAY),  # hours begin with day 3
        (0, 5000 * DAY, 0, 7 * DAY),
    ],
)
def test_steps_become_as_long_as_the_spans_that_are_kept(start: int, end: int, wanted: int, step: int) -> None:
    pruned = {Span.MINUTE: 10 * DAY, Span.HOUR: 3 * DAY, Span.DAY: 0}
    assert step_of(start, end, wanted, pruned) == step


def level_rows() -> dict[int, int]:
    return {span: Sample.objects.filter(span=span).count() for span in Span}


@pytest.mark.django_db
def test_an_hour_is_rolled_up_when_it_is_over_and_a_day_after_its_hours() -> None:
    note(entry(NOON + 5), entry(NOON + 65), entry(NOON + HOUR))
    assert roll_up(NOON + HOUR) == 0
    assert roll_up(NOON + HOUR + upkeep.GRACE_SECONDS) == 1
    assert level_rows() == {MINUTE: 3, HOUR: 1, DAY: 0}
    assert roll_up(MIDNIGHT + DAY + upkeep.GRACE_SECONDS) == 2
    assert level_rows() == {MINUTE: 3, HOUR: 2, DAY: 1}
    assert Sample.objects.get(span=DAY).at == MIDNIGHT
    assert not SeriesUnrolled.objects.exists()


@pytest.mark.django_db
def test_rolling_up_again_changes_nothing() -> None:
    note(entry(NOON, latency_ms=70), entry(NOON + 70, latency_ms=90))
    roll_up(NOON + 2 * DAY)
    before = list(Sample.objects.order_by("pk").values())
    for span, at in ((HOUR, NOON), (DAY, MIDNIGHT)):
        SeriesUnrolled.objects.create(span=span, at=at)
    assert roll_up(NOON + 2 * DAY) == 2
    assert list(Sample.objects.order_by("pk").values()) == before
    assert roll_up(NOON + 2 * DAY) == 0


@pytest.mark.django_db
def test_what_comes_late_is_rolled_up_again() -> None:
    note(entry(NOON))
    roll_up(NOON + 2 * DAY)
    note(entry(NOON + 60), entry(NOON + 61))
    assert asked(MIDNIGHT, MIDNIGHT + DAY, DAY) == [3]
    assert Sample.objects.get(span=DAY).requests == 1
    assert roll_up(NOON + 2 * DAY) == 2
    assert [Sample.objects.get(span=span).requests for span in (HOUR, DAY)] == [3, 3]


@pytest.mark.django_db
def test_a_few_steps_at_a_time_come_to_the_same() -> None:
    note(*(entry(NOON + hour * HOUR) for hour in range(5)))
    assert [roll_up(NOON + 2 * DAY, most=1) for _ in range(7)] == [1, 1, 1, 1, 1, 1, 0]
    assert level_rows() == {MINUTE: 5, HOUR: 5, DAY: 1}


# -- retention ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_each_level_is_dropped_after_its_own_time_and_its_sums_remain_above() -> None:
    note(entry(NOON), entry(NOON + 20 * MINUTE))
    roll_up(NOON + 2 * DAY)
    assert prune(NOON + 6 * DAY) == 0
    assert prune(NOON + 8 * DAY) == 2
    assert level_rows() == {MINUTE: 0, HOUR: 1, DAY: 1}
    assert asked(NOON, NOON + HOUR, MINUTE) == [2]  # one step, of an hour
    assert prune(NOON + 92 * DAY) == 2  # with the row of six hours
    assert asked(NOON, NOON + HOUR, MINUTE) == [2]
    assert prune(NOON + 732 * DAY) == 1
    assert asked(NOON, NOON + HOUR, DAY) == [0]


@pytest.mark.django_db
def test_nothing_is_dropped_before_it_is_rolled_up() -> None:
    note(entry(NOON))
    assert prune(NOON + 1000 * DAY) == 0
    roll_up(NOON + 1000 * DAY)
    assert prune(NOON + 1000 * DAY) == 4


@pytest.mark.django_db
def test_what_is_too_late_for_its_minute_counts_in_its_hour_and_too_late_for_that_in_its_day() -> None:
    note(entry(NOON))
    roll_up(NOON + 2 * DAY)
    prune(NOON + 8 * DAY)
    note(entry(NOON + 90))
    assert asked(NOON, NOON + HOUR, HOUR) == [2]
    roll_up(NOON + 9 * DAY)
    assert Sample.objects.get(span=DAY).requests == 2
    prune(NOON + 92 * DAY)
    note(entry(NOON + 90))
    assert asked(NOON, NOON + HOUR, DAY) == [3]
    assert level_rows() == {MINUTE: 0, HOUR: 0, DAY: 1}


@pytest.mark.django_db
def test_dropping_goes_in_small_steps() -> None:
    note(*(entry(NOON + minute * MINUTE) for minute in range(30)))
    roll_up(NOON + 2 * DAY)
    assert [prune(NOON + 8 * DAY, most=1) for _ in range(4)] == [10, 10, 10, 0]


@pytest.mark.django_db
def test_a_shorter_retention_holds_from_the_next_pass_on() -> None:
    note(entry(NOON))
    roll_up(NOON + 2 * DAY)
    set_retention(days={Span.MINUTE: 2})
    assert prune(NOON + 3 * DAY) == 1
    with pytest.raises(upkeep.TooShort):
        set_retention(days={Span.HOUR: 1})


@pytest.mark.django_db
def test_the_commands_roll_up_and_drop(capsys: pytest.CaptureFixture[str]) -> None:
    note(entry(MIDNIGHT - 3000 * DAY), entry(MIDNIGHT))
    call_command("rollup")
    assert capsys.readouterr().out == "4 hours and days rolled up.\n"
    call_command("prune")
    assert " removed.\n" in capsys.readouterr().out
    assert Sample.objects.filter(at__lt=MIDNIGHT).count() == 0


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_too_many_points_are_refused() -> None:
    with pytest.raises(TooMany) as caught:
        asked(0, 20_000 * MINUTE, MINUTE)
    assert caught.value.args[0] == "step_ms"
    note(*(entry(NOON, model=f"m{number}") for number in range(12)))
    with pytest.raises(TooMany) as caught:
        ask(Question(METRICS["requests"], "sum", NOON - 9000 * MINUTE, NOON + MINUTE, MINUTE, group_by=("model_id",)))
    assert caught.value.args[0] == "group_by"


@pytest.mark.django_db
def test_an_answer_takes_a_handful_of_queries(django_assert_max_num_queries: Any) -> None:
    note(*(entry(NOON + hour * HOUR, model=f"m{hour}") for hour in range(8)))
    with django_assert_max_num_queries(5):
        ask(Question(LATENCY, "p95", MIDNIGHT, MIDNIGHT + DAY, HOUR, group_by=("model_id",)))


# -- both databases ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
@pytest.mark.django_db(transaction=True)
def test_postgresql_tells_the_same(tmp_path: Path) -> None:
    with postgres.Postgres(migrated=True) as database:
        done = subprocess.run(
            [sys.executable, "-m", "tests.telemetry.series_told", str(tmp_path)],
            cwd=ROOT,
            env=environment(tmp_path, {"TOKENHUB_DATABASE_URL": database.url}),
            stdout=subprocess.PIPE,
            timeout=100,
            check=True,
        )
    elsewhere, here = json.loads(done.stdout), told(tmp_path)
    assert elsewhere == here
    everything, rolled_up, again, *_, pruned, _ = here
    assert everything == again
    assert (rolled_up, pruned) > (20, 100)


@pytest.mark.django_db
def test_a_moment_is_told_in_whole_seconds_of_universal_time(tmp_path: Path) -> None:
    at = datetime(2026, 3, 29, 1, 59, 59, 999_999, UTC)  # a night when clocks are put forward
    line = encode_line(entry(0, id=str(UUID(int=1)), at=int(at.timestamp()) * 1_000_000 + 999_999))
    (tmp_path / "host-1-1-aa.journal").write_bytes(line)
    ingest_all(tmp_path)
    assert Sample.objects.get().at == int(at.replace(second=0, microsecond=0).timestamp())
    assert connection.vendor == "sqlite"
