from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.outcomes import ErrorClass
from routing.health import (
    AUTH_REST_SECONDS,
    DEFAULT_COOLDOWN_SECONDS,
    DOWN_AFTER,
    DOWN_SECONDS,
    ENDPOINT_REST_SECONDS,
    Health,
)
from tests.support.targets import NOW

ADDRESSES = ("https://a.example", "https://b.example", "https://c.example")


def fail(
    health: Health,
    error: ErrorClass = ErrorClass.TRANSIENT,
    *,
    model: str = "m",
    now: float = NOW,
    retry_after: float | None = None,
    status: int = 503,
) -> None:
    health.failed("p", model, error, now=now, retry_after=retry_after, status=status)


def turns(health: Health, count: int, *, now: float = NOW, avoid: set[str] | None = None) -> list[int]:
    return [health.next_endpoint("p", ADDRESSES, now, avoid or set()) for _ in range(count)]


# -- cooldowns ---------------------------------------------------------------------------------------------------------
def test_an_unknown_target_does_not_rest() -> None:
    assert Health().resting("p", "m", NOW) == ""
    assert Health().rest_seconds("p", "m", NOW) == 0.0


@pytest.mark.parametrize(("retry_after", "seconds"), [(7.5, 7.5), (None, DEFAULT_COOLDOWN_SECONDS), (0.0, 0.0)])
def test_a_rate_limit_rests_as_long_as_retry_after_says(retry_after: float | None, seconds: float) -> None:
    health = Health()
    fail(health, ErrorClass.RATE_LIMITED, retry_after=retry_after, status=429)
    assert health.rest_seconds("p", "m", NOW) == seconds
    if seconds:
        assert health.resting("p", "m", NOW + seconds - 0.01) == "rate_limited"
    assert health.resting("p", "m", NOW + seconds) == ""
    assert health.resting("p", "other", NOW) == ""


@pytest.mark.parametrize("error", [ErrorClass.TRANSIENT, ErrorClass.TIMEOUT, ErrorClass.MODEL_UNAVAILABLE])
def test_five_errors_in_a_row_rest_a_target(error: ErrorClass) -> None:
    health = Health()
    for _ in range(DOWN_AFTER - 1):
        fail(health, error)
    assert health.resting("p", "m", NOW) == ""
    fail(health, error)
    assert health.resting("p", "m", NOW) == "down"
    assert health.resting("p", "m", NOW + DOWN_SECONDS) == ""


def test_after_its_rest_one_more_error_is_enough() -> None:
    health = Health()
    for _ in range(DOWN_AFTER):
        fail(health)
    later = NOW + DOWN_SECONDS
    fail(health, now=later)
    assert health.resting("p", "m", later) == "down"


def test_a_success_between_begins_the_row_anew() -> None:
    health = Health()
    for _ in range(DOWN_AFTER - 1):
        fail(health)
    health.succeeded("p", "m", latency_ms=10.0)
    fail(health)
    assert health.resting("p", "m", NOW) == ""


def test_a_success_ends_a_rest() -> None:
    health = Health()
    fail(health, ErrorClass.RATE_LIMITED, retry_after=60.0)
    health.succeeded("p", "m", latency_ms=10.0)
    assert health.resting("p", "m", NOW) == ""


@pytest.mark.parametrize("status", [401, 402])
def test_a_refused_credential_rests_the_whole_provider(status: int) -> None:
    health = Health()
    fail(health, ErrorClass.AUTH, status=status)
    assert health.resting("p", "m", NOW) == "auth"
    assert health.resting("p", "never seen", NOW + AUTH_REST_SECONDS - 1) == "auth"
    assert health.resting("another", "m", NOW) == ""
    assert health.resting("p", "m", NOW + AUTH_REST_SECONDS) == ""


def test_a_forbidden_model_rests_alone() -> None:
    health = Health()
    fail(health, ErrorClass.AUTH, status=403)
    assert health.resting("p", "m", NOW) == "auth"
    assert health.resting("p", "other", NOW) == ""


