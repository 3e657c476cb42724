"""One call of one target: send, and read up to the point from which the client can be answered. What goes wrong
comes out as AttemptFailed, classified; the engine decides what follows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from time import monotonic, time
from typing import Any

from providers.client import Exchange, FailureKind, Headers, Transport, UpstreamFailure
from providers.formats.base import Dialect
from providers.formats.dialect import Answer, Relay, Rendered, Usage, WireError
from providers.formats.errors import InvalidRequest, UnreadableAnswer
from providers.formats.registry import relay, translate_answer
from providers.outcomes import ErrorClass, classify_failure, classify_status, retry_after_seconds
from routing.call import Call
from routing.heard import HeardStream
from routing.shaped_stream import ShapedStream
from routing.snapshot import Endpoint, Target
from routing.traced import answered, begun
from telemetry.tracing import CANCELLED, Leg, Trace
from vault.errors import Damaged, VaultLocked

MAX_ANSWER_BYTES = 67_108_864
MAX_ERROR_BYTES = 1_048_576
_BODY = re.compile(rb"\s*\{")
_EVENT = re.compile(rb"(?:^|[\r\n])data:")
_JSON = (b"content-type", b"application/json")


class AttemptFailed(Exception):
    """`status` is 0 when there was no answer; `retry_after` in seconds. `message` holds no credential. `usage`: of an
    answer that was made and is of no use."""

    def __init__(
        self,
        error: ErrorClass,
        message: str,
        *,
        kind: FailureKind | None = None,
        status: int = 0,
        wire: WireError | None = None,
        retry_after: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.error = error
        self.message = message
        self.kind = kind
        self.status = status
        self.wire = wire
        self.retry_after = retry_after
        self.usage = usage


@dataclass(slots=True, eq=False)
class Delivery:
    """What the client gets: a whole `answer`, or `first` bytes and a `relay` with the `exchange` that feeds it."""

    target: Target
    upstream_headers: dict[bytes, bytes]
    dropped: tuple[str, ...]
    started_at: float
    answer: Answer | None = None
    first: bytes = b""
    relay: Relay | None = None
    heard: HeardStream | None = None
    exchange: Exchange | None = None
    reason: str = ""
    at_home: bool = False
    """By the model that the conversation was at."""
    lowered_to: int | None = None
    leg: Leg | None = None

    def close(self) -> None:
        """Nobody wants it any more."""
        if self.leg is not None:
            self.leg.end(CANCELLED)
        if self.exchange is not None:
            self.exchange.close()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `hedge_after`: until a silent stream's next target is asked as well; 0: never."""

    first_chunk: float
    whole_answer: float
    hedge_after: float = 0.0


def attempt(
    call: Call, target: Target, dialect: Dialect, endpoint: Endpoint, door: Transport, timeouts: Timeouts
) -> Coroutine[Any, Any, Delivery]:
    """Raises AttemptFailed, InvalidRequest when the request cannot be said in the target's dialect, VaultLocked."""
    if call.trace is not None:
        return _traced(call.trace, call, target, dialect, endpoint, door, timeouts)
    return _attempt(call, target, dialect, endpoint, door, timeouts)


