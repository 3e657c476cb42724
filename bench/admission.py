#!/usr/bin/env python3
"""What it costs in process to let a request in: its client key, its limits, its budgets. Microseconds, as Markdown.

    bench/admission.py

The least of five rounds: the machine's noise only adds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path
from time import monotonic, perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from keys.auth import BudgetRecord, KeyRecord, authenticate, digest_of
from keys.ledger import Grant, Ledger, Return
from keys.limit_table import ADDRESS_MEMORY, TABLE, Addresses, owner_of
from keys.limits import Bucket, Limits

ROUNDS, REPEATS = 5, 20_000
PLAINTEXT = b"tokenhub_" + b"ab" * 32


class Rich:
    """A bank that grants whatever is asked for: leases are rare, and are not what is measured."""

    def grant(self, budget_id: int, lease: str, *, most: int, least: int) -> Grant:
        return Grant("lease", 1, 0.0, inf, most + 10**15, 10**15, 0, 0)

    def give_back(self, one: Return) -> None:
        pass


def least(work: Callable[[], object]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = perf_counter()
        for _ in range(REPEATS):
            work()
        rounds.append((perf_counter() - began) / REPEATS * 1e6)
    return min(rounds)


async def budgets(count: int) -> float:
    ledger = Ledger(Rich())
    records = [BudgetRecord(one, 10**18, "total", "this client key") for one in range(count)]
    rounds = []
    for _ in range(ROUNDS):
        began = perf_counter()
        for _ in range(REPEATS):
            held = [await ledger.reserve(one, most=1000, least=10) for one in records]
            for one in held:
                ledger.settle(one, 500)
        rounds.append((perf_counter() - began) / REPEATS * 1e6)
    return min(rounds)


def main() -> None:
    addresses = Addresses(ADDRESS_MEMORY, rate=1e6, burst=10**6)
    second, minute, tokens = Bucket(1e6, 1e6), Bucket(1e6, 6e7), Bucket(1e9, 6e10)
    limits = Limits(owner_of("key", "x"), "This client key", second, minute, tokens, 1000)
    record = KeyRecord("id", "app", "", (), frozenset(), frozenset(), True, True, None)
    keys, headers = {digest_of(PLAINTEXT): record}, {b"authorization": b"Bearer " + PLAINTEXT}

    def limited() -> None:
        TABLE.enter(limits, 100.0, monotonic())
        TABLE.leave(limits, -20.0, monotonic())

    figures = {
        "address": least(lambda: addresses.take("127.0.0.1", monotonic())),
        "client key": least(lambda: authenticate(keys, headers, now=0.0)),
        "four limits of a key, in and out": least(limited),
        "one budget, reserved and settled": asyncio.run(budgets(1)),
        "three budgets": asyncio.run(budgets(3)),
    }
    for name, figure in figures.items():
        print(f"| {name} | {figure:.1f} |")
    print(f"| address, key, four limits, one budget | {sum(list(figures.values())[:4]):.1f} |")


if __name__ == "__main__":
    main()
