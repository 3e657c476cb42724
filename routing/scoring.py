"""How the modes weigh a target. Pure: figures in, scores out; lower is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple


@dataclass(frozen=True, slots=True)
class Profile:
    """Weights of the four parts of a score; they add up to 1."""

    cost: float
    latency: float
    failure: float
    capability: float


PROFILES: Final = MappingProxyType(
    {
        "cheap": Profile(0.7, 0.1, 0.1, 0.1),
        "normal": Profile(0.25, 0.25, 0.25, 0.25),
        "high_confidence": Profile(0.05, 0.1, 0.15, 0.7),
        "planning": Profile(0.1, 0.1, 0.2, 0.6),
        "adversarial": Profile(0.1, 0.1, 0.2, 0.6),
        "thompson": Profile(0.25, 0.25, 0.25, 0.25),  # shown beside what was learned, and the rule without a bandit
    }
)


class Figures(NamedTuple):
    """What is known of one candidate. `cost`: nano-dollars expected for this request, None when it has no price;
    `failure`: share of failed calls, 0 to 1; `weight`: 0 to 10."""

    cost: int | None
    latency_ms: float
    failure: float
    weight: int


class Parts(NamedTuple):
    """A score, and what it is made of. Capability counts against the others."""

    score: float
    cost: float
    latency: float
    failure: float
    capability: float


def scores(
    candidates: Sequence[Figures], profile: Profile, *, dearest: float = 0.0, slowest: float = 0.0
) -> list[Parts]:
    """Cost and latency count relative to the dearest and slowest candidate; `dearest` and `slowest`: of more than
    these. No price counts as the dearest."""
    if not candidates:
        return []
    dearest = dearest or max((one.cost or 0 for one in candidates), default=0) or 1
    slowest = slowest or max(one.latency_ms for one in candidates) or 1.0
    result = []
    for cost, latency_ms, failure, weight in candidates:
        cost_part = profile.cost * (1.0 if cost is None else cost / dearest)
        latency_part = profile.latency * (latency_ms / slowest)
        failure_part = profile.failure * failure
        capability_part = profile.capability * (weight / 10)
        score = cost_part + latency_part + failure_part - capability_part
        result.append(Parts(score, cost_part, latency_part, failure_part, capability_part))
    return result
