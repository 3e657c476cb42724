"""What a worker takes of limits ahead of its requests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.limit_lease import LEASE_SECONDS, MOST
from keys.limit_table import LimitTable, owner_of
from keys.limits import Bucket, LimitExceeded, Limits
from tests.support.forked import in_child, passed_in_children

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
NEVER = 1e-9


def limits(**fields: object) -> Limits:
    return Limits(owner_of("key", "a"), "This client key", **fields)  # type: ignore[arg-type]


class Worker:
    """One of several with one table: in the same process, with a column and leases of its own."""

    def __init__(self, table: LimitTable, column: int) -> None:
        self.table = table
        self._column = column
        self._leases: dict[bytes, object] = {}

    def __enter__(self) -> LimitTable:
        self.table._worker, self.table._leases = self._column, self._leases  # type: ignore[assignment]
        return self.table

    def __exit__(self, *_: object) -> None:
        pass


def workers(count: int) -> list[Worker]:
    table = LimitTable(sets=1)
    table.lease_by(lambda seconds, call: None)
    return [Worker(table, column) for column in range(count)]


def passes(table: LimitTable, one: Limits, tokens: float, now: float) -> bool:
    try:
        table.enter(one, tokens, now)
    except LimitExceeded:
        return False
    return True


def is_ahead(table: LimitTable) -> bool:
    return any(one.most_calls for one in table._leases.values())


@settings(max_examples=60)
@given(
    st.integers(2, 20_000),
    st.floats(0.01, 5000),
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 0.15), st.integers(1, 300)), min_size=1, max_size=40),
)
def test_workers_let_in_no_more_than_the_limit(burst: int, rate: float, bursts: list[tuple[int, float, int]]) -> None:
    every, one = workers(3), limits(minute=Bucket(rate, float(burst)))
    begun = now = 1000.0
    passed = 0
    for number, pause, requests in bursts:
        now += pause
        with every[number] as table:
            passed += sum(passes(table, one, 0.0, now) for _ in range(requests))
        assert passed <= burst + (now - begun) * rate + 1e-3


def test_what_is_taken_ahead_of_a_bucket_that_fills_up_meanwhile_adds_no_more_than_its_time() -> None:
    every, one = workers(8), limits(second=Bucket(1000.0, 1000.0))
    now = 10.0
    for worker in every:
        with worker as table:
            for _ in range(3):
                table.enter(one, 0.0, now)
            assert is_ahead(table)
    now += LEASE_SECONDS - 1e-4
    passed = 0
    for worker in every:
        with worker as table:
            while passes(table, one, 0.0, now):
                passed += 1
    assert passed <= 1000 + 1000 * LEASE_SECONDS


def test_all_of_a_limit_can_be_used_by_workers_in_turn() -> None:
    every, one = workers(3), limits(minute=Bucket(NEVER, 3000.0), tokens=Bucket(NEVER, 300_000.0), concurrent=5000)
    passed, now = 0, 1.0
    for turn in range(300):
        now += 0.03
        with every[turn % 3] as table:
            for _ in range(10):
                passed += passes(table, one, 100.0, now)
                now += 1e-4
            table.sweep(now)
    assert passed == 3000
    with every[0] as table:
        assert not passes(table, one, 0.0, now)


def test_who_has_little_left_takes_nothing_ahead() -> None:
    (worker,) = workers(1)
    for one in (
        limits(second=Bucket(10.0, 200.0)),
        limits(minute=Bucket(1.0, 60.0)),
        limits(tokens=Bucket(1000.0, 60_000.0)),
        limits(concurrent=100),
    ):
        with worker as table:
            for _ in range(20):
                table.enter(one, 1000.0, 5.0)
            assert not is_ahead(table)
            table._leases.clear()


def test_who_asks_rarely_takes_nothing_ahead() -> None:
    (worker,) = workers(1)
    one = limits(minute=Bucket(1e6, 6e7))
    with worker as table:
        for number in range(20):
            table.enter(one, 0.0, 5.0 + number)
            assert not is_ahead(table)
        table.enter(one, 0.0, 24.001)
        assert is_ahead(table)


def test_what_a_client_is_told_is_exact_for_one_worker() -> None:
    (worker,) = workers(1)
    one = limits(minute=Bucket(NEVER, 60_000.0), tokens=Bucket(NEVER, 6e8))
    with worker as table:
        for number in range(1, 3 * MOST):
            told = table.enter(one, 1000.0, 5.0).standings(5.0)
            assert told.requests is not None
            assert told.tokens is not None
            assert (told.requests.remaining, told.tokens.remaining) == (60_000 - number, 600_000_000 - 1000 * number)
        for _ in range(3 * MOST - 1):
            table.leave(one, -900.0, 5.0, since=5.0)
        told = table.enter(one, 100.0, 5.01).standings(5.01)
        assert told.tokens is not None
        assert told.tokens.remaining == 600_000_000 - 100 * 3 * MOST


@given(
    st.sampled_from([None, Bucket(7.0, 20.0), Bucket(1e6, 1e6)]),
    st.sampled_from([None, Bucket(10.0, 600.0)]),
    st.sampled_from([None, Bucket(1000.0, 60_000.0)]),
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 3000)), min_size=1, max_size=8),
)
def test_an_answers_lines_say_what_headers_say(
    second: Bucket | None, minute: Bucket | None, tokens: Bucket | None, asked: list[tuple[float, int]]
) -> None:
    (worker,) = workers(1)
    one, now = limits(second=second, minute=minute, tokens=tokens), 1000.0
    with worker as table:
        for pause, amount in asked:
            now += pause
            try:
                lease = table.enter(one, amount, now)
            except LimitExceeded:
                continue
            at = now + pause / 3
            headers = lease.standings(at).told()
            assert lease.lines(at) == b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"


def test_a_request_whose_lease_was_given_back_is_taken_out_of_the_table() -> None:
    (worker,) = workers(1)
    one = limits(concurrent=1_000_000, tokens=Bucket(NEVER, 1e6))
    with worker as table:
        for _ in range(3):
            lease = table.enter(one, 10.0, 5.0)
        table.leave_all([lease], -4.0, 5.0)
        table.sweep(6.0)
        table.leave_all([lease], -4.0, 5.0)
        told = table.enter(one, 10.0, 6.0).standings(6.0)
        assert told.tokens is not None
        assert told.tokens.remaining == 1_000_000 - 4 * 10 + 2 * 4


def test_tokens_beyond_the_estimate_are_charged_though_a_lease_pays_first() -> None:
    every, one = workers(2), limits(tokens=Bucket(NEVER, 1e6))
    with every[0] as table:
        for _ in range(3):
            table.enter(one, 10.0, 5.0)
        assert is_ahead(table)
        for _ in range(3):
            table.leave(one, 300_000.0, 5.0, since=5.0)
        table.sweep(6.0)
    with every[1] as table:
        told = table.enter(one, 10.0, 6.0).standings(6.0)
        assert told.tokens is not None
        assert told.tokens.remaining == 1_000_000 - 3 * 300_010 - 10


def test_tokens_come_back_only_while_the_bucket_lacks_them() -> None:
    (worker,) = workers(1)
    one, other = limits(tokens=Bucket(100.0, 10_000.0)), limits(tokens=Bucket(100.0, 10_000.0))
    with worker as table:
        table.enter(one, 5000.0, 0.0)  # full again at 50
        table.enter(one, 9000.0, 60.0)
        table.leave(one, -4900.0, 61.0, since=0.0)
        told = table.enter(other, 0.0, 61.0).standings(61.0)
        assert told.tokens is not None
        assert told.tokens.remaining == 10_000 - 9000 + 100
        table.leave(one, -8000.0, 61.0, since=60.0)
        told = table.enter(other, 0.0, 61.0).standings(61.0)
        assert told.tokens is not None
        assert told.tokens.remaining == 10_000 - 1000 + 100


def test_a_loop_that_follows_another_gives_back_what_is_not_used() -> None:
    table, one = LimitTable(sets=1), limits(concurrent=1000)
    table.lease_by(lambda seconds, call: None)  # a loop that ends before it calls
    table.enter(one, 0.0, 1.0)
    table.lease_by(None)
    later: list[Callable[[], None]] = []
    table.lease_by(lambda seconds, call: later.append(call))
    for _ in range(3):
        table.enter(one, 0.0, 2.0)
    assert is_ahead(table)
    (sweep,) = later
    sweep()
    assert not table._leases


def test_new_limits_end_the_lease_of_the_old_ones() -> None:
    (worker,) = workers(1)
    before, after = limits(minute=Bucket(NEVER, 100_000.0)), limits(minute=Bucket(NEVER, 50.0))
    with worker as table:
        for _ in range(10):
            table.enter(before, 0.0, 5.0)
        assert is_ahead(table)
        assert sum(passes(table, after, 0.0, 5.0) for _ in range(100)) <= 50
        assert not is_ahead(table)


def test_what_a_killed_worker_took_ahead_holds_no_place() -> None:
    table, one = LimitTable(sets=1), limits(concurrent=2000)
    reader, writer = os.pipe()

    def hold() -> None:
        table.lease_by(lambda seconds, call: None)
        for _ in range(500):
            table.enter(one, 0.0, 1.0)
        assert is_ahead(table)
        os.write(writer, b"x")
        time.sleep(60)

    child = in_child(hold)
    assert os.read(reader, 1) == b"x"
    assert sum(passes(table, one, 0.0, 1.0) for _ in range(2000)) <= 1500
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert 490 <= sum(passes(table, one, 0.0, 1.0) for _ in range(2000)) <= 512
    assert not passes(table, one, 0.0, 1.0)


def test_processes_that_take_ahead_let_in_exactly_the_limit() -> None:
    table, one = LimitTable(sets=4), limits(minute=Bucket(NEVER, 30_000.0), concurrent=60_000)

    def hammer() -> int:
        pending: list[Callable[[], None]] = []
        table.lease_by(lambda seconds, call: pending.append(call))
        passed, refused_at, begun = 0, 0.0, time.monotonic()
        while not refused_at or time.monotonic() < refused_at + 3 * LEASE_SECONDS:
            now = time.monotonic()
            assert now < begun + 60
            if passes(table, one, 0.0, now):
                passed += 1
                table.leave(one, 0.0, now, since=now)
            else:
                refused_at = refused_at or now
                time.sleep(0.002)
                table.sweep(now)
        return passed

    assert passed_in_children(3, hammer) == 30_000
