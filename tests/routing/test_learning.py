"""The bandit at work: what it is told of budgets, rewards that come late, and what it passes on."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from keys.ledger import Pace
from routing.bandit import RewardWeights
from routing.learning import Learner, Lesson, lesson_of
from routing.pricing import NANO
from tests.support.targets import target

DEAR, CHEAP = target("dear"), target("cheap")
COSTS = {"dear": NANO // 100, "cheap": NANO // 1000}  # a cent, and a tenth of one
REWARDS = {"dear": 0.95, "cheap": 0.8}


def lesson(*paces: tuple[int, Pace]) -> Lesson:
    made = lesson_of(b'[{"role":"user","content":"Hi"}]', input_tokens=10, tools=False, vision=False, tag="")
    made.paces.extend(paces)
    return made


def spend(requests: int, budget: float) -> tuple[float, Counter[str]]:
    """What a month of requests costs in dollars, and who answered."""
    learner = Learner(rng=Random(1), weights=RewardWeights(success=0.0, latency=0.0, cost=0.0, judge=1.0))
    spent, seen = 0, Counter[str]()
    for number in range(requests):
        pace = (int(budget * NANO), Pace(1, spent, number / requests))
        asked = lesson(pace) if budget else lesson()
        order = learner.choose(asked, [(one, COSTS[one.model_id], 100.0) for one in (DEAR, CHEAP)]).order
        chosen = order[0]
        spent += COSTS[chosen]
        seen[chosen] += 1
        reward = learner.composed({"judge": REWARDS[chosen]})
        assert reward is not None
        learner._learn(asked.context, chosen, reward)
    return spent / NANO, seen


def test_without_a_budget_the_better_model_answers() -> None:
    _, seen = spend(1500, 0.0)
    assert seen["dear"] > 1200


def test_a_budget_is_spread_over_its_period() -> None:
    spent, seen = spend(3000, 12.0)  # all by the dear one: 30 dollars; all by the cheap one: 3
    assert spent == pytest.approx(12.0, rel=0.03)
    assert seen["dear"] > 800


def test_a_budget_that_is_never_short_changes_nothing() -> None:
    free, ample = spend(1000, 0.0), spend(1000, 1000.0)
    assert ample[1]["dear"] >= free[1]["dear"] - 60


def test_each_period_has_a_pace_of_its_own() -> None:
    learner = Learner(rng=Random(1))
    for period in (1, 2):
        learner.choose(lesson((NANO, Pace(period, 0, 0.5))), [(DEAR, COSTS["dear"], 1.0), (CHEAP, COSTS["cheap"], 1.0)])
    assert set(learner._pacers) == {1, 2}
