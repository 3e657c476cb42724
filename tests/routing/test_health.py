from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from providers.client import FailureKind
from providers.outcomes import ErrorClass
from routing.breaker import DEGRADED_AFTER, DOWN_AFTER, DOWN_SECONDS, TRIAL_SECONDS, State
from routing.health import (
    ASSUMED_LATENCY_MS,
    AUTH_REST_SECONDS,
    DECAY,
    DEFAULT_COOLDOWN_SECONDS,
    ENDPOINT_REST_SECONDS,
    FADE_SECONDS,
    HALF_LIFE_SECONDS,
    HEAD_START_SECONDS,
    Health,
    Notice,
    combined,
    provider_states,
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
    started: float | None = None,
    kind: FailureKind | None = None,
) -> None:
    health.failed("p", model, error, now=now, retry_after=retry_after, status=status, started=started, kind=kind)


def succeed(health: Health, *, model: str = "m", started: float = NOW, now: float | None = None) -> None:
    health.succeeded("p", model, latency_ms=10.0, started=started, now=started if now is None else now)


def down(*, model: str = "m", now: float = NOW) -> Health:
    health = Health()
    for _ in range(DOWN_AFTER):
        fail(health, model=model, now=now)
    return health


def probe(health: Health, error: ErrorClass | None = None, *, at: float = NOW, status: int = 200) -> None:
    health.probed("p", started=at, now=at + 0.1, error=error, status=status, accepted=error is None)


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


def test_a_rest_is_only_lengthened_by_another_reason() -> None:
    health = down()
    fail(health, ErrorClass.RATE_LIMITED, retry_after=2.0, now=NOW + 1)
    assert health.resting("p", "m", NOW + 20) == "down"
    fail(health, ErrorClass.RATE_LIMITED, retry_after=60.0, now=NOW + 2)
    assert health.resting("p", "m", NOW + 61) == "rate_limited"
    fail(health, ErrorClass.AUTH, status=403, now=NOW + 3)
    health.credential_changed("p", NOW + 4)
    assert health.rest_seconds("p", "m", NOW + 4) == pytest.approx(58.0)


def test_a_success_that_began_before_a_rest_does_not_end_it() -> None:
    health = Health()
    fail(health, ErrorClass.RATE_LIMITED, retry_after=60.0)
    succeed(health, started=NOW - 5, now=NOW + 5)
    assert health.resting("p", "m", NOW + 6) == "rate_limited"
    succeed(health, started=NOW + 6)
    assert health.resting("p", "m", NOW + 6) == ""


def test_a_success_that_began_before_a_target_went_down_does_not_bring_it_back() -> None:
    health = down()
    succeed(health, started=NOW - 5, now=NOW + 5)
    assert health.resting("p", "m", NOW + 6) == "down"
    assert health.stats("p", "m").state(NOW + 6) is State.DOWN


def test_calls_that_left_before_a_target_went_down_do_not_prolong_its_rest() -> None:
    health = down()
    fail(health, ErrorClass.TIMEOUT, now=NOW + 20, started=NOW - 1)
    assert health.rest_seconds("p", "m", NOW) == DOWN_SECONDS


def test_a_refusal_of_a_call_that_left_with_the_old_credential_does_not_flag_the_new_one() -> None:
    health = Health()
    fail(health, ErrorClass.AUTH, status=401)
    health.credential_changed("p", NOW + 1)
    fail(health, ErrorClass.AUTH, status=401, now=NOW + 2, started=NOW + 0.5)
    assert health.resting("p", "m", NOW + 2) == ""
    fail(health, ErrorClass.AUTH, status=401, now=NOW + 3, started=NOW + 1.5)
    assert health.resting("p", "m", NOW + 3) == "auth"


# -- half open ---------------------------------------------------------------------------------------------------------
def test_a_half_open_target_gets_one_trial_at_a_time() -> None:
    health, later = down(), NOW + DOWN_SECONDS
    assert health.admitted("p", "m", later - 1) is None
    trial = health.admitted("p", "m", later)
    assert trial
    assert health.resting("p", "m", later) == "down"
    assert health.admitted("p", "m", later + 1) is None
    health.released("p", "m", trial)
    assert health.resting("p", "m", later + 1) == ""
    assert health.admitted("p", "m", later + 1)


