from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.client import FailureKind
from providers.outcomes import (
    MAX_RETRY_AFTER_SECONDS,
    ErrorClass,
    classify_failure,
    classify_status,
    is_retriable,
    retry_after_seconds,
)

NOW = 1_700_000_000.0
NAMED = {
    401: ErrorClass.AUTH,
    402: ErrorClass.AUTH,
    403: ErrorClass.AUTH,
    404: ErrorClass.MODEL_UNAVAILABLE,
    408: ErrorClass.TIMEOUT,
    409: ErrorClass.TRANSIENT,
    413: ErrorClass.CONTEXT_OVERFLOW,
    425: ErrorClass.TRANSIENT,
    429: ErrorClass.RATE_LIMITED,
}
RANGES = (
    (range(300, 400), ErrorClass.MODEL_UNAVAILABLE),
    (range(400, 500), ErrorClass.INVALID_REQUEST),
    (range(500, 600), ErrorClass.TRANSIENT),
)
TABLE = {status: NAMED.get(status, error) for statuses, error in RANGES for status in statuses}


def test_every_status_has_its_class() -> None:
    assert {status: classify_status(status) for status in range(300, 600)} == TABLE
    assert {status: classify_status(status, code="else", message="It broke.") for status in range(300, 600)} == TABLE


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "Input is too long for requested model.",
        "Please reduce the length of the messages or completion.",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "THE REQUEST EXCEEDS THE AVAILABLE CONTEXT WINDOW",
    ],
)
def test_an_overflow_is_known_by_what_providers_say_of_it(message: str) -> None:
    assert {classify_status(status, message=message) for status in (400, 413, 422)} == {ErrorClass.CONTEXT_OVERFLOW}
    assert classify_status(429, message=message) is ErrorClass.RATE_LIMITED
    assert classify_status(401, message=message) is ErrorClass.AUTH
    assert classify_status(500, message=message) is ErrorClass.TRANSIENT


@pytest.mark.parametrize(
    "code", ["context_length_exceeded", "string_above_max_length", "model_context_window_exceeded"]
)
def test_an_overflow_is_known_by_its_code_even_when_the_status_blames_the_server(code: str) -> None:
    assert {classify_status(status, code=code) for status in (400, 413, 422, 500, 503)} == {ErrorClass.CONTEXT_OVERFLOW}
    assert classify_status(404, code=code) is ErrorClass.MODEL_UNAVAILABLE


@given(st.integers(300, 599), st.none() | st.text(), st.text())
def test_whatever_the_body_says_there_is_a_class(status: int, code: str | None, message: str) -> None:
    assert classify_status(status, code=code, message=message) in ErrorClass


@pytest.mark.parametrize("kind", FailureKind)
def test_only_running_out_of_time_is_a_timeout(kind: FailureKind) -> None:
    wanted = ErrorClass.TIMEOUT if kind is FailureKind.TIMEOUT else ErrorClass.TRANSIENT
    assert classify_failure(kind) is wanted


def test_only_what_may_pass_is_tried_again_on_the_same_target() -> None:
    passing = {kind for kind in FailureKind if is_retriable(classify_failure(kind), kind)}
    assert passing == {FailureKind.CONNECT, FailureKind.RESET, FailureKind.PROTOCOL}
    assert {error for error in ErrorClass if is_retriable(error, None)} == {ErrorClass.TRANSIENT}


# -- Retry-After -------------------------------------------------------------------------------------------------------


def date(offset: float) -> bytes:
    return formatdate(NOW + offset, usegmt=True).encode()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b" 7 "}, 7.0),
        ({b"retry-after": b"0"}, 0.0),
        ({b"retry-after": b"1.5"}, 1.5),
        ({b"retry-after": b"86400"}, MAX_RETRY_AFTER_SECONDS),
        ({b"retry-after": b"9" * 400}, MAX_RETRY_AFTER_SECONDS),
        ({b"retry-after-ms": b"250"}, 0.25),
        ({b"retry-after-ms": b"-250"}, 0.0),
        ({b"retry-after-ms": b"1e300"}, MAX_RETRY_AFTER_SECONDS),
        ({b"retry-after-ms": b"250", b"retry-after": b"9"}, 0.25),
        ({b"retry-after": date(30)}, 30.0),
        ({b"retry-after": date(30).replace(b"GMT", b"+0000")}, 30.0),
        ({b"retry-after": date(-30)}, 0.0),
        ({b"retry-after": date(7200)}, MAX_RETRY_AFTER_SECONDS),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[bytes, bytes], seconds: float) -> None:
    assert retry_after_seconds(headers, now=NOW) == seconds


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"retry-after": b""},
        {b"retry-after": b"."},
        {b"retry-after": b"-5"},
        {b"retry-after": b"soon"},
        {b"retry-after": b"nan"},
        {b"retry-after": b"Tue, 99 Foo 2023 25:61:61 GMT"},
        {b"retry-after": b"Tue, 14 Nov 99999 22:13:20 GMT"},
        {b"retry-after": b"\xff\x00"},
        {b"retry-after-ms": b""},
        {b"retry-after-ms": b"nan"},
        {b"retry-after-ms": b"soon"},
    ],
)
def test_what_is_no_retry_after_says_nothing(headers: dict[bytes, bytes]) -> None:
    assert retry_after_seconds(headers, now=NOW) is None


DATE_LIKE = st.from_regex(rb"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{0,12} [-+A-Z0-9]{0,9}")


@given(
    st.dictionaries(
        st.sampled_from([b"retry-after", b"retry-after-ms"]),
        st.binary(max_size=40) | DATE_LIKE | st.floats().map(lambda number: str(number).encode()),
    )
)
def test_no_header_makes_it_raise_or_wait_for_more_than_an_hour(headers: dict[bytes, bytes]) -> None:
    seconds = retry_after_seconds(headers, now=NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


@given(st.binary().filter(lambda raw: not any(48 <= byte <= 57 for byte in raw)))
def test_without_a_digit_there_is_no_time_to_wait(raw: bytes) -> None:
    assert retry_after_seconds({b"retry-after": raw}, now=NOW) is None