@pytest.mark.parametrize("status", [401, 403])
def test_a_new_credential_gets_its_chance_at_once(status: int) -> None:
    health = Health()
    fail(health, ErrorClass.AUTH, status=status)
    fail(health, ErrorClass.RATE_LIMITED, model="limited", retry_after=60.0)
    health.credential_changed("another")
    assert health.resting("p", "m", NOW) == "auth"
    health.credential_changed("p")
    assert health.resting("p", "m", NOW) == ""
    assert health.resting("p", "limited", NOW) == "rate_limited"


@pytest.mark.parametrize("error", [ErrorClass.INVALID_REQUEST, ErrorClass.CONTEXT_OVERFLOW])
def test_the_clients_own_fault_leaves_no_mark(error: ErrorClass) -> None:
    health = Health()
    for _ in range(2 * DOWN_AFTER):
        fail(health, error, status=400)
    assert health.resting("p", "m", NOW) == ""
    assert (health.stats("p", "m").calls, health.stats("p", "m").failure) == (0, 0.0)


# -- figures -----------------------------------------------------------------------------------------------------------
def test_the_first_latency_counts_whole_and_later_ones_by_their_share() -> None:
    health = Health()
    health.succeeded("p", "m", latency_ms=200.0)
    assert health.stats("p", "m").latency_ms == 200.0
    health.succeeded("p", "m", latency_ms=300.0)
    assert health.stats("p", "m").latency_ms == pytest.approx(210.0)


@given(st.lists(st.booleans(), max_size=50))
def test_the_share_of_failures_stays_a_share(outcomes: list[bool]) -> None:
    health = Health()
    for is_good in outcomes:
        before = health.stats("p", "m").failure
        if is_good:
            health.succeeded("p", "m", latency_ms=1.0)
            assert health.stats("p", "m").failure <= before
        else:
            fail(health)
            assert before < health.stats("p", "m").failure <= 1.0
    assert health.stats("p", "m").calls == len(outcomes)


# -- several addresses -------------------------------------------------------------------------------------------------
def test_addresses_take_turns() -> None:
    assert turns(Health(), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_providers_take_their_own_turns() -> None:
    health = Health()
    assert turns(health, 2) == [0, 1]
    assert health.next_endpoint("another", ADDRESSES, NOW, set()) == 0


def test_a_failed_address_is_skipped_until_it_has_rested_or_answered() -> None:
    health = Health()
    health.endpoint_failed("p", ADDRESSES[1], NOW)
    assert 1 not in turns(health, 6, now=NOW + ENDPOINT_REST_SECONDS - 0.01)
    assert 1 in turns(health, 3, now=NOW + ENDPOINT_REST_SECONDS)
    health.endpoint_failed("p", ADDRESSES[1], NOW)
    health.endpoint_answered("p", ADDRESSES[1])
    assert 1 in turns(health, 3)


def test_an_avoided_address_comes_last() -> None:
    health = Health()
    assert set(turns(health, 6, avoid={ADDRESSES[0], ADDRESSES[2]})) == {1}
    health.endpoint_failed("p", ADDRESSES[1], NOW)
    assert set(turns(health, 6, avoid={ADDRESSES[0], ADDRESSES[2]})) == {1}


def test_when_all_have_failed_all_take_turns_again() -> None:
    health = Health()
    for address in ADDRESSES:
        health.endpoint_failed("p", address, NOW)
    assert sorted(turns(health, 3)) == [0, 1, 2]
    assert sorted(turns(health, 3, avoid=set(ADDRESSES))) == [0, 1, 2]


def test_an_only_address_is_always_the_one() -> None:
    health = Health()
    health.endpoint_failed("p", ADDRESSES[0], NOW)
    assert health.next_endpoint("p", ADDRESSES[:1], NOW, {ADDRESSES[0]}) == 0


@given(st.lists(st.tuples(st.integers(1, 3), st.sets(st.sampled_from(ADDRESSES)), st.none() | st.integers(0, 2))))
def test_an_address_is_always_among_those_there_are(steps: list[tuple[int, set[str], int | None]]) -> None:
    health = Health()
    for count, avoid, failing in steps:
        if failing is not None:
            health.endpoint_failed("p", ADDRESSES[failing], NOW)
        assert 0 <= health.next_endpoint("p", ADDRESSES[:count], NOW, avoid) < count