def test_a_trial_that_never_ends_does_not_hold_others_back_for_ever() -> None:
    health, later = down(), NOW + DOWN_SECONDS
    first = health.admitted("p", "m", later)
    second = health.admitted("p", "m", later + TRIAL_SECONDS)
    assert first
    assert second
    health.released("p", "m", first)
    assert health.admitted("p", "m", later + TRIAL_SECONDS) is None


@pytest.mark.parametrize("is_good", [True, False])
def test_a_trial_closes_the_circuit_or_opens_it_again(is_good: bool) -> None:
    health, later = down(), NOW + DOWN_SECONDS
    trial = health.admitted("p", "m", later)
    assert trial
    if is_good:
        succeed(health, started=later, now=later + 1)
    else:
        fail(health, now=later + 1, started=later)
    health.released("p", "m", trial)
    if is_good:
        assert [health.admitted("p", "m", later + 1) for _ in range(3)] == [0.0, 0.0, 0.0]
        assert health.stats("p", "m").consecutive_errors == 0
    else:
        assert health.rest_seconds("p", "m", later + 1) == DOWN_SECONDS


# -- the provider as a whole -------------------------------------------------------------------------------------------
def test_a_single_failing_model_leaves_its_neighbours_alone() -> None:
    health = down(model="broken")
    assert health.resting("p", "other", NOW) == ""
    assert health.provider_state("p", ["broken"], NOW) is State.DOWN
    assert health.provider_state("p", ["broken", "other"], NOW) is State.DEGRADED


def test_errors_of_several_models_in_a_row_rest_the_provider() -> None:
    health = Health()
    for number in range(DOWN_AFTER):
        fail(health, model=f"m{number % 2}")
    assert health.resting("p", "another", NOW) == "down"
    assert health.provider_state("p", ["m0", "another"], NOW) is State.DOWN
    trial = health.admitted("p", "another", NOW + DOWN_SECONDS)
    assert trial
    assert health.admitted("p", "m0", NOW + DOWN_SECONDS) is None
    succeed(health, model="another", started=NOW + DOWN_SECONDS)
    assert health.resting("p", "m0", NOW + DOWN_SECONDS) == ""


@pytest.mark.parametrize("kind", [FailureKind.CONNECT, FailureKind.DNS, FailureKind.TLS])
def test_a_provider_that_nobody_can_connect_to_rests_whole(kind: FailureKind) -> None:
    health = Health()
    for _ in range(DOWN_AFTER):
        fail(health, kind=kind, status=0)
    assert health.resting("p", "another", NOW) == "down"


def test_a_model_that_is_not_there_says_nothing_of_its_provider() -> None:
    health = Health()
    for number in range(2 * DOWN_AFTER):
        fail(health, ErrorClass.MODEL_UNAVAILABLE, model=f"m{number}", status=404)
    assert health.resting("p", "another", NOW) == ""


def test_states_follow_errors_in_a_row() -> None:
    health = Health()
    seen = []
    for _ in range(DOWN_AFTER):
        seen.append(health.provider_state("p", ["m"], NOW))
        fail(health)
    healthy, degraded = [State.HEALTHY] * DEGRADED_AFTER, [State.DEGRADED] * (DOWN_AFTER - DEGRADED_AFTER)
    assert seen == healthy + degraded
    assert provider_states(health, [("p", "m"), ("q", "m")], NOW) == {"p": State.DOWN, "q": State.HEALTHY}


def test_a_limited_model_is_degraded_and_a_refused_provider_is_down() -> None:
    health = Health()
    fail(health, ErrorClass.RATE_LIMITED, retry_after=10.0)
    assert health.stats("p", "m").state(NOW) is State.DEGRADED
    assert health.stats("p", "m").state(NOW + 10) is State.HEALTHY
    fail(health, ErrorClass.AUTH, status=401)
    assert health.provider_state("p", ["m", "other"], NOW) is State.DOWN


