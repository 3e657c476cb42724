"""`GET /admin/v1/events` as Server-Sent Events, beside Django: its view says who may listen to what, in a request of a
few milliseconds; the stream itself holds no thread and no database connection. Who may is asked again every minute.

A client that takes nothing is let go: what waits for it is bounded by one chunk and the server's own buffer."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NamedTuple

import msgspec
from django.conf import settings

from telemetry.event_feed import FEED, Feed, Filter, Listener
from telemetry.logs import EventLogger

log = EventLogger(__name__)
EXTENSION: Final = "tokenhub.events"
HEARTBEAT_SECONDS: Final = 15.0
STALL_SECONDS: Final = 30.0
ASK_SECONDS: Final = 60.0
CLOSING_SECONDS: Final = 1.0
_REPLACED: Final = frozenset({b"content-type", b"content-length", b"cache-control"})
_EVENT_STREAM: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_HELLO: Final = b"retry: 2000\n\n"


class _Accepted(msgspec.Struct):
    """What the view answers to those who may listen."""

    types: list[str] = []
    model_id: str = ""
    provider_id: str = ""
    project: str = ""
    status: str = ""
    last_event_id: str = ""

    @property
    def filter(self) -> Filter:
        return Filter(frozenset(self.types), self.model_id, self.provider_id, self.project, self.status)


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class EventStream:
    """`django`: the ASGI application that has the view."""

    def __init__(self, django: Any, *, feed: Feed = FEED) -> None:
        self._django = django
        self._feed = feed
        keepalive: float = settings.TOKENHUB_STREAM_KEEPALIVE_SECS
        self._heartbeat = min(HEARTBEAT_SECONDS, keepalive or HEARTBEAT_SECONDS)
        self._stall = min(STALL_SECONDS, settings.TOKENHUB_STREAM_IDLE_TIMEOUT_SECS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] != "GET":
            await self._django(scope, receive, send)
            return
        answer = await self._ask(scope, problem="full" if self._feed.is_full else "")
        if answer.status == 200:
            accepted = msgspec.json.decode(answer.body, type=_Accepted)
            try:
                listener = await self._feed.join(accepted.last_event_id)
            except OSError as problem:
                log.error("events_not_read", reason=str(problem)[:200])
                answer = await self._ask(scope, problem="unreadable")
            else:
                await self._listen(scope, receive, send, answer, listener, accepted.filter)
                return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _ask(self, scope: Any, *, problem: str = "") -> _Answer:
        """What the view says. `problem`: why it must refuse those who may."""
        status, headers, body = 500, [], b""
        asked = False

        async def receive() -> Any:
            nonlocal asked
            if asked:
                await asyncio.Future()  # the client does not leave Django: it is answered at once
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, headers, body
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            else:
                body += message.get("body", b"")

        await self._django({**scope, "extensions": {EXTENSION: {"problem": problem}}}, receive, send)
        return _Answer(status, headers, body)

    async def _listen(
        self, scope: Any, receive: Any, send: Any, answer: _Answer, listener: Listener, wanted: Filter
    ) -> None:
        watcher = asyncio.create_task(_wait_for_leave(receive, listener))
        try:
            headers = [one for one in answer.headers if one[0].lower() not in _REPLACED]
            await send({"type": "http.response.start", "status": 200, "headers": headers + _EVENT_STREAM})
            await self._send_all(scope, send, listener, wanted, watcher)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            if self._feed.is_closing:
                _abort(send)
        except TimeoutError:
            log.warning("event_listener_stalled", listeners=len(self._feed.listeners))
            _abort(send, at_once=True)
        finally:
            self._feed.leave(listener)
            watcher.cancel()

    async def _send_all(
        self, scope: Any, send: Any, listener: Listener, wanted: Filter, watcher: asyncio.Task[None]
    ) -> None:
        """Until the client leaves, may no longer listen, or the server stops. Raises TimeoutError for a client that
        takes nothing."""
        ask_at = monotonic() + ASK_SECONDS
        chunk = _HELLO + self._feed.window.mark(listener.number)
        while not self._feed.is_closing and not watcher.done():
            if chunk:
                async with asyncio.timeout(self._stall) as listener.sending:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                listener.sending = None
                await asyncio.sleep(0)  # where the server takes all at once, others get their turn, too
                silent_until = monotonic() + self._heartbeat
            if monotonic() >= ask_at:
                if (await self._ask(scope)).status in {401, 403}:
                    return
                ask_at = monotonic() + ASK_SECONDS
            listener.news.clear()
            chunk = self._feed.next(listener, wanted)
            if chunk:
                continue
            if (left := silent_until - monotonic()) <= 0:
                chunk = self._feed.window.mark(listener.number)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await listener.news.wait()


async def _wait_for_leave(receive: Any, listener: Listener) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.news.set()


def _abort(send: Any, *, at_once: bool = False) -> None:
    """An orderly close would wait for the client to read. uvicorn's `send` belongs to the object that has the
    connection; other servers close when the application returns. `at_once`: the kernel keeps nothing for it either."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        return
    if at_once and (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    asyncio.get_running_loop().call_later(0.0 if at_once else CLOSING_SECONDS, transport.abort)
