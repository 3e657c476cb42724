#!/usr/bin/env python3
"""How well the router chooses, on recorded outcomes of several models on the same prompts, as Markdown.

    bench/routing/run.py [-s SEEDS] [--only WORD] [FILE…]

Files: one JSON object a line, `{"prompt", "source", "arms": {model: {"reward": 0..1, "cost": US dollars}}}`; without
any, all *.jsonl in the folder ROUTING_DATA (default: ../shared/routing-data). README.md says what is done with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from bench_data import Table, Words, split, tables
from bench_policies import (
    NOTHING,
    Chance,
    Learning,
    Policy,
    Published,
    Scored,
    Turns,
    published_priors,
    without_context,
)
from bench_streams import Outcome, Scenario, World, run, world

from routing.bandit import Context, Settings, State
from routing.scoring import PROFILES

PUBLISHED_TARGETS = (0.65, 1.71, 4.70, 11.09)
MODES = [mode for mode in PROFILES if mode != "thompson"]


class Bench:
    """One data set: what was tuned or learned on its first part, and the policies that run on the second."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.tuning, self.reporting = split(table)
        self.catalogue = self.tuning.costs.mean(0)
        means = self.tuning.rewards.mean(0)
        spread = (means.max() - means.min()) or 1.0
        self.weights = [round(10 * (mean - means.min()) / spread) for mean in means]
        words = Words(self.tuning.prompts)
        self.vectors = words.vectors(self.reporting.prompts)
        self.tuning_vectors = words.vectors(self.tuning.prompts)
        self._states: dict[str, tuple[State, int]] = {}

    def contexts(self, kind: str) -> tuple[list[Context] | None, list[Context] | None]:
        match kind:
            case "plain":
                return self.tuning.contexts, self.reporting.contexts
            case "application":
                return self.tuning.tagged, self.reporting.tagged
            case _:
                return None, None

    def learned(self, kind: str, without: int | None) -> tuple[State, int]:
        """What the bandit learns on the tuning part by its own choices, in one pass, and how many requests it took."""
        key = f"{kind} {without}"
        if key not in self._states:
            scenario = Scenario("", "", self.tuning, present=lambda phase, arm: arm != without, passes=1)
            settings = without_context(Settings()) if kind == "none" else Settings()
            policy = Learning(self.table.arms, self.contexts(kind)[0], 0, settings=settings)
            stream = world(scenario, self.catalogue, 0)
            run(policy, stream, 0)
            self._states[key] = (policy.bandit.export(), len(stream.rows))
        return self._states[key]

    def bandit(
        self, one: World, seed: int, *, kind: str = "plain", warm: bool = True, budget: float | None = None,
        without: int | None = None,
    ) -> Learning:  # fmt: skip
        state, began = self.learned(kind, without) if warm else (None, 0)
        settings = without_context(Settings()) if kind == "none" else Settings()
        return Learning(
            self.table.arms,
            self.contexts(kind)[1],
            seed,
            settings=settings,
            state=state,
            began=began,
            budget=budget,
            requests=len(one.rows),
        )

    def published(self, budget: float | None, without: int | None = None, **tuned: float) -> Published:
        known = [arm != without for arm in range(len(self.table.arms))]
        priors = published_priors(self.tuning_vectors, self.tuning.rewards, known)
        scale = (float(self.catalogue.min()) or 1e-9, float(self.catalogue.max()) or 1e-9)
        new = () if without is None else (without,)
        return Published(self.vectors, priors, budget=budget, scale=scale, new=new, **tuned)


