"""Who decides: one model always, chance, turns, the scored modes, the bandit, the published pacer. A policy sees the
rewards of the arms that it chose, when they settle, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np

from routing.bandit import Arm, Bandit, Context, Settings, State
from routing.pacing import Pacer, PaceSettings
from routing.scoring import PROFILES, Figures, scores

SECONDS = 60.0  # between two requests


class Policy:
    """`step`: number of the request. `available`: positions of the arms that may be asked, `costs`: what each is
    expected to cost by today's prices."""

    budget: float | None = None  # dollars per request

    def decide(self, step: int, row: int, available: list[int], costs: list[float]) -> int:
        raise NotImplementedError

    def paid(self, step: int, cost: float) -> None:
        """At once, unlike the reward."""

    def settled(self, step: int, row: int, arm: int, reward: float, cost: float, chosen_at: int) -> None:
        """A reward of an earlier choice."""


class Fixed(Policy):
    def __init__(self, arm: int) -> None:
        self.arm = arm

    def decide(self, step, row, available, costs):
        return self.arm


class Chance(Policy):
    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)

    def decide(self, step, row, available, costs):
        return self.rng.choice(available)


class Turns(Policy):
    def decide(self, step, row, available, costs):
        return available[step % len(available)]


class Scored(Policy):
    """A mode of `routing/scoring.py`. `weights`: the capability of each arm, from the tuning part. Failed calls count
    at once, as in the gateway; latencies are not in the data and count as equal."""

    def __init__(self, mode: str, weights: list[int]) -> None:
        self.profile, self.weights = PROFILES[mode], weights
        self.failure = [0.0] * len(weights)

    def decide(self, step, row, available, costs):
        figures = [Figures(int(costs[arm] * 1e9), 1.0, self.failure[arm], self.weights[arm]) for arm in available]
        found = scores(figures, self.profile)
        return available[min(range(len(found)), key=lambda one: found[one].score)]

    def settled(self, step, row, arm, reward, cost, chosen_at):
        self.failure[arm] += 0.1 * ((cost == 0.0 and reward == 0.0) - self.failure[arm])


class Learning(Policy):
    """The bandit, with a pacer when there is a budget. `requests`: how long the budget is to last."""

    def __init__(
        self,
        names: list[str],
        contexts: list[Context] | None,
        seed: int,
        *,
        settings: Settings | None = None,
        state: State | None = None,
        began: int = 0,
        budget: float | None = None,
        requests: int = 0,
        pace: PaceSettings | None = None,
    ) -> None:
        self.names, self.contexts = names, contexts
        self.bandit = Bandit(settings, state)
        self.rng = Random(seed)
        self.began = began  # requests before this stream
        self.expected: dict[int, list[float]] = {}  # by request: what its arms were expected to cost
        self.budget, self.requests = budget, requests
        self.pacer = Pacer(pace) if budget is not None else None
        self.spent = 0.0

    def decide(self, step, row, available, costs):
        pressure = 0.0
        if self.pacer is not None:
            pressure = self.pacer.pressure(
                spent=self.spent, budget=self.budget * self.requests, elapsed=step / self.requests
            )
        names = self.names
        self.expected[step] = costs
        choice = self.bandit.choose(
            self.contexts[row] if self.contexts else NOTHING,
            [Arm(names[arm], costs[arm]) for arm in available],
            rng=self.rng,
            now=(self.began + step) * SECONDS,
            pressure=pressure,
        )
        if self.pacer is not None:
            self.pacer.note(choice.expected_cost)
        return names.index(choice.order[0])

    def paid(self, step, cost):
        self.spent += cost

    def settled(self, step, row, arm, reward, cost, chosen_at):
        context = self.contexts[row] if self.contexts else NOTHING
        self.bandit.learn(
            context,
            self.names[arm],
            reward,
            now=(self.began + step) * SECONDS,
            at=(self.began + chosen_at) * SECONDS,
            cost=cost if cost else None,
            expected_cost=self.expected[chosen_at][arm] if cost else None,
        )


NOTHING = Context()


