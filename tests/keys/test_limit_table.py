"""Limits that several processes share."""

from __future__ import annotations

import os
import signal
import time
from mmap import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.limit_table import WAYS, Addresses, LimitTable, owner_of
from keys.limits import Bucket, LimitExceeded, Limits, network_of
from tests.support.forked import in_child, passed_in_children

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def limits(name: str = "a", **fields: object) -> Limits:
    return Limits(owner_of("key", name), "This client key", **fields)  # type: ignore[arg-type]


@given(
    st.floats(0.01, 1000),
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 80)), max_size=60),
)
def test_never_more_than_the_burst_and_what_refilled_passes(
    rate: float, burst: int, asked: list[tuple[float, int]]
) -> None:
    bucket, full_at, now, passed = Bucket(rate, float(burst)), 0.0, 1000.0, 0.0
    for pause, amount in asked:
        now += pause
        if bucket.wait(full_at, amount, now) == 0.0:
            passed += min(amount, burst)
            full_at = bucket.taken(full_at, amount, now)
        else:
            later = now + bucket.wait(full_at, amount, now) + 1e-6
            assert bucket.wait(full_at, amount, later) == 0.0  # the wait is what it takes
    assert passed <= burst + (now - 1000.0) * rate + 1e-3


def test_all_limits_must_hold_and_a_refusal_takes_nothing() -> None:
    table = LimitTable(sets=1)
    both = limits(minute=Bucket(1.0, 60.0), tokens=Bucket(10.0, 100.0))
    standing = table.enter(both, 70.0, 5.0).standings(5.0)
    assert standing.requests is not None
    assert standing.tokens is not None
    assert (standing.requests.remaining, standing.tokens.remaining) == (59, 30)
    with pytest.raises(LimitExceeded) as refused:
        table.enter(both, 50.0, 5.0)
    assert refused.value.retry_after_seconds == pytest.approx(2.0)
    standing = table.enter(both, 10.0, 5.0).standings(5.0)
    assert standing.requests is not None
    assert standing.requests.remaining == 58
    table.leave(both, -70.0, 5.0)
    standing = table.enter(both, 0.0, 5.0).standings(5.0)
    assert standing.tokens is not None
    assert standing.tokens.remaining == 90


def test_the_longest_wait_is_told() -> None:
    table = LimitTable(sets=1)
    both = limits(second=Bucket(1.0, 1.0), minute=Bucket(0.1, 1.0), concurrent=1)
    table.enter(both, 0.0, 5.0)
    with pytest.raises(LimitExceeded) as refused:
        table.enter(both, 0.0, 5.0)
    assert refused.value.retry_after_seconds == pytest.approx(10.0)
    assert refused.value.what == "1 requests per minute"


def test_what_was_let_in_elsewhere_counts() -> None:
    table = LimitTable(sets=1)
    one = limits(minute=Bucket(1.0, 10.0), concurrent=2)
    table.adopt(one, (0.0, 104.0, 0.0), 1, 100.0)
    standing = table.enter(one, 0.0, 100.0).standings(100.0)
    assert standing.requests is not None
    assert standing.requests.remaining == 5
    table.adopt(one, (0.0, 102.0, 0.0), 0, 100.0)  # known to be fuller
    with pytest.raises(LimitExceeded):
        table.enter(one, 0.0, 100.0)
    table.leave(one, 0.0, 100.0)
    standing = table.enter(one, 0.0, 100.0).standings(100.0)
    assert standing.requests is not None
    assert standing.requests.remaining == 4


@given(st.floats(0.01, 100), st.integers(2, 500), st.integers(1, 9), st.floats(0, 50))
def test_the_shares_of_hosts_are_the_whole(rate: float, burst: int, hosts: int, full_at: float) -> None:
    whole = Bucket(rate, float(burst))
    one = whole.share(hosts)
    assert one.rate * hosts == pytest.approx(rate)
    assert one.burst * hosts == pytest.approx(max(burst, hosts))
    if burst >= hosts:  # the same moment at which all is back says what is left of either
        left = whole.burst - full_at * whole.rate
        assert (one.burst - full_at * one.rate) * hosts == pytest.approx(left, abs=1e-6)


def test_an_undone_request_was_none() -> None:
    table, one = LimitTable(sets=1), limits(second=Bucket(1.0, 2.0), concurrent=1)
    table.enter(one, 0.0, 0.0)
    table.leave(one, 0.0, 0.0, undo=True)
    table.enter(one, 0.0, 0.0)
    table.leave(one, 0.0, 0.0)
    table.enter(one, 0.0, 0.0)