def scenarios(bench: Bench) -> list[Scenario]:
    """`best`: the model with most reward on the tuning part; `rival`: the next one."""
    table, means, costs = bench.reporting, bench.tuning.rewards.mean(0), bench.catalogue
    order = np.argsort(-means)
    best, rival = int(order[0]), int(order[1])
    dearest = int(costs.argmax())
    names = table.arms

    def worse(arm: int) -> Callable[[float, int, np.ndarray], np.ndarray]:
        lost = float(means[arm]) - 0.75 if means[arm] > 0.8 else float(means[arm]) / 3
        return lambda phase, one, reward: max(reward - lost, 0.0) if one == arm and 1 <= phase < 2 else reward

    def out(arm: int) -> Callable[[float, int, np.ndarray], np.ndarray]:
        return lambda phase, one, reward: -1.0 if one == arm and 1 <= phase < 2 else reward

    found = [
        Scenario("Stationary", "Nothing changes.", table),
        Scenario(f"Drift: {names[best]} degrades", "The best model falls to 0.75 in the second third, silently.", table,
                 reward=worse(best)),
        Scenario(f"Drift: {names[rival]} degrades", "The second best falls to 0.75 in the second third.", table,
                 reward=worse(rival)),
        Scenario(f"Outage: {names[best]}", "All its calls fail in the second third: no reward, no cost.", table,
                 reward=out(best)),
        Scenario(f"Outage: {names[rival]}", "The same for the second best.", table, reward=out(rival)),
    ]  # fmt: skip
    if table.has_costs:
        found.append(
            Scenario(f"Price: {names[dearest]} at a tenth", "In the second third, then the old price again.", table,
                     price=lambda phase, arm: 0.1 if arm == dearest and 1 <= phase < 2 else 1.0)
        )  # fmt: skip
    if len(names) > 2:
        new = len(names) - 1 if len(names) > 3 else best
        found.append(
            Scenario(f"New model: {names[new]}", "It appears after the first third; only its price is known.",
                     table, present=lambda phase, arm: arm != new or phase >= 1, new=(new,))
        )  # fmt: skip
    return found


