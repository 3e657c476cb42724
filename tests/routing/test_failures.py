"""The table "Upstream failures" of the HTTP contract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.formats.dialect import WireError
from providers.outcomes import ErrorClass
from routing.attempt import AttemptFailed
from routing.errors import ApiError
from routing.failures import after_failures, nobody_eligible, rejected, unusable
from routing.snapshot import Snapshot
from tests.support.targets import snapshot, target

ONE, TWO, THREE = target("m1"), target("m2"), target("m3")


def failed(error: ErrorClass, *, status: int = 0, message: str = "It said no.", param: str = "") -> AttemptFailed:
    return AttemptFailed(error, message, status=status, wire=WireError(message, param=param), retry_after=9.0)


def alone(error: ErrorClass, *, status: int = 0) -> ApiError:
    return after_failures([(ONE, failed(error, status=status))])


# -- one target --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ErrorClass.AUTH, 502, "upstream_error"),
        (ErrorClass.MODEL_UNAVAILABLE, 502, "upstream_error"),
        (ErrorClass.TRANSIENT, 502, "upstream_error"),
        (ErrorClass.TIMEOUT, 504, "upstream_timeout"),
        (ErrorClass.RATE_LIMITED, 429, "upstream_rate_limited"),
        (ErrorClass.CONTEXT_OVERFLOW, 400, "context_length_exceeded"),
        (ErrorClass.INVALID_REQUEST, 400, "upstream_rejected"),
    ],
)
def test_a_single_targets_failure_has_its_own_code(error: ErrorClass, status: int, code: str) -> None:
    found = alone(error)
    assert (found.status, found.code, found.error_class) == (status, code, error.value)
    assert "It said no." in found.message


def test_every_class_of_failure_has_an_answer() -> None:
    assert all(alone(error).status >= 400 for error in ErrorClass)


def test_only_a_rate_limit_passes_retry_after_on() -> None:
    assert {error: alone(error).retry_after_seconds for error in ErrorClass} == {
        error: 9.0 if error is ErrorClass.RATE_LIMITED else None for error in ErrorClass
    }


def test_several_tries_of_one_target_are_one_target() -> None:
    again = [(ONE, failed(ErrorClass.TRANSIENT, status=503)), (ONE, failed(ErrorClass.TIMEOUT))]
    assert after_failures(again).code == "upstream_timeout"


@pytest.mark.parametrize(("status", "shown"), [(400, 400), (422, 422), (451, 451), (0, 400), (500, 400), (200, 400)])
def test_a_rejection_keeps_the_upstreams_status_and_words(status: int, shown: int) -> None:
    error = rejected(failed(ErrorClass.INVALID_REQUEST, status=status, message="n is too large", param="n"))
    assert (error.status, error.code, error.message, error.param) == (shown, "upstream_rejected", "n is too large", "n")


def test_a_rejection_without_words_has_no_param() -> None:
    assert rejected(AttemptFailed(ErrorClass.INVALID_REQUEST, "HTTP 400", status=400)).param is None
    assert rejected(failed(ErrorClass.INVALID_REQUEST)).param is None


# -- several targets ---------------------------------------------------------------------------------------------------
def test_several_failures_are_named_with_their_models() -> None:
    error = after_failures([(ONE, failed(ErrorClass.TRANSIENT)), (TWO, failed(ErrorClass.RATE_LIMITED))])
    assert (error.status, error.code, error.error_class) == (502, "all_models_failed", "rate_limited")
    assert "m1 (transient)" in error.message
    assert "m2 (rate_limited)" in error.message


def test_several_timeouts_are_a_timeout() -> None:
    timeouts = [(one, failed(ErrorClass.TIMEOUT)) for one in (ONE, TWO)]
    assert (after_failures(timeouts).status, after_failures(timeouts).code) == (504, "all_models_failed")
    assert after_failures([*timeouts, (THREE, failed(ErrorClass.TRANSIENT))]).status == 502


def test_the_last_rejection_is_passed_on_whatever_else_failed() -> None:
    error = after_failures(
        [
            (ONE, failed(ErrorClass.INVALID_REQUEST, status=400, message="first")),
            (TWO, failed(ErrorClass.INVALID_REQUEST, status=422, message="second")),
            (THREE, failed(ErrorClass.TRANSIENT, status=503, message="third")),
        ]
    )
    assert (error.status, error.code, error.message) == (422, "upstream_rejected", "second")


def test_a_request_too_long_for_all_is_the_clients_error() -> None:
    error = after_failures([(one, failed(ErrorClass.CONTEXT_OVERFLOW, status=400)) for one in (ONE, TWO)])
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")


@given(
    st.lists(
        st.tuples(st.sampled_from([ONE, TWO, THREE]), st.sampled_from(ErrorClass), st.integers(0, 599)), min_size=1
    )
)
def test_no_failures_end_in_a_500_or_a_success(steps: list[tuple[object, ErrorClass, int]]) -> None:
    targets = {id(one): one for one in (ONE, TWO, THREE)}
    error = after_failures([(targets[id(one)], failed(kind, status=status)) for one, kind, status in steps])
    assert error.status >= 400
    assert error.status != 500


# -- nobody to ask -----------------------------------------------------------------------------------------------------
def test_without_any_model_the_answer_says_so() -> None:
    error = nobody_eligible(Snapshot(), {})
    assert (error.status, error.code) == (503, "no_models_configured")


def test_why_each_was_excluded_is_named() -> None:
    too_long = nobody_eligible(snapshot(ONE, TWO), {"m1": "context_too_small", "m2": "context_too_small"})
    assert (too_long.status, too_long.code) == (400, "context_length_exceeded")
    error = nobody_eligible(snapshot(ONE, TWO), {"m1": "over_budget", "m2": "context_too_small"})
    assert (error.status, error.code) == (502, "no_eligible_models")
    assert "m1 (over_budget), m2 (context_too_small)" in error.message


def test_models_that_the_key_may_not_use_are_not_named() -> None:
    error = nobody_eligible(snapshot(ONE, TWO), {"m1": "model_not_allowed", "m2": "over_budget"})
    assert "m1" not in error.message + error.hint
    assert "m1" not in nobody_eligible(snapshot(ONE), {"m1": "model_not_allowed"}).message


def test_a_locked_vault_is_said_only_when_it_is_all_that_is_wrong() -> None:
    locked = {"m1": "vault_locked", "m2": "vault_locked", "m3": "model_not_allowed"}
    error = nobody_eligible(snapshot(ONE, TWO, THREE), locked)
    assert (error.status, error.code) == (503, "vault_locked")
    assert nobody_eligible(snapshot(ONE, TWO), {"m1": "vault_locked", "m2": "down"}).code == "no_eligible_models"


@pytest.mark.parametrize(
    ("why", "lasting"),
    [
        (["lacks_tools", "below_min_weight"], True),
        (["over_budget", "model_not_allowed"], True),
        (["model_not_allowed"], True),
        (["lacks_tools", "down"], False),
        (["rate_limited"], False),
        (["over_latency"], False),
        ([], False),
    ],
)
def test_it_lasts_when_no_reason_passes_by_itself(why: list[str], lasting: bool) -> None:
    error = nobody_eligible(snapshot(ONE, TWO), {f"m{number}": one for number, one in enumerate(why)})
    assert (error.code, error.is_lasting) == ("no_eligible_models", lasting)


def test_where_providers_limit_the_rate_it_says_when_to_come_back() -> None:
    why = {"m1": "rate_limited", "m2": "lacks_tools"}
    error = nobody_eligible(snapshot(ONE, TWO), why, retry_after_seconds=7.2)
    assert (error.status, error.code, error.retry_after) == (429, "upstream_rate_limited", 8)
    assert "m1 (rate_limited), m2 (lacks_tools)" in error.message


def test_many_reasons_are_cut_short() -> None:
    many = {f"m{number}": "down" for number in range(1_000)}
    assert len(nobody_eligible(snapshot(ONE), many).message) < 500


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("vault_locked", 503, "vault_locked"),
        ("no_credential", 502, "upstream_error"),
        ("no_dialect", 400, "invalid_request"),
    ],
)
def test_a_named_model_that_cannot_be_called_says_why(reason: str, status: int, code: str) -> None:
    error = unusable(ONE, reason)
    assert (error.status, error.code) == (status, code)
    assert error.hint