def test_a_full_set_keeps_who_is_under_way_and_forgets_who_has_all_back() -> None:
    table = LimitTable(sets=1)
    busy, used = limits("busy", concurrent=1), limits("used", minute=Bucket(1.0, 1.0))
    table.enter(busy, 0.0, 0.0)
    table.enter(used, 0.0, 1000.0)
    for number in range(3 * WAYS):
        table.enter(limits(str(number), minute=Bucket(1.0, 5.0)), 0.0, float(number))
    for one in (busy, used):
        with pytest.raises(LimitExceeded):
            table.enter(one, 0.0, 1000.0)


def test_processes_count_together_exactly() -> None:
    table, one = LimitTable(sets=4), limits(minute=Bucket(1e-9, 3000.0))

    def hammer() -> int:
        passed = 0
        for _ in range(2000):
            try:
                table.enter(one, 0.0, 1.0)
                passed += 1
            except LimitExceeded:
                pass
        return passed

    assert passed_in_children(3, hammer) == 3000


def test_a_killed_process_has_nothing_under_way() -> None:
    table, one = LimitTable(sets=4), limits(concurrent=3)
    reader, writer = os.pipe()

    def hold() -> None:
        table.enter(one, 0.0, 1.0)
        table.enter(one, 0.0, 1.0)
        os.write(writer, b"x")
        time.sleep(60)

    child = in_child(hold)
    assert os.read(reader, 1) == b"x"
    table.enter(one, 0.0, 1.0)
    with pytest.raises(LimitExceeded):
        table.enter(one, 0.0, 1.0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    table.enter(one, 0.0, 1.0)
    table.enter(one, 0.0, 1.0)
    with pytest.raises(LimitExceeded):
        table.enter(one, 0.0, 1.0)


def test_as_many_workers_as_may_be_set_count_together() -> None:
    table, one = LimitTable(sets=1), limits(concurrent=70)
    reader, writer = os.pipe()

    def hold() -> None:
        table.enter(one, 0.0, 1.0)
        os.write(writer, b"x")
        time.sleep(60)

    children = [in_child(hold) for _ in range(70)]
    try:
        for _ in children:
            assert os.read(reader, 1) == b"x"
        with pytest.raises(LimitExceeded):
            table.enter(one, 0.0, 1.0)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    for _ in range(70):
        table.enter(one, 0.0, 1.0)
    with pytest.raises(LimitExceeded):
        table.enter(one, 0.0, 1.0)


def test_who_is_under_way_is_not_pushed_out_for_what_the_dead_left() -> None:
    table = LimitTable(sets=1)

    def fill() -> None:
        for number in range(WAYS - 1):
            table.enter(limits(f"of the dead {number}", minute=Bucket(1e-6, 9.0), concurrent=9), 0.0, 1.0)

    alive = limits("alive", concurrent=1)
    table.enter(alive, 0.0, 1.0)
    child = in_child(fill)
    os.waitpid(child, 0)
    table.enter(limits("new", concurrent=1), 0.0, 1.0)
    with pytest.raises(LimitExceeded):
        table.enter(alive, 0.0, 1.0)


def test_addresses_are_counted_by_all_processes() -> None:
    addresses = Addresses(mmap(-1, 64 * 1024), rate=1e-6, burst=5)
    child = in_child(lambda: [addresses.take("10.0.0.1", 1.0) for _ in range(3)])
    os.waitpid(child, 0)
    assert [addresses.take("10.0.0.1", 1.0) > 0.0 for _ in range(4)] == [False, False, True, True]
    assert addresses.take("10.0.0.2", 1.0) == 0.0
    assert Addresses(mmap(-1, 4096), rate=0.0, burst=1).take("10.0.0.1", 1.0) == 0.0


def test_the_addresses_of_one_customers_network_are_one() -> None:
    addresses = Addresses(mmap(-1, 64 * 1024), rate=1e-6, burst=2)
    assert addresses.take("2001:db8:0:1::1", 1.0) == 0.0
    assert addresses.take("2001:db8:0:1:ffff:ffff:ffff:ffff", 1.0) == 0.0
    assert addresses.take("2001:DB8::1:0:0:0:7", 1.0) > 0.0
    assert addresses.take("2001:db8:0:2::1", 1.0) == 0.0
    assert [addresses.take("::ffff:10.0.0.1", 1.0), addresses.take("10.0.0.1", 1.0)] == [0.0, 0.0]
    assert addresses.take("10.0.0.1", 1.0) > 0.0
    assert addresses.take("::ffff:10.0.0.2", 1.0) == 0.0
    assert [network_of(one) for one in ("", "unix:1:2", "fe80::1%eth0")] == ["", "unix:1:2", "fe80::/64"]