def ceiling(scenario: Scenario, one: World, contexts: list[Context] | None, budget: float | None) -> Outcome:
    """The most that any policy could get which tells requests apart by those contexts, given each context's mean
    rewards and costs in each phase beforehand, at a mean cost within the budget (dollars per request)."""
    thirds = np.minimum(np.arange(len(one.rows)) * 3 // len(one.rows), 2)
    keys: dict[tuple[int, Context], list[int]] = {}
    for step, row in enumerate(one.rows.tolist()):
        keys.setdefault((int(thirds[step]), contexts[row] if contexts else NOTHING), []).append(step)
    groups = []
    for steps in keys.values():
        arms = one.available[steps[0]]
        groups.append((len(steps), one.rewards[steps][:, arms].mean(0), one.costs[steps][:, arms].mean(0)))

    def at(price: float) -> tuple[float, float]:
        reward = cost = 0.0
        for size, rewards, costs in groups:
            pick = int((rewards - price * costs).argmax())
            reward, cost = reward + size * rewards[pick], cost + size * costs[pick]
        return reward / len(one.rows), cost / len(one.rows)

    reward, cost = at(0.0)
    if budget is None or cost <= budget:
        return Outcome(reward, cost * 1000)
    low, high = 0.0, 1e7
    for _ in range(80):
        middle = (low * high) ** 0.5 if low > 0 else high / 1e4 if high > 1 else high / 2
        low, high = (middle, high) if at(middle)[1] > budget else (low, middle)
    over, under = at(low), at(high)
    if under[1] > budget:
        return Outcome(under[0], under[1] * 1000)
    share = (budget - under[1]) / (over[1] - under[1]) if over[1] > under[1] else 0.0
    return Outcome(under[0] + share * (over[0] - under[0]), budget * 1000)


class Rows:
    """Outcomes by policy and seed, and their table."""

    def __init__(self) -> None:
        self.found: dict[str, list[Outcome]] = {}

    def add(self, name: str, outcome: Outcome) -> None:
        self.found.setdefault(name, []).append(outcome)

    def mean(self, name: str) -> tuple[float, float]:
        return (
            float(np.mean([one.reward for one in self.found[name]])),
            float(np.mean([one.cost for one in self.found[name]])),
        )

    def difference(self, name: str, other: str) -> tuple[float, float]:
        """Paired over the seeds, with half the width of its 95 % interval."""
        gaps = [a.reward - b.reward for a, b in zip(self.found[name], self.found[other], strict=True)]
        return float(np.mean(gaps)), half_width(gaps)

    def table(self, best: str) -> str:
        lines = ["| policy | reward | $ per 1,000 | regret | against the best single model |", "|---|---|---|---|---|"]
        top = self.mean("oracle")[0]
        for name, outcomes in self.found.items():
            reward, cost = self.mean(name)
            gap, error = self.difference(name, best)
            wide = half_width([one.reward for one in outcomes])
            against = "(best single)" if name == best else f"{gap:+.4f} ± {error:.4f}"
            lines.append(f"| {name} | {reward:.4f} ± {wide:.4f} | {cost:.3f} | {top - reward:.4f} | {against} |")
        return "\n".join(lines)


def half_width(values: list[float]) -> float:
    """Every seed is a resample of the rows, so its scatter is the error of the estimate."""
    return 1.96 * float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def report(bench: Bench, scenario: Scenario, seeds: int, tuned: dict[str, float]) -> list[str]:
    """Prints the scenario's table; returns the lines of the summary."""
    table, rows = bench.table, Rows()
    names = table.arms
    without = scenario.new[0] if scenario.new else None
    paced: dict[str, tuple[str, str, str]] = {}
    spends: dict[str, list[float]] = {}
    stationary = scenario.name == "Stationary"
    for seed in range(seeds):
        one = world(scenario, bench.catalogue, seed)
        fixed = [one.fixed(arm) for arm in range(len(names))]

        def play(name: str, policy: Policy, one: World = one, seed: int = seed) -> Outcome:
            outcome = run(policy, one, seed)
            rows.add(name, outcome)
            return outcome

        for arm, name in enumerate(names):
            if arm != without:
                rows.add(name, fixed[arm])
        play("random", Chance(seed))
        play("round robin", Turns())
        for mode in MODES:
            play(f"mode {mode}", Scored(mode, bench.weights))
        play("bandit", bench.bandit(one, seed, without=without))
        play("bandit without context", bench.bandit(one, seed, kind="none", without=without))
        if stationary:
            play("bandit, cold start", bench.bandit(one, seed, warm=False))
        play("bandit, source known¹", bench.bandit(one, seed, kind="application", without=without))
        play("published policy, no budget", bench.published(None, without, **tuned))
        rows.add("ceiling of the features²", ceiling(scenario, one, bench.reporting.contexts, None))
        rows.add("ceiling, source known¹ ²", ceiling(scenario, one, bench.reporting.tagged, None))
        rows.add("oracle", one.oracle())
        if not table.has_costs:
            continue
        cheapest = min(outcome.cost for arm, outcome in enumerate(fixed) if arm != without)
        budgets = [(f"cost of {name}", fixed[arm].cost) for arm, name in enumerate(names) if arm != without]
        if stationary:
            budgets += [
                (f"${target}", target)
                for target in PUBLISHED_TARGETS
                if cheapest < target < max(one.cost for one in fixed)
            ]
        for label, cost in budgets:
            if cost <= cheapest:
                continue  # nothing else fits
            ours, theirs, most = f"bandit, {label}", f"published policy, {label}", f"ceiling², {label}"
            paced[label] = (ours, theirs, most)
            found = play(ours, bench.bandit(one, seed, budget=cost / 1000, without=without))
            spends.setdefault(ours, []).append(found.cost / cost - 1)
            found = play(theirs, bench.published(cost / 1000, without, **tuned))
            spends.setdefault(theirs, []).append(found.cost / cost - 1)
            rows.add(most, ceiling(scenario, one, bench.reporting.contexts, cost / 1000))
    singles = [name for arm, name in enumerate(names) if arm != without]
    best = max(singles, key=lambda name: rows.mean(name)[0])
    print(f"\n### {scenario.name}\n\n{scenario.about}\n")
    print(rows.table(best))
    gap, error = rows.difference("bandit", best)
    cost, dear = rows.mean("bandit")[1], rows.mean(best)[1]
    times = f"{cost / dear:.2f} × its cost" if dear else ""
    summary = [f"| {scenario.name} | no budget; best: {best} | {gap:+.4f} ± {error:.4f} | {times} | | |"]
    for label, (ours, theirs, most) in paced.items():
        spend = f"{100 * np.mean(spends[ours]):+.2f} % (worst {100 * np.max(np.abs(spends[ours])):.2f} %)"
        to_pacer, pacer_error = rows.difference(ours, theirs)
        their_spend = f"{100 * np.mean(spends[theirs]):+.1f} %"
        left = rows.difference(most, ours)[0]
        if label.startswith("cost of "):
            name = label.removeprefix("cost of ")
            gap, error = rows.difference(ours, name)
            versus = f"{gap:+.4f} ± {error:.4f}"
        else:
            versus = ""
        summary.append(
            f"| {scenario.name} | {label} | {versus} | {spend} "
            f"| {to_pacer:+.4f} ± {pacer_error:.4f} (it spends {their_spend}) | {left:.4f} |"
        )
    return summary


def tune_published(bench: Bench) -> dict[str, float]:
    """The published policy's own settings, on the tuning part, over two budgets."""
    other = Bench.__new__(Bench)
    other.__dict__.update(bench.__dict__)
    other.reporting, other.vectors = bench.tuning, bench.tuning_vectors
    scenario = Scenario("", "", bench.tuning, passes=2)
    stream = world(scenario, bench.catalogue, 99)
    best: tuple[float, dict[str, float]] = (-1.0, {})
    middle = sorted(bench.catalogue)[len(bench.catalogue) // 2]
    for alpha in (0.01, 0.05):
        for penalty in (0.0, 0.02, 0.1):
            for forgetting in (0.997, 0.9995):
                tuned = {"alpha": alpha, "penalty": penalty, "forgetting": forgetting}
                total = sum(
                    run(other.published(budget, **tuned), stream, 0).reward
                    for budget in (None, float(middle) * 3 or None)
                )
                if total > best[0]:
                    best = (total, tuned)
    return best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="How well the router chooses, on recorded outcomes.")
    parser.add_argument("-s", "--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="only scenarios whose name holds this word")
    parser.add_argument("files", nargs="*", type=Path)
    wanted = parser.parse_args()
    began = perf_counter()
    summary: list[str] = []
    for table in tables(wanted.files):
        bench = Bench(table)
        tuned = tune_published(bench)
        print(
            f"\n## {table.name}\n\n{len(table)} prompts, {len(table.arms)} models; tuned or learned before on "
            f"{len(bench.tuning)}, reported on the other {len(bench.reporting)}; {wanted.seeds} seeds, each a resample "
            f"of the rows, three passes; rewards settle {20} requests later on average. Published policy: {tuned}."
        )
        summary.append(f"| **{table.name}** | | | | | |")
        for scenario in scenarios(bench):
            if wanted.only.lower() in scenario.name.lower():
                summary += report(bench, scenario, wanted.seeds, tuned)
                sys.stdout.flush()
    print("\n## Summary\n\nBandit against…\n")
    print(
        "| scenario | at | reward against that model | spend | reward against the published policy "
        "| below the ceiling² |"
    )
    print("|---|---|---|---|---|---|")
    print("\n".join(summary))
    print(
        "\n¹ As if every source data set were an application with a client key of its own: more than the cheap "
        "features tell.\n² Knows every context's mean reward and cost, and every change, beforehand: no policy "
        f"that tells requests apart by these features alone can get more.\n\n{perf_counter() - began:.0f} s."
    )


if __name__ == "__main__":
    main()
