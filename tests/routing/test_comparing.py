"""Differences beyond chance."""

from __future__ import annotations

from random import Random

import pytest

from routing.comparing import FEW, chance_of_means, chance_of_shares, mean, percentile, share


def test_the_interval_of_a_share_is_wilsons() -> None:
    """8 of 10: 0.4902 to 0.9433, as in the literature."""
    found = share(8, 10)
    assert found is not None
    assert found == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert share(0, 0) is None
    assert share(5, 5) == pytest.approx((1.0, 0.5655, 1.0), abs=1e-4)


def test_a_mean_comes_with_its_interval() -> None:
    assert mean([]) is None
    assert mean([3.0]) == (3.0, 3.0, 3.0)
    assert mean([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5, 1.2348, 3.7652), abs=1e-4)


def test_percentiles_are_values_that_were_there() -> None:
    values = list(range(1, 101))
    assert [percentile(values, one) for one in (50, 95, 100)] == [50, 95, 100]
    assert percentile([], 50) is None


def test_few_requests_say_nothing() -> None:
    assert chance_of_shares((0, FEW - 1), (1000, 1000)) is None
    assert chance_of_means([1.0] * (FEW - 1), [2.0] * 1000) is None


def test_the_chance_of_two_shares_is_that_of_the_z_test() -> None:
    """45 of 100 against 60 of 100: z = 2.124, p = 0.0337."""
    assert chance_of_shares((45, 100), (60, 100)) == pytest.approx(0.0337, abs=1e-4)
    assert chance_of_shares((50, 50), (50, 50)) == 1.0


def test_equal_groups_are_seldom_told_apart_and_different_ones_are() -> None:
    rng = Random(5)
    alarms = 0
    for _ in range(400):
        one, other = ([rng.gauss(1.0, 0.3) for _ in range(60)] for _ in range(2))
        alarms += (chance_of_means(one, other) or 0.0) < 0.05
    assert 5 <= alarms <= 40
    far = chance_of_means([rng.gauss(1.0, 0.3) for _ in range(60)], [rng.gauss(1.4, 0.3) for _ in range(60)])
    assert far is not None
    assert far < 0.01
    assert chance_of_means([2.0] * 40, [2.0] * 40) == 1.0
    assert chance_of_means([2.0] * 40, [3.0] * 40) == 0.0
