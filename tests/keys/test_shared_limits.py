"""Limits that several hosts share, over a real Redis: the script against the pure arithmetic, tickets, and outages."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from mmap import mmap
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.limit_scripts import DEBTS, REFUSAL, UNDO, Owner, Scripts, bulks, moment_of
from keys.limit_table import Addresses, LimitTable, owner_of
from keys.limits import Bucket, LimitExceeded, Limits, Standings
from tests.support.gateway import free_port
from tests.support.redis import Redis, why_not

hiredis = pytest.importorskip("hiredis", reason="hiredis is not installed")
if reason := why_not():
    pytest.skip(reason, allow_module_level=True)

from keys import redis_pipe  # noqa: E402
from keys.shared_limits import SharedLimits, Ticket  # noqa: E402

CLOCK = "local now = tonumber(redis.call('GET', 'now'))"
ANYBODY = "10.0.0.1"


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> None:
    if "redis" in request.fixturenames:
        request.getfixturevalue("redis").client().flushall()


def limits(name: str = "a", **fields: object) -> Limits:
    return Limits(owner_of("key", name), "This client key", **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def host(url: str, *, rate: float = 0.0, burst: int = 1, table: LimitTable | None = None) -> Any:
    """What one worker of a host holds."""
    addresses = Addresses(mmap(-1, 64 * 1024), rate=rate, burst=burst)
    shared = SharedLimits(url, addresses=addresses, table=table or LimitTable(sets=16))
    await shared.start()
    try:
        yield shared
    finally:
        await shared.stop()


async def asked(shared: SharedLimits, *whose: Limits, tokens: int = 0, address: str = ANYBODY) -> Ticket:
    ticket = shared.ask(whose, address, tokens)
    assert ticket is not None
    await ticket.decided()
    return ticket


async def outcomes(count: int, ask: Callable[[], Awaitable[Ticket]]) -> tuple[int, list[LimitExceeded]]:
    found = await asyncio.gather(*[ask() for _ in range(count)], return_exceptions=True)
    refused = [one for one in found if isinstance(one, LimitExceeded)]
    passed = [one for one in found if isinstance(one, Ticket)]
    assert len(passed) + len(refused) == count, found
    return len(passed), refused


async def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  it may be another process's
            await asyncio.sleep(0.01)


# -- the script --------------------------------------------------------------------------------------------------------
class Scripted:
    """The script on a clock of the test's, called as the data plane calls it."""

    def __init__(self, client: Any) -> None:
        self.client, self.scripts = client, Scripts(CLOCK, lease_seconds=10**6)
        client.flushall()
        for load in self.scripts.loads():
            self._sent(load, 0.0)

    def _sent(self, command: bytes, now: float) -> Any:
        reader = hiredis.Reader()
        reader.feed(command)
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.set("now", repr(now))
            pipeline.execute_command(*reader.gets())
            return pipeline.execute()[1]

    def enter(self, now: float, tokens: int, *whose: Limits, name: bytes = b"r") -> bytes:
        command = self.scripts.enter([Owner.of(one) for one in whose], bulks(name), tokens)
        answer: bytes = self._sent(command, now)
        return answer

    def leave(self, now: float, more: int, *whose: Limits, since: bytes, name: bytes = b"r") -> None:
        self._sent(self.scripts.leave([Owner.of(one) for one in whose], bulks(name), more, since), now)


RATES = st.sampled_from([0.5, 1.0, 3.0, 7.3, 60.0, 1000.0])
MAYBE_BUCKET = st.none() | st.builds(Bucket, RATES, st.integers(1, 40).map(float))
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 2**-10, 0.125, 0.375, 1.0, 7.0]),
        st.integers(0, 80),
        st.sampled_from(["stay", "settle", "undo", "settle_an_earlier_one"]),
        st.integers(-40, 40),
    ),
    max_size=16,
)


def entered(table: LimitTable, whose: Limits, tokens: int, now: float) -> tuple[Standings | None, float]:
    try:
        return table.enter(whose, tokens, now).standings(now), 0.0
    except LimitExceeded as problem:
        return None, problem.retry_after_seconds