class Published(Policy):
    """The policy of ParetoBandit (arXiv 2604.00136) after its description: disjoint LinUCB with geometric forgetting, a
    penalty and a ceiling on cost from a smoothed dual variable, a new arm forced for its first requests."""

    def __init__(
        self,
        vectors: np.ndarray,
        priors: tuple[np.ndarray, np.ndarray],
        *,
        budget: float | None,
        alpha: float = 0.05,
        forgetting: float = 0.997,
        penalty: float = 0.02,
        forced: int = 20,
        new: tuple[int, ...] = (),
        scale: tuple[float, float] = (1e-5, 1e-1),
    ) -> None:
        self.vectors = vectors
        self.precision, self.moment = priors[0].copy(), priors[1].copy()
        self.inverse = np.linalg.inv(self.precision)
        self.alpha, self.forgetting, self.penalty = alpha, forgetting, penalty
        self.touched = np.zeros(len(self.moment), dtype=int)
        self.updated = np.zeros(len(self.moment), dtype=int)
        self.budget, self.dual, self.smoothed = budget, 0.0, budget or 0.0
        self.scale = scale
        self.to_force = dict.fromkeys(new, forced)

    def decide(self, step, row, available, costs):
        for arm in available:
            if self.to_force.get(arm, 0) > 0 and step % 2:
                self.to_force[arm] -= 1
                self.touched[arm] = step
                return arm
        asked = list(available)
        if self.dual > 0:
            ceiling = max(costs[arm] for arm in asked) / (1 + self.dual)
            asked = [arm for arm in asked if costs[arm] <= ceiling] or [min(asked, key=lambda one: costs[one])]
        x = self.vectors[row]
        low, high = self.scale
        best, chosen = -np.inf, asked[0]
        for arm in asked:
            inverse = self.inverse[arm]
            leaning = inverse @ x
            stale = max(self.forgetting ** min(step - self.touched[arm], 1000), 1 / 200)
            bonus = self.alpha * np.sqrt(max(x @ leaning, 0.0) / stale)
            dear = np.log(max(costs[arm], low) / low) / np.log(high / low) if high > low else 0.0
            score = leaning @ self.moment[arm] + bonus - (self.penalty + self.dual) * dear
            if score > best:
                best, chosen = score, arm
        self.touched[chosen] = step
        return chosen

    def paid(self, step, cost):
        if self.budget is not None:
            self.smoothed += 0.05 * (cost - self.smoothed)
            self.dual = min(5.0, max(0.0, self.dual + 0.05 * (self.smoothed / self.budget - 1)))

    def settled(self, step, row, arm, reward, cost, chosen_at):
        x = self.vectors[row]
        fade = self.forgetting ** min(max(step - self.updated[arm], 0), 1000)
        self.updated[arm] = step
        self.precision[arm] = fade * self.precision[arm] + np.outer(x, x)
        self.moment[arm] = fade * self.moment[arm] + reward * x
        if (lowest := self.precision[arm].diagonal().min()) < 0.1:  # the ridge has faded
            self.precision[arm] += (1.0 - lowest) * np.eye(len(x))
            self.inverse[arm] = np.linalg.inv(self.precision[arm])
            return
        inverse = self.inverse[arm] / fade
        leaning = inverse @ x
        self.inverse[arm] = inverse - np.outer(leaning, leaning) / (1 + x @ leaning)


def published_priors(vectors: np.ndarray, rewards: np.ndarray, known: list[bool], strength: float = 300.0):
    """Ridge regressions on the tuning part with all its rewards, as that policy's authors start theirs; worth so many
    rewards."""
    size = vectors.shape[1]
    precision, moment = [], []
    share = min(1.0, strength / len(vectors))
    for arm in range(rewards.shape[1]):
        if known[arm]:
            precision.append(share * vectors.T @ vectors + np.eye(size))
            moment.append(share * vectors.T @ rewards[:, arm])
        else:
            precision.append(np.eye(size))
            moment.append(np.zeros(size))
    return np.array(precision), np.array(moment)


def without_context(settings: Settings) -> Settings:
    return replace(settings, context_error=1e-3)
