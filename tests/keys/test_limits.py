from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keys.limits import AddressLimiter


def test_a_burst_passes_and_the_next_one_is_told_how_long_to_wait() -> None:
    limiter = AddressLimiter(rate=10, burst=3)
    assert [limiter.take("a", 100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.take("a", 100.0) == 0.1
    assert limiter.take("a", 100.1) == 0.0


def test_addresses_do_not_share_a_bucket() -> None:
    limiter = AddressLimiter(rate=1, burst=1)
    assert limiter.take("a", 0.0) == 0.0
    assert limiter.take("b", 0.0) == 0.0
    assert limiter.take("a", 0.0) > 0.0


def test_a_rate_of_zero_lets_everything_pass() -> None:
    limiter = AddressLimiter(rate=0, burst=1)
    assert not any(limiter.take("a", 0.0) for _ in range(1000))


def test_memory_is_bounded() -> None:
    limiter = AddressLimiter(rate=1, burst=1)
    limiter.MAX_ADDRESSES = 100
    for number in range(1000):
        limiter.take(str(number), 0.0)
    assert len(limiter._buckets) <= 100


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=200), st.integers(1, 50), st.integers(1, 20))
def test_never_more_than_burst_plus_rate_times_time(gaps: list[float], rate: int, burst: int) -> None:
    limiter = AddressLimiter(rate=rate, burst=burst)
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        passed += limiter.take("a", now) == 0.0
    assert passed <= burst + rate * now + 1e-6