async def _attempt(
    call: Call,
    target: Target,
    dialect: Dialect,
    endpoint: Endpoint,
    door: Transport,
    timeouts: Timeouts,
    context: Sequence[tuple[bytes, bytes]] = (),
) -> Delivery:
    """`context`: headers that name the trace."""
    rendered = call.rendered(target, dialect)
    same = dialect is call.dialect
    secret = ""
    headers = [_JSON]
    if target.provider.credential is not None:
        try:
            secret = target.provider.credential.reveal()
        except Damaged:
            what = f"The credential of provider {target.provider.id} is damaged in the vault: enter it again."
            raise AttemptFailed(ErrorClass.AUTH, what) from None
        name, value = target.provider.defaults.credential_header(secret)
        headers.append((name.encode("ascii"), value.encode("latin-1", "replace")))
    _add(headers, target.provider.headers, call.headers if same else [], [*context, *rendered.headers])
    url = endpoint.urls[dialect.name]
    if same and call.query:
        url = url.with_query(call.query)
    started_at = monotonic()
    limit = timeouts.first_chunk if call.envelope.stream else timeouts.whole_answer
    if call.policy.deadline_ms is not None:
        limit = min(limit, call.policy.deadline_ms / 1000 - (started_at - call.started_at))
    exchange: Exchange | None = None
    delivery = Delivery(target, {}, rendered.dropped, started_at, lowered_to=call.lowered_to)
    body = b""
    if call.begun is not None:
        call.begun[target.model_id] = False
    try:
        with call.patience.within(limit):
            exchange = await door.send(b"POST", url, headers, rendered.body)
            if not 200 <= exchange.status < 300:
                raise await _refusal(exchange, dialect, secret)
            delivery.upstream_headers = exchange.headers
            if call.begun is not None:
                call.begun[target.model_id] = True
            if call.envelope.stream:
                await _open_stream(call, delivery, exchange, dialect, rendered, secret)
                kept, exchange = exchange, None
                delivery.exchange = kept
            else:
                body = await exchange.read(MAX_ANSWER_BYTES)
                delivery.answer = translate_answer(
                    dialect,
                    call.dialect,
                    body,
                    now=time(),
                    asked=None if same else call.parsed(),
                    rendered=rendered,
                )
    except UpstreamFailure as failure:
        raise AttemptFailed(classify_failure(failure.kind), failure.message, kind=failure.kind) from None
    except UnreadableAnswer as problem:
        raise _unreadable(problem, target, dialect, body, secret) from None
    except TimeoutError:
        message = f"The provider did not answer within {limit:.3g} seconds."
        raise AttemptFailed(ErrorClass.TIMEOUT, message, kind=FailureKind.TIMEOUT) from None
    finally:
        if exchange is not None:
            exchange.close()
    return delivery


async def _traced(
    trace: Trace,
    call: Call,
    target: Target,
    dialect: Dialect,
    endpoint: Endpoint,
    door: Transport,
    timeouts: Timeouts,
) -> Delivery:
    """The same, noted as a leg of the trace."""
    leg = begun(trace, target, dialect, endpoint.urls[dialect.name], stream=call.envelope.stream)
    try:
        delivery = await _attempt(call, target, dialect, endpoint, door, timeouts, leg.headers)
    except AttemptFailed as failure:
        if failure.status:
            leg.told["http.response.status_code"] = failure.status
        leg.end(failure.error.value)
        raise
    except asyncio.CancelledError:
        leg.end(CANCELLED)
        raise
    except (InvalidRequest, VaultLocked):
        trace.never_made(leg)
        raise
    delivery.leg = leg
    answered(leg, delivery.answer.body if delivery.answer is not None else None, delivery.first)
    return delivery


def _unreadable(problem: UnreadableAnswer, target: Target, dialect: Dialect, body: bytes, secret: str) -> AttemptFailed:
    usage = _usage_in(dialect, body)
    if (wire := dialect.told_error(body)) is not None:
        return _told_failure(wire, secret, usage)
    message = f"The provider's answer cannot be read: {discreet(target, str(problem))}"
    return AttemptFailed(ErrorClass.TRANSIENT, message, kind=FailureKind.PROTOCOL, usage=usage)


def _usage_in(dialect: Dialect, body: bytes) -> Usage | None:
    """Of an answer that cannot be given to the client."""
    try:
        return dialect.inspect_response(body).usage
    except UnreadableAnswer:
        return None


def _shows_usage(call: Call) -> bool:
    return call.envelope.include_usage or call.dialect.name != "openai-chat"


def _add(headers: Headers, defaults: Headers, passed: Headers, further: Headers) -> None:
    """The client's own value of a default (`anthropic-version`) wins; never two lines of one name."""
    names = {name for name, _ in headers}
    for group in (further, passed, defaults):
        for name, value in group:
            if name not in names:
                names.add(name)
                headers.append((name, value))


def _stream(call: Call, delivery: Delivery, dialect: Dialect, rendered: Rendered, *, is_whole: bool = False) -> Relay:
    stream = relay(
        dialect,
        call.dialect,
        show_usage=_shows_usage(call),
        now=time(),
        asked=None if dialect is call.dialect else call.parsed(),
        rendered=rendered,
        is_whole=is_whole,
    )
    if call.lesson is not None and (call.lesson.is_heard or call.lesson.is_judged):
        stream = delivery.heard = HeardStream(stream, call.dialect)
    if call.shape is not None:
        stream = ShapedStream(stream, call.shape, call.dialect)
    return stream