@settings(max_examples=100)
@given(MAYBE_BUCKET, MAYBE_BUCKET, MAYBE_BUCKET, st.integers(0, 4), STEPS)
def test_the_script_decides_as_the_table_does(
    redis: Redis,
    second: Bucket | None,
    minute: Bucket | None,
    tokens: Bucket | None,
    concurrent: int,
    steps: list[tuple[float, int, str, int]],
) -> None:
    both = limits(second=second, minute=minute, tokens=tokens, concurrent=concurrent)
    script, table, now = Scripted(redis.client()), LimitTable(sets=1), 1_800_000_000.0
    under_way: list[tuple[bytes, int, bytes, float]] = []
    for number, (pause, amount, then, more) in enumerate(steps):
        now += pause
        name = b"%d" % number
        reply = script.enter(now, amount, both, name=name)
        standings, told_wait = entered(table, both, amount, now - 1_800_000_000.0)
        if standings is None:
            assert reply[0] == 1, "refused by the table alone"
            assert REFUSAL.unpack_from(reply)[2] == pytest.approx(told_wait, abs=1e-5)
            continue
        assert reply[0] == 0, f"refused by the script alone: {REFUSAL.unpack_from(reply)}"
        told = both.standings(DEBTS.unpack_from(reply, 1), 0.0)
        for one, other in ((told.requests, standings.requests), (told.tokens, standings.tokens)):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert one.limit == other.limit
                assert one.reset_seconds == pytest.approx(other.reset_seconds, abs=1e-5)
        since, began = moment_of(reply), now - 1_800_000_000.0
        if then == "undo":
            script.leave(now, -amount, both, since=UNDO, name=name)
            table.leave(both, -amount, began, undo=True)
            continue
        under_way.append((name, amount, since, began))
        if then != "stay":
            name, amount, since, began = under_way.pop(0 if then == "settle_an_earlier_one" else -1)
            script.leave(now, max(more, -amount), both, since=since, name=name)
            table.leave(both, max(more, -amount), now - 1_800_000_000.0, since=began)


def test_tokens_do_not_come_back_to_a_bucket_that_was_full_in_the_meantime(redis: Redis) -> None:
    one, script = limits(tokens=Bucket(1.0, 60.0)), Scripted(redis.client())
    first = script.enter(1e9, 60, one, name=b"1")
    second = script.enter(1e9 + 60.0, 60, one, name=b"2")
    assert (first[0], second[0]) == (0, 0)
    script.leave(1e9 + 60.125, -60, one, since=moment_of(first), name=b"1")
    assert script.enter(1e9 + 60.125, 59, one)[0] == 1
    script.leave(1e9 + 60.25, -60, one, since=moment_of(second), name=b"2")
    assert script.enter(1e9 + 60.25, 60, one)[0] == 0


def test_state_of_a_version_before_is_understood(redis: Redis) -> None:
    one, script = limits(tokens=Bucket(1.0, 60.0)), Scripted(redis.client())
    taken = script.enter(1e9, 60, one)
    key = b"tokenhub:limits:" + one.owner.hex().encode() + b":b"
    redis.client().set(key, redis.client().get(key)[:32])
    script.leave(1e9 + 1.0, -60, one, since=moment_of(taken))
    assert script.enter(1e9 + 1.0, 60, one)[0] == 0


def test_the_longest_wait_of_all_owners_is_told_and_a_refusal_takes_nothing(redis: Redis) -> None:
    script = Scripted(redis.client())
    key, project = limits("k", second=Bucket(10.0, 1.0)), limits("p", minute=Bucket(0.5, 2.0), concurrent=5)
    assert script.enter(1e9, 0, key, project)[0] == 0
    assert script.enter(1e9, 0, project)[0] == 0
    whose, which, wait = REFUSAL.unpack_from(script.enter(1e9, 0, key, project))
    assert (whose, which, wait) == (2, 2, pytest.approx(2.0))
    assert script.enter(1e9 + 0.1, 0, key)[0] == 0  # of this one the refused request had taken nothing
    assert script.enter(1e9 + 2.0, 0, project)[0] == 0
    assert redis.client().zcard(b"tokenhub:limits:" + project.owner.hex().encode() + b":c") == 1  # all by one name


