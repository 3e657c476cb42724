#!/usr/bin/env python3
"""What it costs in process to let a request in: its client key, its limits, its budgets. Microseconds, as Markdown.
Limits that hosts share are asked of a redis-server of its own, by 32 requests at a time; left out where there is none.

    bench/admission.py

The least of five rounds: the machine's noise only adds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from math import inf
from mmap import mmap
from pathlib import Path
from time import monotonic, perf_counter, process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from keys.auth import BudgetRecord, KeyRecord, authenticate, digest_of
from keys.ledger import Grant, Ledger, Reserved, Return
from keys.limit_table import ADDRESS_MEMORY, TABLE, Addresses, LimitTable, owner_of
from keys.limits import Bucket, Limits

ROUNDS, REPEATS = 5, 20_000
AT_ONCE, SHARED_REPEATS = 32, 300
PLAINTEXT = b"tokenhub_" + b"ab" * 32


class Rich:
    """A bank that grants whatever is asked for: leases are rare, and are not what is measured."""

    def grant(self, budget_id: int, lease: str, *, most: int, least: int, have: int) -> Grant:
        return Grant("lease", 1, 0.0, inf, most + 10**15, have, 10**15, 0, 0)

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
            held = ledger.reserve_at_once(records, 1000)
            if held is None:
                held = [await ledger.reserve(one, most=1000, least=10) for one in records]
            Reserved(held).settle(500)
        rounds.append((perf_counter() - began) / REPEATS * 1e6)
    return min(rounds)


async def at_once(work: Callable[[], Awaitable[object]]) -> float:
    """This process's time for one, of 32 that are always under way."""

    async def run() -> None:
        for _ in range(SHARED_REPEATS):
            await work()

    rounds = []
    for _ in range(ROUNDS):
        began = process_time()
        await asyncio.gather(*[run() for _ in range(AT_ONCE)])
        rounds.append((process_time() - began) / (SHARED_REPEATS * AT_ONCE) * 1e6)
    return min(rounds)


async def shared(url: str, limits: Limits) -> dict[str, float]:
    from redis.asyncio import BlockingConnectionPool, Redis

    from keys.shared_limits import SharedLimits

    addresses = Addresses(mmap(-1, 65_536), rate=1e6, burst=10**6)
    hosts = SharedLimits(f"{url}?socket_timeout=20", addresses=addresses, table=LimitTable(sets=16))
    await hosts.start()

    async def limited() -> None:
        ticket = hosts.ask((limits,), "127.0.0.1", 100)
        await ticket.decided()
        ticket.close(80)

    ours = await at_once(limited)
    assert hosts.is_up, "Redis was too slow"
    await hosts.stop()
    pool = BlockingConnectionPool.from_url(url, max_connections=AT_ONCE)
    async with Redis(connection_pool=pool) as client:
        digest = await client.script_load("return 0")
        theirs = await at_once(lambda: client.evalsha(digest, 0))
    return {
        "four limits of a key and its address, in and out, shared by hosts": ours,
        "one empty script by redis-py, for comparison": theirs,
    }


def over_redis(limits: Limits) -> dict[str, float]:
    from tests.support.redis import Redis, why_not

    if reason := why_not():
        print(f"no shared limits: {reason}", file=sys.stderr)
        return {}
    import uvloop

    with Redis() as server:
        return uvloop.run(shared(server.url, limits))


def main() -> None:
    addresses = Addresses(ADDRESS_MEMORY, rate=1e6, burst=10**6)
    second, minute, tokens = Bucket(1e6, 1e6), Bucket(1e6, 6e7), Bucket(1e9, 6e10)
    limits = Limits(owner_of("key", "x"), "This client key", second, minute, tokens, 1000)
    record = KeyRecord("id", "app", "", (), frozenset(), frozenset(), True, True, None)
    keys, headers = {digest_of(PLAINTEXT): record}, {b"authorization": b"Bearer " + PLAINTEXT}

    exact = LimitTable(sets=16)
    TABLE.lease_by(lambda seconds, call: None)

    def limited(table: LimitTable = TABLE) -> None:
        now = monotonic()
        table.enter(limits, 100.0, now)
        table.leave(limits, -20.0, monotonic(), since=now)

    def told() -> None:
        now = monotonic()
        lease = TABLE.enter(limits, 100.0, now)
        lease.lines(now)
        TABLE.leave(limits, -20.0, monotonic(), since=now)

    figures = {
        "address": least(lambda: addresses.take("127.0.0.1", monotonic())),
        "client key": least(lambda: authenticate(keys, headers, now=0.0)),
        "four limits of a key, in and out, far from all of them": least(limited),
        "one budget, reserved and settled": asyncio.run(budgets(1)),
        "three budgets": asyncio.run(budgets(3)),
    }
    together = sum(list(figures.values())[:4])
    figures["four limits of a key near one of them: decided in the table"] = least(lambda: limited(exact))
    figures["what the client is told of them"] = least(told) - list(figures.values())[2]
    for name, figure in (figures | over_redis(limits)).items():
        print(f"| {name} | {figure:.1f} |")
    print(f"| address, key, four limits, one budget | {together:.1f} |")


if __name__ == "__main__":
    main()