@pytest.mark.parametrize(
    ("own", "models", "state"),
    [
        (2, [], 2),
        (2, [2, 2], 2),
        (2, [1, 2], 2),
        (2, [1, 1], 1),
        (2, [0, 2], 1),
        (2, [0, 1], 1),
        (2, [0, 0], 0),
        (1, [2, 2], 1),
        (1, [], 1),
        (0, [2, 2], 0),
    ],
)
def test_a_provider_is_as_well_as_its_models_let_it(own: int, models: list[int], state: int) -> None:
    assert combined(State(own), [State(one) for one in models]) is State(state)


def test_what_is_passed_over_is_counted_by_reason() -> None:
    health = down()
    for _ in range(3):
        health.resting("p", "m", NOW)
    health.resting("p", "other", NOW)
    assert health.skips == {"down": 3}


# -- probes ------------------------------------------------------------------------------------------------------------
def test_failed_probes_take_a_provider_down_and_a_good_one_brings_it_back() -> None:
    health = Health()
    for number in range(DOWN_AFTER):
        probe(health, ErrorClass.TIMEOUT, at=NOW + number)
    assert health.resting("p", "m", NOW + DOWN_AFTER) == "down"
    assert health.stats("p", "m").calls == 0
    probe(health, at=NOW + 10)
    assert health.resting("p", "m", NOW + 10) == ""
    assert health.admitted("p", "m", NOW + 10) == 0.0


def test_a_good_probe_gives_what_calls_found_to_be_down_one_trial() -> None:
    health = down()
    probe(health, at=NOW + 10)
    assert health.stats("p", "m").state(NOW + 10) is State.DEGRADED
    assert health.admitted("p", "m", NOW + 10)
    assert health.admitted("p", "m", NOW + 10) is None
    fail(health, now=NOW + 11, started=NOW + 10)
    assert health.rest_seconds("p", "m", NOW + 11) == DOWN_SECONDS


def test_a_good_probe_that_began_before_the_rest_changes_nothing() -> None:
    health = down()
    probe(health, at=NOW - 1)
    assert health.resting("p", "m", NOW) == "down"


def test_a_probe_between_errors_of_calls_does_not_make_them_forgotten() -> None:
    health = Health()
    for number in range(DOWN_AFTER):
        fail(health, model=f"m{number}", now=NOW + number)
        probe(health, at=NOW + number - 0.5)
    assert health.resting("p", "m", NOW + DOWN_AFTER) == "down"


@pytest.mark.parametrize("status", [401, 403])
def test_a_credential_that_a_probe_finds_refused_is_flagged_until_one_is_accepted(status: int) -> None:
    health = Health()
    probe(health, ErrorClass.AUTH, status=status)
    assert health.resting("p", "m", NOW + 1) == "auth"
    probe(health, at=NOW + 30)
    assert health.resting("p", "m", NOW + 31) == ""


def test_a_credential_that_works_for_calls_may_be_forbidden_to_list_models() -> None:
    health = Health()
    succeed(health)
    probe(health, ErrorClass.AUTH, status=403, at=NOW + 1)
    assert health.resting("p", "m", NOW + 2) == ""
    probe(health, ErrorClass.AUTH, status=401, at=NOW + 3)
    assert health.resting("p", "m", NOW + 4) == "auth"


# -- other workers -----------------------------------------------------------------------------------------------------
def test_another_worker_rests_what_one_saw_down_and_tries_it_later() -> None:
    one, other = down(), Health()
    other.merge(one.notices)
    assert other.resting("p", "m", NOW + 1) == "down"
    assert one.admitted("p", "m", NOW + DOWN_SECONDS)
    assert other.admitted("p", "m", NOW + DOWN_SECONDS) is None
    assert other.admitted("p", "m", NOW + DOWN_SECONDS + HEAD_START_SECONDS)


def test_another_worker_learns_of_a_recovery() -> None:
    one, other = down(), Health()
    other.merge(one.notices)
    succeed(one, started=NOW + DOWN_SECONDS)
    other.merge(one.notices)
    assert other.resting("p", "m", NOW + DOWN_SECONDS) == ""
    assert other.stats("p", "m").consecutive_errors == 0
    fail(other, now=NOW + 40)
    assert other.resting("p", "m", NOW + 40) == ""


