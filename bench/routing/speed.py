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

from routing.bandit import Arm, Bandit, context_of

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


def main() -> None:
    print("| targets | a choice, least | median | wanted | learning a reward |\n|---|---|---|---|---|")
    for count in (3, 10, 30, 100, 1_000):
        least, middle, learning = microseconds(count)
        wanted = f"under {WANTED[count]:.0f}" if count in WANTED else ""
        print(f"| {count} | {least:.1f} | {middle:.1f} | {wanted} | {learning:.0f} |")


if __name__ == "__main__":
    main()
