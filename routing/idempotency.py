"""A call with an `Idempotency-Key` runs once; who repeats it gets the same answer again. The answer is held back until
it is in the database, so that a repeat never runs beside it or after it. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from django.db import close_old_connections
from django.db.utils import DatabaseError
from msgspec import Raw

from routing.errors import ApiError
from routing.idempotency_store import (
    AnswerGone,
    Claim,
    Kept,
    OtherBody,
    StillRunning,
    claim,
    identity_of,
    keep,
    release,
    renew,
)
from telemetry.logs import EventLogger

if TYPE_CHECKING:
    from routing.consumers import Endpoint
    from routing.visit import Visit

log = EventLogger(__name__)
T = TypeVar("T")
HEADER: Final = b"idempotency-key"
REASON: Final = "idempotent-replay"
MAX_NAME_BYTES: Final = 255
BEAT_SECONDS: Final = 20.0
_REPLAYED: Final = (b"content-type", b"location")
_FRESH: Final = (b"x-tokenhub-request-id",)


class _Streaming(msgspec.Struct):
    stream: Raw = Raw(b"false")
    request: Raw = Raw(b"null")


_read = msgspec.json.Decoder(_Streaming).decode


async def answer_once(endpoint: Endpoint, visit: Visit) -> None:
    """Answers in place of the endpoint. Raises what it raises."""
    endpoint.require_key(visit, counts=False)
    endpoint.require_journal(visit)
    name = visit.headers[HEADER]
    if not 0 < len(name) <= MAX_NAME_BYTES or any(not 0x21 <= one <= 0x7E for one in name):
        raise ApiError(
            "invalid_request",
            f"Idempotency-Key must be 1 to {MAX_NAME_BYTES} visible ASCII characters.",
            param="Idempotency-Key",
            hint="A UUID does.",
        )
    body = visit.kept_body = await visit.body()
    if _streams(body):
        await endpoint.answer(visit)
        return
    found = await _found(visit, name.decode("ascii"), body)
    if isinstance(found, Kept):
        await _counted(visit)
        visit.reason = REASON
        visit.account(found.status, cost=0)
        told = [(b"idempotency-replay", b"true"), (b"x-tokenhub-replay-of", found.request_id.encode("ascii"))]
        await visit.respond(found.status, found.body, [*visit.base_headers(), *found.headers, *told])
        return
    await _run(endpoint, visit, found)


async def _found(visit: Visit, name: str, body: bytes) -> Claim | Kept:
    """Raises ApiError."""
    key, runtime = visit.key, visit.runtime
    assert key is not None  # noqa: S101  the endpoint asked for one
    try:
        return await _in_thread(
            lambda: claim(
                identity=identity_of(key_id=key.id, method="POST", path=visit.endpoint, name=name),
                body=body,
                request_id=visit.request_id,
                holder=runtime.journal.holder,
                journals=runtime.journal.folder,
            )
        )
    except StillRunning:
        await _counted(visit)
        raise ApiError(
            "idempotency_conflict",
            "The first request with this Idempotency-Key is still running.",
            hint="Repeat it in a moment: then its answer comes.",
            retry_after_seconds=1,
        ) from None
    except OtherBody:
        await _counted(visit)
        raise ApiError(
            "idempotency_conflict",
            "This Idempotency-Key was used within 24 hours for another body.",
            hint="A key stands for one request: send a new one.",
        ) from None
    except AnswerGone as gone:
        await _counted(visit)
        raise ApiError(
            "idempotency_conflict",
            f"The first request with this Idempotency-Key was answered, but that answer is not kept: {gone}.",
            hint="Answers of more than 1 MB cannot be repeated. A new key runs the request anew, and pays again.",
        ) from None
    except DatabaseError as problem:
        log.warning("idempotency_unavailable", error=type(problem).__name__)
        raise ApiError(
            "accounting_unavailable",
            "Whether this request was answered before cannot be looked up: the database does not answer.",
            hint="Try again later, or send it without Idempotency-Key.",
            retry_after_seconds=5,
        ) from None


async def _counted(visit: Visit) -> None:
    """A repeat is a request as any other for the limits, of no tokens. Raises ApiError."""
    if visit.key is not None and (visit.key.limits or visit.runtime.shared_limits is not None):
        visit.admit(visit.key)
        await visit.admitted()


async def _run(endpoint: Endpoint, visit: Visit, mine: Claim) -> None:
    held = _Held()
    send = held.through = visit.divert(held)
    beat = asyncio.get_running_loop().create_task(_beat(mine))
    try:
        try:
            await endpoint.answer(visit)
        except endpoint.refusals as problem:
            await endpoint.refuse(visit, problem)
    except BaseException:
        visit.divert(send)
        visit.started = held.is_passing
        await _end(mine, None)
        raise
    finally:
        beat.cancel()
    visit.divert(send)
    await _end(mine, held.answer(visit.request_id))
    for message in held.messages:
        await send(message)


class _Held:
    """Takes an answer in place of the client. A stream goes through: nobody repeats it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.is_passing = False
        self.through: Callable[[dict[str, Any]], Any]

    async def __call__(self, message: dict[str, Any]) -> None:
        if (b"content-type", b"text/event-stream; charset=utf-8") in message.get("headers", ()):
            self.is_passing = True
        if self.is_passing:
            await self.through(message)
        else:
            self.messages.append(message)

    def answer(self, request_id: str) -> Kept | None:
        """None where a repeat shall run anew."""
        if not self.messages or (status := self.messages[0]["status"]) >= 500 or status == 429:
            return None
        headers = [
            (name, value)
            for name, value in self.messages[0]["headers"]
            if name in _REPLAYED or (name.startswith(b"x-tokenhub-") and name not in _FRESH)
        ]
        return Kept(status, headers, b"".join(one["body"] for one in self.messages[1:]), request_id)


async def _beat(mine: Claim) -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        try:
            await _in_thread(lambda: renew(mine))
        except DatabaseError as problem:
            log.warning("idempotency_lease_not_renewed", error=type(problem).__name__)


async def _end(mine: Claim, answer: Kept | None) -> None:
    """Its client gets the answer, whether or not it can be kept."""
    try:
        await asyncio.shield(_in_thread(lambda: release(mine) if answer is None else keep(mine, answer)))
    except DatabaseError as problem:
        log.warning("idempotency_not_kept", error=type(problem).__name__)


async def _in_thread(call: Callable[[], T]) -> T:
    def called() -> T:
        try:
            return call()
        finally:
            close_old_connections()

    return await asyncio.to_thread(called)


def _streams(body: bytes) -> bool:
    try:
        read = _read(body)
        inner = _read(read.request).stream if bytes(read.request)[:1] == b"{" else b""
        return b"true" in {bytes(read.stream), bytes(inner)}
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False  # its endpoint says what is wrong with it