def test_another_worker_learns_of_a_changed_credential() -> None:
    one, other = Health(), Health()
    fail(one, ErrorClass.AUTH, status=401)
    other.merge(one.notices)
    assert other.resting("p", "m", NOW) == "auth"
    one.credential_changed("p", NOW + 1)
    other.merge(reversed(one.notices))
    assert other.resting("p", "m", NOW + 1) == ""


def test_only_what_changes_something_is_told() -> None:
    woken: list[int] = []
    health = Health(wake=lambda: woken.append(1))
    succeed(health)
    fail(health)
    succeed(health, started=NOW + 1)
    fail(health, ErrorClass.RATE_LIMITED, retry_after=0.0)
    fail(health, ErrorClass.INVALID_REQUEST, status=400)
    assert not health.notices
    assert not woken
    fail(health, ErrorClass.RATE_LIMITED, retry_after=5.0, now=NOW + 2)
    assert list(health.notices) == [Notice("p", "m", "rate_limited", NOW + 2, NOW + 7)]
    assert woken


def _shape(health: Health, now: float) -> list[object]:
    return [
        (one.why_not(now + wait), one.is_open, one.consecutive_errors)
        for one in (health.provider("p"), health.stats("p", "m"))
        for wait in (0.0, 1.0, 10.0, 31.0, 100.0)
    ]


_moments = st.integers(0, 50).map(float)
_notices = st.builds(
    lambda model, reason, began, length, recovered, left: Notice(
        "p", model, reason, began, began + length if length else 0.0, recovered, left if reason == "down" else 0
    ),
    st.sampled_from(["", "m"]),
    st.sampled_from(["down", "auth", "rate_limited"]),
    _moments,
    st.integers(0, 60).map(float),
    st.none() | _moments,
    st.sampled_from([0, DOWN_AFTER - 1]),
)


