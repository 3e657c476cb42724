from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.scoring import PROFILES, Figures, Profile, scores

MODES = list(PROFILES)
figures = st.builds(
    Figures,
    cost=st.none() | st.integers(0, 10**15),
    latency_ms=st.floats(0, 10**7),
    failure=st.floats(0, 1),
    weight=st.integers(0, 10),
)


def best(mode: str, *candidates: Figures) -> int:
    found = [parts.score for parts in scores(candidates, PROFILES[mode])]
    return found.index(min(found))


def one(*, cost: int | None = 1000, latency_ms: float = 500.0, failure: float = 0.1, weight: int = 5) -> Figures:
    return Figures(cost, latency_ms, failure, weight)


@pytest.mark.parametrize("mode", MODES)
def test_a_modes_weights_add_up_to_one(mode: str) -> None:
    profile = PROFILES[mode]
    assert math.isclose(profile.cost + profile.latency + profile.failure + profile.capability, 1.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (one(cost=10), one(cost=20)),
        (one(latency_ms=10), one(latency_ms=20)),
        (one(failure=0.0), one(failure=0.5)),
        (one(weight=9), one(weight=3)),
        (one(cost=0), one(cost=None)),
        (one(cost=0), one(cost=1)),
    ],
    ids=["cheaper", "faster", "more reliable", "more capable", "free beside no price", "free"],
)
def test_all_else_equal_the_better_one_wins_in_every_mode(mode: str, better: Figures, worse: Figures) -> None:
    assert best(mode, worse, better) == 1
    assert best(mode, better, worse) == 0


def test_modes_differ_where_cheap_and_capable_are_two() -> None:
    small, large = one(cost=100, weight=3), one(cost=5000, weight=9)
    assert best("cheap", small, large) == 0
    assert best("high_confidence", small, large) == 1
    assert best("planning", small, large) == 1


def test_no_price_counts_as_the_dearest() -> None:
    priced, unpriced = scores([one(cost=700), one(cost=None)], PROFILES["cheap"])
    assert priced == unpriced


def test_cost_counts_relative_to_the_dearest_whatever_the_amounts() -> None:
    few = scores([one(cost=1), one(cost=4)], PROFILES["normal"])
    many = scores([one(cost=10**9), one(cost=4 * 10**9)], PROFILES["normal"])
    assert [one.score for one in few] == pytest.approx([one.score for one in many])


def test_a_score_is_the_sum_of_its_parts() -> None:
    profile = Profile(cost=0.4, latency=0.3, failure=0.2, capability=0.1)
    found = scores([Figures(50, 200.0, 0.5, 8), Figures(100, 400.0, 0.0, 0)], profile)
    assert found[0][1:] == pytest.approx((0.4 * 0.5, 0.3 * 0.5, 0.2 * 0.5, 0.1 * 0.8))
    assert [one.score for one in found] == pytest.approx([0.4 * 0.5 + 0.3 * 0.5 + 0.2 * 0.5 - 0.1 * 0.8, 0.4 + 0.3])


def test_nobody_has_no_score() -> None:
    assert scores([], PROFILES["normal"]) == []


@given(st.lists(figures, max_size=6), st.sampled_from(MODES))
def test_every_candidate_has_a_finite_score_between_best_and_worst(candidates: list[Figures], mode: str) -> None:
    found = scores(candidates, PROFILES[mode])
    assert len(found) == len(candidates)
    assert all(-1 <= one.score <= 1 + 1e-9 for one in found)


@given(st.lists(figures, min_size=2, max_size=6), st.sampled_from(MODES), st.randoms(use_true_random=False))
def test_a_score_does_not_depend_on_the_order(candidates: list[Figures], mode: str, rng: Random) -> None:
    order = list(range(len(candidates)))
    rng.shuffle(order)
    before = scores(candidates, PROFILES[mode])
    assert scores([candidates[at] for at in order], PROFILES[mode]) == [before[at] for at in order]
