#!/usr/bin/env python3
"""What a choice of the bandit costs, in microseconds, by the number of targets, as Markdown.

    bench/routing/speed.py

The least and the median of many: the machine's noise only adds. A reward is learned before every tenth choice."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from providers.formats.registry import DIALECTS
from routing.bandit import Arm, Bandit, context_of
from routing.eligibility import Needs
from routing.health import Health
from routing.policy import Policy
from routing.ranking import rank
from tests.support.targets import NOW, key, prices, provider, snapshot, target

WANTED = {10: 30.0, 1_000: 300.0}


def learned(count: int, rng: random.Random) -> tuple[Bandit, list[Arm], float]:
    bandit = Bandit()
    arms = [Arm(f"model-{one}", cost=0.001 * (1 + one % 7), latency_ms=500.0, weight=one % 10) for one in range(count)]
    context = context_of(input_tokens=50, text="What is 12 plus 5?")
    for step in range(30 * count):
        good = 0.7 + 0.25 * (step * 7919 % count) / count
        bandit.learn(context, arms[step % count].id, float(rng.random() < good), now=1e9 + step)
    return bandit, arms, 1e9 + 30.0 * count


def microseconds(count: int, repeats: int = 1_000) -> tuple[float, float, float]:
    """A choice at the least, in the median, and a reward learned."""
    rng = random.Random(1)
    bandit, arms, now = learned(count, rng)
    context = context_of(input_tokens=50, text="What is 12 plus 5?")
    choices, rewards = [], []
    for step in range(repeats):
        now += 1.0
        if step % 10 == 0:
            began = perf_counter()
            bandit.learn(context, rng.choice(arms).id, 1.0, now=now)
            rewards.append(perf_counter() - began)
        began = perf_counter()
        bandit.choose(context, arms, rng=rng, now=now)
        choices.append(perf_counter() - began)
    return min(choices) * 1e6, median(choices) * 1e6, median(rewards) * 1e6


def scored(count: int, repeats: int = 1_000) -> tuple[float, float]:
    """A ranking by score, with a budget and a latency to be kept: at the least, in the median."""
    targets = [
        target(f"m{one}", at=provider(f"p{one % 20}"), weight=one % 10, priced=prices(1_000 + one, 2_000))
        for one in range(count)
    ]
    catalogue, health, times = snapshot(*targets), Health(), []
    for one in targets:
        health.succeeded(one.provider.id, one.model_id, latency_ms=100.0 + one.weight, started=NOW, now=NOW)
    policy = Policy("normal", max_budget_nano=50_000_000, max_latency_ms=20_000)
    chat, needs, who = DIALECTS["openai-chat"], Needs(100, 100, frozenset()), key()
    for step in range(repeats):
        now = NOW + step / 100  # a hundred requests a second
        began = perf_counter()
        rank(catalogue, dialect=chat, needs=needs, policy=policy, key=who, health=health, vault_open=True, now=now)
        times.append(perf_counter() - began)
    return min(times) * 1e6, median(times) * 1e6


def main() -> None:
    print("| targets | by score, least | median | wanted |\n|---|---|---|---|")
    for count in (3, 10, 30, 100, 1_000):
        least, middle = scored(count)
        wanted = f"under {WANTED[count]:.0f}" if count in WANTED else ""
        print(f"| {count} | {least:.1f} | {middle:.1f} | {wanted} |")
    print("\n| targets | thompson, least | median | wanted | learning a reward |\n|---|---|---|---|---|")
    for count in (3, 10, 30, 100, 1_000):
        least, middle, learning = microseconds(count)
        wanted = f"under {WANTED[count]:.0f}" if count in WANTED else ""
        print(f"| {count} | {least:.1f} | {middle:.1f} | {wanted} | {learning:.0f} |")


if __name__ == "__main__":
    main()
