"""What happens while a policy decides: scenarios, and the run of a policy through one."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import numpy as np
from bench_data import Table
from bench_policies import Policy

MEAN_DELAY = 20.0  # requests until a reward settles; exponential


@dataclass
class Scenario:
    """`reward`, `cost`, `present`: from the phase and an arm's position to the change in it. Phases are thirds."""

    name: str
    about: str
    table: Table
    reward: Callable[[float, int, np.ndarray], np.ndarray] | None = None
    price: Callable[[float, int], float] = lambda phase, arm: 1.0
    present: Callable[[float, int], bool] = lambda phase, arm: True
    new: tuple[int, ...] = ()
    passes: int = 3


@dataclass
class Outcome:
    reward: float
    cost: float  # dollars per 1,000 requests
    picks: np.ndarray = field(default_factory=lambda: np.zeros(0))
    by_phase: list[float] = field(default_factory=list)


@dataclass
class World:
    """One seed's stream: the rows in order, and what each arm would have given and cost, by request."""

    rows: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    expected: np.ndarray
    available: list[list[int]]

    def fixed(self, arm: int) -> Outcome:
        return Outcome(float(self.rewards[:, arm].mean()), float(self.costs[:, arm].mean() * 1000))

    def oracle(self) -> Outcome:
        order = np.where(self._there(), self.rewards - 1e-9 * self.costs, -1.0)
        best = order.argmax(1)
        steps = np.arange(len(best))
        return Outcome(float(self.rewards[steps, best].mean()), float(self.costs[steps, best].mean() * 1000))

    def _there(self) -> np.ndarray:
        there = np.zeros(self.rewards.shape, dtype=bool)
        for step, arms in enumerate(self.available):
            there[step, arms] = True
        return there


def world(scenario: Scenario, catalogue: np.ndarray, seed: int) -> World:
    """Each phase passes once through a resample of the rows. `catalogue`: expected cost per arm, of the tuning part."""
    rng = np.random.default_rng(seed)
    table = scenario.table
    count = len(table)
    sample = rng.integers(0, count, count)
    rows = np.concatenate([rng.permutation(sample) for _ in range(scenario.passes)])
    steps = len(rows)
    rewards, costs = table.rewards[rows].copy(), table.costs[rows].copy()
    arms = range(len(table.arms))
    phases = np.arange(steps) / steps * 3
    prices = np.array([[scenario.price(phase, arm) for arm in arms] for phase in phases])
    costs *= prices
    if scenario.reward is not None:
        for arm in arms:
            rewards[:, arm] = [
                scenario.reward(phase, arm, one) for phase, one in zip(phases, rewards[:, arm], strict=True)
            ]
    failed = rewards < 0
    rewards[failed], costs[failed] = 0.0, 0.0
    available = [[arm for arm in arms if scenario.present(phase, arm)] for phase in phases]
    return World(rows, rewards, costs, catalogue * prices, available)


def run(policy: Policy, one: World, seed: int) -> Outcome:
    rng = Random(seed + 1_000_003)
    waiting: list[tuple[float, int, int]] = []
    picked = np.zeros(len(one.rows), dtype=int)
    rewards, costs, expected = one.rewards.tolist(), one.costs.tolist(), one.expected.tolist()
    rows = one.rows.tolist()
    for step, row in enumerate(rows):
        while waiting and waiting[0][0] <= step:
            _, then, arm = heapq.heappop(waiting)
            policy.settled(step, rows[then], arm, rewards[then][arm], costs[then][arm], then)
        arm = policy.decide(step, row, one.available[step], expected[step])
        picked[step] = arm
        policy.paid(step, costs[step][arm])
        failed = costs[step][arm] == 0.0 and rewards[step][arm] == 0.0
        heapq.heappush(waiting, (step + 1 + (0 if failed else rng.expovariate(1 / MEAN_DELAY)), step, arm))
    steps = np.arange(len(picked))
    reward, cost = one.rewards[steps, picked], one.costs[steps, picked]
    thirds = [float(part.mean()) for part in np.array_split(reward, 3)]
    picks = np.bincount(picked, minlength=one.rewards.shape[1]) / len(picked)
    return Outcome(float(reward.mean()), float(cost.mean() * 1000), picks, thirds)
