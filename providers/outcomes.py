"""From what an upstream did to what that means: one class per failed attempt, and what the engine does with it. Pure.

class               because of                                   then
invalid_request     400, 422 and other 4xx                       next target, unless the client named this one
auth                401, 402, 403                                next target; 401 and 402 rest the provider
model_unavailable   404, 3xx                                     next target
context_overflow    413, or the body says so                     a larger context first
rate_limited        429                                          next target; cooldown by Retry-After
transient           5xx, 529, reset, broken HTTP, HTML, no JSON  same target again after a pause, then the next
timeout             408, no answer in time                       next target
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import assert_never

from providers.client import FailureKind


class ErrorClass(StrEnum):
    INVALID_REQUEST = "invalid_request"
    AUTH = "auth"
    MODEL_UNAVAILABLE = "model_unavailable"
    CONTEXT_OVERFLOW = "context_overflow"
    RATE_LIMITED = "rate_limited"
    TRANSIENT = "transient"
    TIMEOUT = "timeout"


MAX_RETRY_AFTER_SECONDS = 3600.0

_BY_STATUS = {
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
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "string_above_max_length", "model_context_window_exceeded"})
_OVERFLOW_WORDS = (
    "maximum context length",
    "context length exceeded",
    "context window",
    "context_length_exceeded",
    "prompt is too long",
    "input is too long",
    "reduce the length of the messages",
    "exceeds the maximum number of tokens",
    "exceed context limit",
)


def classify_status(status: int, *, code: str | None = None, message: str = "") -> ErrorClass:
    """The class of an answer whose status is not 2xx."""
    if status in {400, 413, 422} or 500 <= status < 600:
        text = message.lower()
        if code in _OVERFLOW_CODES or (status < 500 and any(words in text for words in _OVERFLOW_WORDS)):
            return ErrorClass.CONTEXT_OVERFLOW
    if found := _BY_STATUS.get(status):
        return found
    if 300 <= status < 400:
        return ErrorClass.MODEL_UNAVAILABLE
    return ErrorClass.INVALID_REQUEST if 400 <= status < 500 else ErrorClass.TRANSIENT


def classify_failure(kind: FailureKind) -> ErrorClass:
    """The class of a call that gave no whole answer."""
    match kind:
        case FailureKind.TIMEOUT:
            return ErrorClass.TIMEOUT
        case (
            FailureKind.CONNECT
            | FailureKind.DNS
            | FailureKind.TLS
            | FailureKind.RESET
            | FailureKind.PROTOCOL
            | FailureKind.TOO_LARGE
            | FailureKind.REFUSED_ADDRESS
        ):
            return ErrorClass.TRANSIENT
        case _:
            assert_never(kind)


def is_retriable(error: ErrorClass, kind: FailureKind | None) -> bool:
    """Whether the same target may be asked again after a pause. A name that does not resolve, a refused address, a
    broken certificate and an oversized answer stay what they are."""
    return error is ErrorClass.TRANSIENT and kind not in {
        FailureKind.DNS, FailureKind.TLS, FailureKind.REFUSED_ADDRESS, FailureKind.TOO_LARGE,
    }  # fmt: skip


def retry_after_seconds(headers: dict[bytes, bytes], *, now: float) -> float | None:
    """Retry-After in seconds from `now` (Unix time): given in seconds, in milliseconds (`retry-after-ms`) or as a date.
    None if absent or unreadable; at most an hour."""
    raw_ms = headers.get(b"retry-after-ms")
    raw = headers.get(b"retry-after")
    try:
        if raw_ms is not None:
            value = float(raw_ms) / 1000
        elif raw is None:
            return None
        elif raw.strip().replace(b".", b"", 1).isdigit():
            value = float(raw)
        else:
            value = parsedate_to_datetime(raw.decode("latin-1")).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(value, 0.0), MAX_RETRY_AFTER_SECONDS) if value == value else None
