"""Whether two groups of requests differ by more than chance: success, latency, cost, reward. Pure.

Shares by the two-proportion z-test, means by Welch's test with the normal approximation, which holds from some thirty
on; intervals of shares are Wilson's (1927)."""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, sqrt
from statistics import fmean, variance
from typing import Final, NamedTuple

Z_95: Final = 1.959964
FEW: Final = 30
"""Fewer say nothing of a difference."""
SURE: Final = 0.01
LIKELY: Final = 0.05


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def share(part: int, whole: int) -> Interval | None:
    """With its 95 % interval; None of nothing."""
    if not whole:
        return None
    rate, square = part / whole, Z_95 * Z_95
    centre = (rate + square / (2 * whole)) / (1 + square / whole)
    reach = Z_95 / (1 + square / whole) * sqrt(rate * (1 - rate) / whole + square / (4 * whole * whole))
    return Interval(rate, max(centre - reach, 0.0), min(centre + reach, 1.0))


def mean(values: Sequence[float]) -> Interval | None:
    """With its 95 % interval, which is empty for a single value."""
    if not values:
        return None
    value = fmean(values)
    reach = Z_95 * sqrt(variance(values) / len(values)) if len(values) > 1 else 0.0
    return Interval(value, value - reach, value + reach)


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)] if values else None


def chance_of_shares(one: tuple[int, int], other: tuple[int, int]) -> float | None:
    """How likely two shares, each a part and its whole, would differ as much by chance alone (two-sided). None where
    there are too few to tell."""
    (part, whole), (other_part, other_whole) = one, other
    if min(whole, other_whole) < FEW:
        return None
    pooled = (part + other_part) / (whole + other_whole)
    error = sqrt(pooled * (1 - pooled) * (1 / whole + 1 / other_whole))
    return _two_sided(part / whole - other_part / other_whole, error)


def chance_of_means(one: Sequence[float], other: Sequence[float]) -> float | None:
    if min(len(one), len(other)) < FEW:
        return None
    error = sqrt(variance(one) / len(one) + variance(other) / len(other))
    return _two_sided(fmean(one) - fmean(other), error)


def _two_sided(difference: float, error: float) -> float:
    if not error:
        return 0.0 if difference else 1.0
    return erfc(abs(difference) / error / sqrt(2))