@given(st.lists(_notices, max_size=8), st.randoms(use_true_random=False))
def test_what_workers_tell_may_arrive_in_any_order_and_twice(told: list[Notice], rng: Random) -> None:
    one, other = Health(), Health()
    one.merge(told)
    again = [*told, *rng.sample(told, len(told) // 2)]
    rng.shuffle(again)
    for notice in again:
        other.merge([notice])
    assert _shape(one, 50.0) == _shape(other, 50.0)


class Target(RuleBasedStateMachine):
    """One target, calls that overlap, and everything that can come of them. Rests that were promised are kept in a list
    of their own, and so is the row of errors."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.health = Health()
        self.promised: list[tuple[float, float]] = []
        self.calls: list[tuple[float, float]] = []  # when they began, and the mark of a trial

    def _end(self, data: st.DataObject) -> float:
        started, trial = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.ending = trial
        return started

    def _over(self) -> None:
        if self.ending:
            self.health.released("p", "m", self.ending)

    @rule(seconds=st.floats(0.001, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(forced=st.booleans())
    def a_call_begins(self, forced: bool) -> None:
        self.now += 0.001
        rests = self.health.resting("p", "m", self.now)
        trial = self.health.admitted("p", "m", self.now)
        assert (trial is None) == bool(rests)
        if trial is not None or forced:
            running = [mark for _, mark in self.calls if mark and self.now < mark]
            assert not (trial and running), "two trials at a time"
            self.calls.append((self.now, trial or 0.0))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_succeeds(self, data: st.DataObject) -> None:
        self.now += 0.001
        started = self._end(data)
        succeed(self.health, started=started, now=self.now)
        self._over()
        self.promised = [one for one in self.promised if one[0] > started]

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), error=st.sampled_from([ErrorClass.TRANSIENT, ErrorClass.TIMEOUT]))
    def a_call_fails(self, data: st.DataObject, error: ErrorClass) -> None:
        self.now += 0.001
        stats = self.health.stats("p", "m")
        started = self._end(data)
        was_open, opened_at, before = stats.is_open, stats.opened_at, stats.consecutive_errors
        fail(self.health, error, now=self.now, started=started)
        self._over()
        assert stats.consecutive_errors >= min(before + 1, DOWN_AFTER)
        assert stats.is_open == (was_open or before + 1 >= DOWN_AFTER)
        if stats.is_open and not (was_open and started < opened_at):
            self.promised.append((self.now, self.now + DOWN_SECONDS))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), seconds=st.floats(0.0, 90.0))
    def a_call_is_limited(self, data: st.DataObject, seconds: float) -> None:
        self.now += 0.001
        started = self._end(data)
        fail(self.health, ErrorClass.RATE_LIMITED, now=self.now, started=started, retry_after=seconds, status=429)
        self._over()
        self.promised.append((self.now, self.now + seconds))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_is_the_clients_own_fault(self, data: st.DataObject) -> None:
        stats = self.health.stats("p", "m")
        before = (stats.calls, stats.consecutive_errors, stats.rest_until, stats.failure)
        fail(self.health, ErrorClass.INVALID_REQUEST, now=self.now, started=self._end(data), status=400)
        self._over()
        assert (stats.calls, stats.consecutive_errors, stats.rest_until, stats.failure) == before

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        self._end(data)
        self._over()

    @invariant()
    def no_rest_is_shortened(self) -> None:
        until = max((end for _, end in self.promised), default=0.0)
        assert self.health.rest_seconds("p", "m", self.now) >= until - self.now - 1e-6
        if self.now < until - 1e-6:
            assert self.health.resting("p", "m", self.now)

    @invariant()
    def a_target_that_is_not_open_and_does_not_rest_is_asked(self) -> None:
        stats = self.health.stats("p", "m")
        if not stats.is_open and self.now >= max((end for _, end in self.promised), default=0.0) + 1e-6:
            assert self.health.resting("p", "m", self.now) == ""


TestTarget = Target.TestCase
TestTarget.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


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


def test_an_old_failure_fades() -> None:
    health = Health()
    fail(health)
    health.resting("p", "m", NOW + HALF_LIFE_SECONDS)
    assert health.stats("p", "m").failure == pytest.approx(DECAY / 2)
    health.resting("p", "m", NOW + 100 * HALF_LIFE_SECONDS)
    assert health.stats("p", "m").failure == pytest.approx(0.0, abs=1e-9)


def test_a_model_that_was_slow_once_gets_another_chance_and_a_fast_one_stays_fast() -> None:
    health = Health()
    health.succeeded("p", "slow", latency_ms=60_000.0, started=NOW, now=NOW)
    health.succeeded("p", "fast", latency_ms=50.0, started=NOW, now=NOW)
    for step in range(1, 200):
        for model in ("slow", "fast"):
            health.resting("p", model, NOW + step * (FADE_SECONDS + 1))
    assert health.stats("p", "slow").latency_ms == pytest.approx(ASSUMED_LATENCY_MS, rel=0.5)
    assert health.stats("p", "slow").measured_ms == 60_000.0
    assert health.stats("p", "fast").latency_ms == 50.0


def test_the_longer_ago_the_last_observation_the_more_a_fresh_one_counts() -> None:
    health = Health()
    for model, wait in (("soon", 0.5), ("late", 10 * HALF_LIFE_SECONDS)):
        health.succeeded("p", model, latency_ms=100.0, started=NOW, now=NOW)
        health.succeeded("p", model, latency_ms=200.0, started=NOW, now=NOW + wait)
    assert health.stats("p", "soon").latency_ms == pytest.approx(110.0)
    assert health.stats("p", "late").latency_ms == pytest.approx(200.0, rel=0.01)


def test_the_first_chunks_of_streams_are_averaged_by_themselves() -> None:
    health = Health()
    health.succeeded("p", "m", latency_ms=500.0, now=NOW)
    assert health.stats("p", "m").first_chunk_ms == 0.0
    health.succeeded("p", "m", latency_ms=40.0, now=NOW, first_chunk_ms=40.0)
    health.succeeded("p", "m", latency_ms=50.0, now=NOW, first_chunk_ms=50.0)
    assert health.stats("p", "m").first_chunk_ms == pytest.approx(41.0)


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


def test_who_was_outrun_is_known_to_be_slow() -> None:
    health = Health()
    health.succeeded("p", "m", latency_ms=100.0)
    health.outrun("p", "m", waited_ms=1_100.0)
    assert health.stats("p", "m").latency_ms == pytest.approx(200.0)
    health.outrun("p", "m", waited_ms=50.0)  # says nothing: it usually takes longer
    assert health.stats("p", "m").latency_ms == pytest.approx(200.0)
