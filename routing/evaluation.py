"""What would another policy have scored and cost on the traffic that was logged? Estimates from decisions whose
probability was recorded, with 95 % intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

Z_95: Final = 1.959964


class Logged(NamedTuple):
    """One decision. `probability`: with which the logging policy chose `chosen` among `candidates`. A reward that has
    not settled is no row."""

    context: Hashable
    candidates: tuple[str, ...]
    chosen: str
    probability: float
    reward: float
    cost: float = 0.0


# probabilities by arm, which add up to 1; an arm alone stands for certainty
Target = Callable[[Logged], Mapping[str, float] | str]


class Estimate(NamedTuple):
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Report:
    """`effective_rows`: as many rows logged by the target policy itself would tell as much (Kish). `unsupported`: the
    mean probability that the target gives to arms of which the log says nothing; above a few percent, do not trust the
    rest. `clipped`: rows whose weight was cut."""

    rows: int
    effective_rows: float
    unsupported: float
    clipped: int
    reward: Mapping[str, Estimate]
    cost: Mapping[str, Estimate]


class _Row(NamedTuple):
    weight: float
    value: float
    direct: float
    chosen_model: float


def evaluate(
    rows: Sequence[Logged],
    target: Target,
    *,
    clip: float = 100.0,
    bootstrap: int = 0,
    rng: Random | None = None,
    folds: int = 5,
) -> Report:
    """By inverse propensity (`ips`), self-normalised (`snips`) and doubly robust (`dr`). `clip`: the largest weight; a
    lower one trades bias for variance. `bootstrap`: so many resamples for the intervals (needs `rng`); 0: by the
    asymptotic variance. The model of the doubly robust estimate is fitted on the other folds. Raises ValueError."""
    if not rows:
        raise ValueError("no rows to evaluate")
    if bootstrap and rng is None:
        raise ValueError("a bootstrap needs a random generator")
    weights, clipped, unsupported = [], 0, 0.0
    policies = []
    seen: set[tuple[Hashable, str]] = {(row.context, row.chosen) for row in rows}
    for row in rows:
        if not 0.0 < row.probability <= 1.0 or row.chosen not in row.candidates:
            raise ValueError(f"a row with probability {row.probability} of {row.chosen!r}")
        policy = _policy(target(row), row)
        policies.append(policy)
        weight = policy.get(row.chosen, 0.0) / row.probability
        clipped += weight > clip
        weights.append(min(weight, clip))
        unsupported += sum(share for arm, share in policy.items() if (row.context, arm) not in seen)
    squares = sum(weight * weight for weight in weights)
    return Report(
        rows=len(rows),
        effective_rows=sum(weights) ** 2 / squares if squares else 0.0,
        unsupported=unsupported / len(rows),
        clipped=clipped,
        reward=_estimates(rows, policies, weights, [row.reward for row in rows], bootstrap, rng, folds),
        cost=_estimates(rows, policies, weights, [row.cost for row in rows], bootstrap, rng, folds),
    )


def _policy(answer: Mapping[str, float] | str, row: Logged) -> Mapping[str, float]:
    policy = {answer: 1.0} if isinstance(answer, str) else answer
    if not policy.keys() <= set(row.candidates):
        raise ValueError(f"the policy chose {sorted(policy)} among {list(row.candidates)}")
    if any(share < 0.0 for share in policy.values()) or not math.isclose(sum(policy.values()), 1.0, abs_tol=1e-6):
        raise ValueError("the policy's probabilities do not add up to 1")
    return policy


def _estimates(
    rows: Sequence[Logged],
    policies: Sequence[Mapping[str, float]],
    weights: Sequence[float],
    values: Sequence[float],
    bootstrap: int,
    rng: Random | None,
    folds: int,
) -> dict[str, Estimate]:
    models = _Models(rows, values, folds)
    found = []
    for index, (row, policy, weight, value) in enumerate(zip(rows, policies, weights, values, strict=True)):
        direct = sum(share * models.mean(index, row.context, arm) for arm, share in policy.items())
        found.append(_Row(weight, value, direct, models.mean(index, row.context, row.chosen)))
    samples = [rng.choices(found, k=len(found)) for _ in range(bootstrap)] if rng is not None else []
    result = {}
    for name, (estimate, influence) in _ESTIMATORS.items():
        value = estimate(found)
        if samples:
            drawn = sorted(estimate(sample) for sample in samples)
            low, high = drawn[int(0.025 * len(drawn))], drawn[min(int(0.975 * len(drawn)), len(drawn) - 1)]
        else:
            error = Z_95 * influence(found, value)
            low, high = value - error, value + error
        result[name] = Estimate(value, low, high)
    return result


class _Models:
    """Mean values by context and arm, shrunk towards the arm's, of the rows in the other folds."""

    STRENGTH = 5.0

    def __init__(self, rows: Sequence[Logged], values: Sequence[float], folds: int) -> None:
        self._folds = folds = max(min(folds, len(rows)), 1)
        self._sums: list[dict[Hashable, tuple[float, float]]] = [{} for _ in range(folds)]
        self._all: dict[Hashable, tuple[float, float]] = {}
        for index, (row, value) in enumerate(zip(rows, values, strict=True)):
            for key in ((row.context, row.chosen), ("arm", row.chosen, None), ("all", None, None)):
                for sums in (self._all, self._sums[index % folds]):
                    count, total = sums.get(key, (0.0, 0.0))
                    sums[key] = (count + 1.0, total + value)

    def mean(self, index: int, context: Hashable, arm: str) -> float:
        value = 0.0
        for key, strength in ((("all", None, None), 1e-9), (("arm", arm, None), 1.0), ((context, arm), self.STRENGTH)):
            count, total = self._outside(index, key)
            value = (strength * value + total) / (strength + count)
        return value

    def _outside(self, index: int, key: Hashable) -> tuple[float, float]:
        count, total = self._all.get(key, (0.0, 0.0))
        if self._folds > 1:
            own_count, own_total = self._sums[index % self._folds].get(key, (0.0, 0.0))
            count, total = count - own_count, total - own_total
        return count, total


def _ips(rows: Sequence[_Row]) -> float:
    return sum(row.weight * row.value for row in rows) / len(rows)


def _snips(rows: Sequence[_Row]) -> float:
    weight = sum(row.weight for row in rows)
    return sum(row.weight * row.value for row in rows) / weight if weight else math.nan


def _dr(rows: Sequence[_Row]) -> float:
    return sum(row.direct + row.weight * (row.value - row.chosen_model) for row in rows) / len(rows)


def _error(terms: Sequence[float]) -> float:
    """The standard error of their mean."""
    if len(terms) < 2:
        return math.nan
    mean = sum(terms) / len(terms)
    return math.sqrt(sum((term - mean) ** 2 for term in terms) / (len(terms) - 1) / len(terms))


def _ips_error(rows: Sequence[_Row], value: float) -> float:
    return _error([row.weight * row.value for row in rows])


def _snips_error(rows: Sequence[_Row], value: float) -> float:
    """By the delta method: a ratio of two means."""
    mean = sum(row.weight for row in rows) / len(rows)
    return _error([row.weight * (row.value - value) / mean for row in rows]) if mean else math.nan


def _dr_error(rows: Sequence[_Row], value: float) -> float:
    return _error([row.direct + row.weight * (row.value - row.chosen_model) for row in rows])


_ESTIMATORS: Final = {"ips": (_ips, _ips_error), "snips": (_snips, _snips_error), "dr": (_dr, _dr_error)}