def test_nothing_is_kept_for_longer_than_it_matters(redis: Redis) -> None:
    script, client = Scripted(redis.client()), redis.client()
    script.enter(1e9, 5, limits(second=Bucket(1.0, 5.0), tokens=Bucket(1.0, 60.0), concurrent=3))
    assert all(client.pttl(key) > 0 for key in client.keys("tokenhub:*"))


# -- hosts -------------------------------------------------------------------------------------------------------------
def test_hosts_count_together_exactly(redis: Redis) -> None:
    async def body() -> None:
        one = limits(minute=Bucket(1e-6, 50.0))
        async with host(redis.patient_url) as a, host(redis.patient_url) as b:
            found = await asyncio.gather(*[outcomes(40, partial(asked, shared, one)) for shared in (a, b)])
        assert sum(passed for passed, _ in found) == 50
        assert sum(len(refused) for _, refused in found) == 30

    asyncio.run(body())


def test_tokens_are_settled_for_all_hosts(redis: Redis) -> None:
    async def body() -> None:
        one = limits(tokens=Bucket(1e-6, 100.0))
        async with host(redis.patient_url) as a, host(redis.patient_url) as b:
            ticket = await asked(a, one, tokens=80)
            with pytest.raises(LimitExceeded):
                await asked(b, one, tokens=50)
            ticket.close(30)
            await asked(a, one, tokens=0)  # on one connection, so the settlement has arrived
            standings = (await asked(b, one, tokens=50))._standings
            assert standings.tokens is not None
            assert standings.tokens.remaining == 20

    asyncio.run(body())


def test_whoever_leaves_before_the_answer_has_taken_nothing(redis: Redis) -> None:
    async def body() -> None:
        one = limits(minute=Bucket(1e-6, 3.0), tokens=Bucket(1e-6, 100.0), concurrent=1)
        async with host(redis.patient_url) as shared:
            left = shared.ask((one,), ANYBODY, 60)
            assert left is not None
            waiting = asyncio.ensure_future(left.decided())
            await asyncio.sleep(0)
            waiting.cancel()
            left.close(0)
            with suppress(LimitExceeded):  # may come between the two calls
                (await asked(shared, one)).close(0)
            (await asked(shared, one)).close(0)
            standings: Standings = (await asked(shared, one))._standings
            assert standings.tokens is not None
            assert standings.tokens.remaining == 100

    asyncio.run(body())


