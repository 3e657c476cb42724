"""Models beside one another: against what the same requests add up to when one looks at them all."""

from __future__ import annotations

import random

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from telemetry.journal import COUNT_TOKENS
from telemetry.tsdb.leaders import leaders
from telemetry.tsdb.overview import failing
from telemetry.tsdb.upkeep import roll_up
from tests.telemetry.test_tsdb_overview import DAY, NOW, entry, note

pytestmark = pytest.mark.django_db


def test_each_model_has_the_figures_of_its_requests_before_and_after_they_are_rolled_up() -> None:
    dice = random.Random(11)
    made = [
        entry(
            NOW - dice.randrange(1, 6 * DAY),
            model=dice.choice("abc"),
            status=dice.choice([200, 200, 200, 503]),
            cost_nano=dice.choice([None, dice.randrange(10**9)]),
            reward=dice.choice([None, dice.random()]),
            latency_ms=dice.randrange(1, 5000),
            input_tokens=dice.randrange(1, 100),
            output_tokens=3,
        )
        for _ in range(200)
    ]
    made += [entry(NOW - 9 * DAY, model="a"), entry(NOW - 60, model="")]  # too old; reached nobody
    note(*made)
    for _ in range(2):
        found = {one.model_id: one for one in leaders(until=NOW, seconds=7 * DAY)}
        assert set(found) == {"a", "b", "c"}
        for name, one in found.items():
            own = [row for row in made[:-2] if row.model == name]
            costs = [row.cost_nano for row in own if row.cost_nano is not None]
            rewards = [row.reward for row in own if row.reward is not None]
            assert one.requests == len(own)
            assert one.success == pytest.approx(sum(row.status < 400 for row in own) / len(own))
            assert one.cost_usd == pytest.approx(sum(costs) / 1e9)
            assert one.cost_of_one == pytest.approx(sum(costs) / len(costs) / 1e9)
            assert one.reward == pytest.approx(sum(rewards) / len(rewards), abs=1e-6)
            assert one.rewards == len(rewards)
            assert one.tokens == sum(row.input_tokens + 3 for row in own)
            middle = sorted(row.latency_ms for row in own)[(len(own) - 1) // 2]
            assert one.p50 == pytest.approx(middle, rel=0.05)
        roll_up(NOW)


def test_what_was_not_measured_is_not_known() -> None:
    note(entry(NOW - 60, cost_nano=None))
    (one,) = leaders(until=NOW, seconds=DAY)
    assert (one.cost_of_one, one.reward, one.first_p50, one.success) == (None, None, None, 1.0)


def test_requests_that_only_counted_tokens_are_none_of_the_models() -> None:
    note(entry(NOW - 60), entry(NOW - 60, endpoint=COUNT_TOKENS), entry(NOW - 60, endpoint=COUNT_TOKENS, status=503))
    (one,) = leaders(until=NOW, seconds=DAY)
    assert (one.requests, one.success) == (1, 1.0)
    requests, failed = failing(until=NOW, minutes=60)
    assert (requests, sum(failed.values())) == (3, 1)  # and are requests nevertheless


def test_it_costs_the_same_few_queries_however_many_requests_there_were() -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as asked:
            leaders(until=NOW, seconds=30 * DAY)
        return len(asked)

    note(entry(NOW - 60))
    few = cost()
    note(*(entry(NOW - number * 3600, model=f"m{number % 7}") for number in range(200)))
    assert cost() == few <= 4