async def _open_stream(
    call: Call, delivery: Delivery, exchange: Exchange, dialect: Dialect, rendered: Rendered, secret: str
) -> None:
    """Reads until there is an event for the client, so that a failure before that can still go elsewhere. Comments,
    which some services write while they look for a machine, are none; a plain body may tell an error, or be the whole
    answer of a provider that makes no streams, which is then told as one."""
    stream, heard = _stream(call, delivery, dialect, rendered), bytearray()
    while True:
        data = await exchange.chunk()
        delivery.first += stream.feed(data) if data else stream.close()
        has_begun = _EVENT.search(delivery.first) is not None
        if stream.error is not None and not has_begun:
            raise _told_failure(stream.error, secret)
        if has_begun or stream.error is not None:
            delivery.relay = stream
            return
        if not data:
            body = bytes(heard)
            if _is_body(body):
                _tell_whole(call, delivery, dialect, rendered, body, secret)
                return
            if (wire := dialect.told_error(body)) is not None:
                raise _told_failure(wire, secret)
            raise UpstreamFailure(FailureKind.RESET, "The provider ended its stream before it said anything.")
        if len(heard) < (MAX_ANSWER_BYTES if _is_body(heard) else MAX_ERROR_BYTES):
            heard += data


def _is_body(data: bytes | bytearray) -> bool:
    """Whether it begins as a JSON object does, and no line of a stream."""
    return _BODY.match(data) is not None


def _tell_whole(call: Call, delivery: Delivery, dialect: Dialect, rendered: Rendered, body: bytes, secret: str) -> None:
    """The answer of a provider that makes no streams."""
    is_same = dialect is call.dialect
    stream = _stream(call, delivery, dialect, rendered, is_whole=not is_same)
    try:
        first = stream.feed(dialect.as_stream(body) if is_same else body) + stream.close()
    except UnreadableAnswer as problem:
        raise _unreadable(problem, delivery.target, dialect, body, secret) from None
    if stream.error is not None:
        raise _told_failure(stream.error, secret, _usage_in(dialect, body))
    delivery.first, delivery.relay = first, stream
    delivery.dropped = (*delivery.dropped, "stream")


def discreet(target: Target, text: str) -> str:
    """A provider's words, short of the credential; none where nobody can tell whether it is in them."""
    credential = target.provider.credential
    if credential is None or not text:
        return text
    try:
        return text.replace(credential.peek(), "***")
    except (VaultLocked, Damaged):
        return ""


def _told_failure(wire: WireError, secret: str, usage: Usage | None = None) -> AttemptFailed:
    """An error under a status that means success, in a body or as the first thing in a stream."""
    status = int(wire.code) if re.fullmatch("[1-5][0-9]{2}", wire.code) else 0
    if status >= 400:
        error = classify_status(status, code=wire.code, message=wire.message)
    elif wire.type == "rate_limit_error" or wire.code == "rate_limit_exceeded":
        error = ErrorClass.RATE_LIMITED
    elif wire.type == "invalid_request_error":
        error = classify_status(400, code=wire.code, message=wire.message)
    else:
        error = ErrorClass.TRANSIENT
    wire, message = _in_words(wire, error, status, secret)
    message = message or "The provider reported an error in place of its answer."
    return AttemptFailed(error, message, status=status, wire=wire, usage=usage)


def _in_words(wire: WireError, error: ErrorClass, status: int, secret: str) -> tuple[WireError, str]:
    """The provider's words are kept, short of the credential."""
    if error is ErrorClass.AUTH:  # providers quote parts of the credential here
        return replace(wire, message=""), f"The provider refused TokenHub's credential (HTTP {status})."
    if secret and secret in wire.message:
        wire = replace(wire, message=wire.message.replace(secret, "***"))
    return wire, wire.message


async def _refusal(exchange: Exchange, dialect: Dialect, secret: str) -> AttemptFailed:
    """From an answer that is not 2xx."""
    try:
        wire = dialect.read_error(await exchange.read(MAX_ERROR_BYTES))
    except UpstreamFailure:
        wire = WireError("")
    status = exchange.status
    error = classify_status(status, code=wire.code, message=wire.message)
    wire, message = _in_words(wire, error, status, secret)
    return AttemptFailed(
        error,
        message or f"The provider answered with HTTP {status}.",
        status=status,
        wire=wire,
        retry_after=retry_after_seconds(exchange.headers, now=time()),
    )