def test_requests_under_way_count_for_as_long_as_their_worker_lives(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keys.shared_limits.BEAT_SECONDS", 0.2)
    one = limits(concurrent=2)
    calls = b"tokenhub:limits:" + one.owner.hex().encode() + b":c"

    async def body() -> None:
        client = redis.client()
        async with host(redis.patient_url) as a, host(redis.patient_url) as b:
            held = [await asked(a, one), await asked(b, one)]
            client.delete(calls)  # as when their leases had run out while the workers slept
            await until(lambda: client.zcard(calls) == 2)
            with pytest.raises(LimitExceeded) as refused:
                await asked(a, one)
            assert refused.value.what == "2 requests at the same time"
            held[1].close(0)
            await until(lambda: client.zcard(calls) == 1)
            # a dead worker's: nobody renews it
            client.zadd(calls, {b"of a dead worker": client.time()[0] - 1})
            (await asked(a, one)).close(0)

    asyncio.run(body())


def test_an_address_counts_on_all_hosts_and_what_one_refuses_the_other_knows(redis: Redis) -> None:
    async def body() -> None:
        rated: dict[str, Any] = {"rate": 1e-6, "burst": 4}
        async with host(redis.patient_url, **rated) as a, host(redis.patient_url, **rated) as b:
            assert [a.addresses.take(ANYBODY, 1.0) for _ in range(2)] == [0.0, 0.0]
            await asked(a)
            a.note(ANYBODY)  # refused for another reason, before its limits were asked
            assert (await outcomes(3, lambda: asked(b)))[0] == 2
            with pytest.raises(LimitExceeded) as refused:
                await asked(a)
            assert refused.value.limits.whose == ""
            assert a.addresses.take(ANYBODY, asyncio.get_running_loop().time()) > 0.0
            assert (await outcomes(3, lambda: asked(b, address="10.0.0.2")))[0] == 3

    asyncio.run(body())


def test_requests_without_limits_do_not_touch_redis(redis: Redis) -> None:
    async def body() -> None:
        async with host(redis.patient_url) as shared:
            assert shared.ask((), ANYBODY, 100) is None
            shared.note(ANYBODY)
            assert not shared._pipe._out

    asyncio.run(body())
    done = run(
        [sys.executable, "-c", "import sys, keys.limits, keys.limit_table; print('hiredis' in sys.modules)"],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"


# -- outages -----------------------------------------------------------------------------------------------------------
def test_without_redis_each_host_has_a_share_of_what_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    def events(name: str) -> list[Any]:
        return [record.data for record in caplog.records if record.getMessage() == name]  # type: ignore[attr-defined]

    async def body(redis: Redis) -> None:
        minute, at_once = limits("m", minute=Bucket(1e-6, 20.0)), limits("c", concurrent=4)
        async with host(redis.patient_url) as a, host(redis.patient_url) as b:
            await until(lambda: b._hosts == 2)
            a._hosts = 2  # what its next beat tells
            assert (await outcomes(10, lambda: asked(a, minute)))[0] == 10
            held = await asked(a, at_once)
            asking = [a.ask((minute,), ANYBODY, 0) for _ in range(3)]
            redis.stop()
            await until(lambda: not a.is_up and not b.is_up)
            for ticket in asking:
                assert ticket is not None
                await ticket.decided()  # whichever of the two let it in
            left = 10 - len(asking)
            assert left / 2 - 2 <= (await outcomes(20, lambda: asked(a, minute)))[0] <= 5
            assert (await outcomes(20, lambda: asked(b, minute)))[0] == 10  # it had asked for nothing before
            (passed, refused) = await outcomes(3, lambda: asked(a, at_once))
            assert passed == 1  # its share is two, and one was under way
            assert refused[0].what == "2 requests at the same time"
            held.close(0)
            assert (await outcomes(3, lambda: asked(a, at_once)))[0] == 1
            assert len(events("limits_fell_back")) == 2
            assert events("limits_fell_back")[0]["hosts"] == 2
            redis.start()
            await until(lambda: a.is_up and b.is_up)
            assert len(events("limits_shared_again")) == 2
            assert (await outcomes(5, lambda: asked(b, at_once)))[0] == 2  # two of a's are under way

    with Redis() as redis:
        asyncio.run(body(redis))


def test_without_redis_tokens_that_were_not_used_come_back() -> None:
    async def body() -> None:
        one = limits(tokens=Bucket(1e-6, 60_000.0))
        async with host(f"redis://127.0.0.1:{free_port()}/0") as shared:
            for _ in range(3):  # of a full bucket, and of one that is not
                (await asked(shared, one, tokens=15_000)).close(100)
            standings = (await asked(shared, one))._standings
            assert standings.tokens is not None
            assert standings.tokens.remaining == 60_000 - 300

    asyncio.run(body())


def test_without_redis_tokens_come_back_to_a_share_for_what_they_were_worth() -> None:
    async def body(redis: Redis) -> None:
        one = limits(tokens=Bucket(1e-6, 100.0), concurrent=6)
        async with host(redis.patient_url) as a, host(redis.patient_url) as b:
            await until(lambda: b._hosts == 2)
            a._hosts = 2  # what its next beat tells
            ticket, more = await asked(a, one, tokens=40), await asked(a, one, tokens=40)
            redis.stop()
            await until(lambda: not a.is_up)

            async def remaining() -> int:
                standings = (await asked(a, one))._standings
                assert standings.tokens is not None
                return standings.tokens.remaining

            assert await remaining() == 10  # of its 50, half of what was taken of all 100
            ticket.close(10)
            assert await remaining() == 25
            more.close(50)
            assert await remaining() == 20

    with Redis() as redis:
        asyncio.run(body(redis))


def test_a_silent_redis_costs_nobody_more_than_its_timeout(redis: Redis) -> None:
    async def body() -> None:
        async with host(redis.url) as shared:
            redis.pause()
            try:
                assert (await outcomes(5, lambda: asked(shared, limits(minute=Bucket(1e-6, 3.0)))))[0] == 3
                assert not shared.is_up
            finally:
                redis.go_on()
            await until(lambda: shared.is_up)

    asyncio.run(body())


def test_forgotten_scripts_are_loaded_again(redis: Redis) -> None:
    async def body() -> None:
        one = limits(minute=Bucket(1e-6, 50.0))
        async with host(redis.patient_url) as shared:
            redis.client().script_flush()
            assert (await outcomes(70, lambda: asked(shared, one)))[0] == 50
            assert shared.is_up

    asyncio.run(body())


def test_a_replica_that_takes_no_writes_is_no_redis(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        one = limits(minute=Bucket(1e-6, 2.0))
        client = redis.client()
        async with host(redis.patient_url) as shared:
            await asked(shared, one)
            client.replicaof("127.0.0.1", 1)
            try:
                assert (await outcomes(5, lambda: asked(shared, one)))[0] == 1
                assert not shared.is_up
                await asyncio.sleep(0)
            finally:
                client.replicaof("NO", "ONE")
            await until(lambda: shared.is_up)

    asyncio.run(body())
    assert any(record.__dict__.get("data", {}).get("error") == "READONLY" for record in caplog.records)


def test_a_password_and_a_socket_are_understood_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def body(redis: Redis, folder: Path) -> None:
        good = f"unix://:s%40fe@{folder}/r.sock?db=3&socket_timeout=20"
        assert "s@fe" not in repr(redis_pipe.Server.of(good))
        async with host(good) as shared:
            await asked(shared, limits(minute=Bucket(1.0, 5.0)))
            assert shared.is_up
        async with host(f"redis://:wr0ng@127.0.0.1:{redis.port}/0?socket_timeout=20") as shared:
            assert not shared.is_up
            await asked(shared, limits(minute=Bucket(1.0, 5.0)))

    with Redis() as plain:
        plain.stop()
        with Redis("--requirepass", "s@fe", "--unixsocket", str(plain.folder / "r.sock")) as redis:
            asyncio.run(body(redis, plain.folder))
    assert "WRONGPASS" in str([record.__dict__ for record in caplog.records])
    assert "wr0ng" not in str([record.__dict__ for record in caplog.records])


def test_tls_is_spoken_with_whom_somebody_vouches_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def is_taken(url: str) -> bool:
        async with host(url) as shared:
            await asked(shared, limits(minute=Bucket(1.0, 5.0)))
            return bool(shared.is_up)

    with Redis(tls=True) as redis:
        assert not asyncio.run(is_taken(redis.patient_url))
        assert "SSLCertVerificationError" in str([record.__dict__ for record in caplog.records])
        monkeypatch.setenv("SSL_CERT_FILE", str(redis.certificate))
        assert asyncio.run(is_taken(redis.patient_url))


def test_a_port_where_nobody_listens_is_one_host(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with host("redis://127.0.0.1:1/0") as shared:
            assert (await outcomes(4, lambda: asked(shared, limits(minute=Bucket(1e-6, 2.0)))))[0] == 2
            await asyncio.sleep(1.2)  # tries again, and says nothing new

    asyncio.run(body())
    assert [record.getMessage() for record in caplog.records].count("limits_fell_back") == 1
