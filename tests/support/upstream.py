"""A fake upstream: a real HTTP/1.1 server on a free loopback port, in a thread of its own, that fails on demand.

    with Upstream() as upstream:                       # upstream.url == "http://127.0.0.1:PORT"
        upstream.next(Reply(status=429, headers={"retry-after": "7"}), Reply())         # the next two requests
        upstream.when(Reply(fault=Fault.HANG_MIDWAY), model="slow")                     # or path=…, header=(…, …)
        upstream.default = Reply(words=50, interval=0.02)
        …
        assert upstream.requests[0].json["model"] == "m"
        assert upstream.requests[1].lost.wait(1)       # the client left before the answer's end, at `lost_at`

It speaks POST /v1/chat/completions, /v1/messages, /v1/embeddings (JSON and event streams), GET /v1/models, /health."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic, sleep
from typing import Any, Literal, Self

from tests.support import wire


class Fault(StrEnum):
    """MIDWAY: in a stream after `at` events, else after half of the body."""

    NONE = "none"
    RESET_BEFORE_HEAD = "reset_before_head"
    CLOSE_BEFORE_HEAD = "close_before_head"
    HANG_BEFORE_HEAD = "hang_before_head"
    RESET_MIDWAY = "reset_midway"
    CLOSE_MIDWAY = "close_midway"
    HANG_MIDWAY = "hang_midway"
    HTML = "html"
    BROKEN_JSON = "broken_json"
    GARBAGE_EVENT = "garbage_event"
    ERROR_EVENT = "error_event"
    NO_TERMINAL_EVENT = "no_terminal_event"
    WRONG_CHUNK_SIZE = "wrong_chunk_size"
    HUGE_HEADER = "huge_header"
    NOT_HTTP = "not_http"


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request is answered. Without `body` and `events`: as its endpoint would, `words` words long."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    events: tuple[bytes, ...] | None = None
    words: int = 8
    usage: dict[str, Any] | None = None
    fault: Fault = Fault.NONE
    at: int = 3
    delay: float = 0.0
    interval: float = 0.0
    framing: Literal["", "length", "chunked", "close"] = ""
    one_byte: bool = False
    compressed: bool = False
    interim: bool = False
    raw: bytes | None = None
    """Written as it is in place of everything else; then the connection is closed."""


@dataclass(slots=True)
class Request:
    """One request as it came. `connection` counts connections from 0: two requests on one tell of reuse."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float
    sent_bytes: int = 0
    ended_at: float | None = None
    lost_at: float | None = None
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Upstream:
    def __init__(
        self, *, tls: ssl.SSLContext | None = None, models: tuple[str, ...] = ("fake-model",), port: int = 0
    ) -> None:
        self.requests: list[Request] = []
        self.default = Reply()
        self.models = list(models)
        self.connections = 0
        self._queue: deque[Reply] = deque()
        self._rules: list[tuple[Reply, str | None, str | None, tuple[str, str] | None]] = []
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-upstream", daemon=True)
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self.port = port

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def next(self, *replies: Reply) -> None:
        """These first, one a request, whatever the rules say."""
        self._queue.extend(replies)

    def most_at_once(self, first: int = 0) -> int:
        """Of the requests from that one on: how many were in hand at the same moment. All must have ended, or
        be about to."""
        marks: list[tuple[float, int]] = []
        for one in self.requests[first:]:
            for _ in range(1000):
                if one.ended_at is not None:
                    break
                sleep(0.005)
            assert one.ended_at is not None, "a request has not ended"
            marks += [(one.at, 1), (one.ended_at, -1)]
        found = most = 0
        for _, change in sorted(marks):
            found += change
            most = max(most, found)
        return most

    def forget(self) -> None:
        """What `next` was told and nobody asked for."""
        self._queue.clear()

    def clear(self) -> None:
        """All rules of `when`."""
        self._rules.clear()

    def when(
        self, reply: Reply, *, model: str | None = None, path: str | None = None, header: tuple[str, str] | None = None
    ) -> None:
        """For requests that fit all that is given; a later rule goes before an earlier one."""
        self._rules.insert(0, (reply, model, path, header))

    def drop_connections(self) -> None:
        """Closes every open connection, as a server does with idle ones."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(5)

    def wait_for_requests(self, count: int, timeout: float = 5) -> None:
        deadline = monotonic() + timeout
        while len(self.requests) < count:
            if monotonic() > deadline:
                raise TimeoutError(f"{len(self.requests)} of {count} requests came")
            threading.Event().wait(0.002)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await self._loop.create_server(
            lambda: _Connection(self, self._loop), "127.0.0.1", self.port, ssl=self._tls, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._drop()

    async def _drop(self) -> None:
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0.01)

    def reply_to(self, request: Request) -> Reply:
        if self._queue and request.path != "/health":
            return self._queue.popleft()
        model = _model_of(request)
        for reply, wanted_model, path, header in self._rules:
            fits = wanted_model in {None, model} and path in {None, request.path}
            if fits and (header is None or request.headers.get(header[0].lower()) == header[1]):
                return reply
        return self.default


def _model_of(request: Request) -> str:
    try:
        body = request.json
    except ValueError:
        return ""
    return str(body.get("model", "")) if isinstance(body, dict) else ""


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self._upstream, self._loop = upstream, loop
        self._received = b""
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._number = self._upstream.connections
        self._upstream.connections += 1
        self._upstream._open.add(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream._open.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        if self._request is not None and self._request.ended_at is None:
            self._request.lost_at = monotonic()
            self._request.lost.set()

    def close(self, *, reset: bool = False) -> None:
        """Ends it from this side: with a FIN, or with an RST."""
        self._request = None
        if reset:
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._transport.abort()
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._task is None or self._task.done():
            self._next_request()

    def _next_request(self) -> None:
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        method, path, _ = lines[0].split(" ", 2)
        self._request = Request(method, path, headers, rest[:length], self._number, monotonic())
        reply = self._upstream.reply_to(self._request)
        self._upstream.requests.append(self._request)
        self._task = self._loop.create_task(self._answer(self._request, reply))

    async def _write(self, data: bytes, request: Request, reply: Reply) -> None:
        step = 1 if reply.one_byte else 65_536
        for start in range(0, len(data), step):
            await self._writable.wait()
            self._transport.write(data[start : start + step])
            request.sent_bytes += len(data[start : start + step])
            if reply.one_byte:
                await asyncio.sleep(0)

    async def _answer(self, request: Request, reply: Reply) -> None:
        await asyncio.sleep(reply.delay)
        match reply.fault:
            case Fault.RESET_BEFORE_HEAD | Fault.CLOSE_BEFORE_HEAD:
                return self.close(reset=reply.fault is Fault.RESET_BEFORE_HEAD)
            case Fault.HANG_BEFORE_HEAD:
                await asyncio.sleep(3600)
        raw = b"\x00\x01 this is no HTTP\r\n\r\n" if reply.fault is Fault.NOT_HTTP else reply.raw
        if raw is not None:
            await self._write(raw, request, reply)
            return self.close()
        content_type, parts = self._content(request, reply)
        is_stream = content_type == "text/event-stream"
        framing = reply.framing or ("chunked" if is_stream else "length")
        await self._write(self._head(request, reply, content_type, parts, framing), request, reply)
        bodiless = request.method == "HEAD" or reply.status in {204, 304}
        if not bodiless and not await self._body(request, reply, parts, is_stream, framing):
            return None
        request.ended_at = monotonic()
        if framing == "close" or reply.headers.get("connection") == "close":
            return self.close()
        self._task = None
        return self._next_request()

    async def _body(self, request: Request, reply: Reply, parts: list[bytes], is_stream: bool, framing: str) -> bool:
        """Whether it came to its end."""
        if not is_stream and reply.fault.endswith("_midway"):
            half = len(parts[0]) // 2
            parts = [parts[0][:half], parts[0][half:]]
        for number, part in enumerate(parts):
            if number == (reply.at if is_stream else 1):
                await asyncio.sleep(0.02 if reply.fault.endswith("_midway") else 0)  # so that what went before is read
                match reply.fault:
                    case Fault.RESET_MIDWAY | Fault.CLOSE_MIDWAY:
                        self.close(reset=reply.fault is Fault.RESET_MIDWAY)
                        return False
                    case Fault.HANG_MIDWAY:
                        await asyncio.sleep(3600)
            size = len(part) + (5 if reply.fault is Fault.WRONG_CHUNK_SIZE else 0)
            await self._write(b"%x\r\n%b\r\n" % (size, part) if framing == "chunked" else part, request, reply)
            if reply.interval:
                await asyncio.sleep(reply.interval)
        if framing == "chunked":
            await self._write(b"0\r\n\r\n", request, reply)
        return True

    def _head(self, request: Request, reply: Reply, content_type: str, parts: list[bytes], framing: str) -> bytes:
        headers = {"content-type": content_type, **reply.headers}
        if reply.compressed:
            headers["content-encoding"] = "gzip"
        if framing == "length" and reply.status != 204:
            headers["content-length"] = str(sum(map(len, parts)))
        elif framing == "chunked":
            headers["transfer-encoding"] = "chunked"
        elif framing == "close":
            headers["connection"] = "close"
        if reply.fault is Fault.HUGE_HEADER:
            headers["x-huge"] = "x" * 200_000
        lines = [f"HTTP/1.1 {reply.status} Answer", *(f"{name}: {value}" for name, value in headers.items())]
        interim = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" if reply.interim else b""
        return interim + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"

    def _content(self, request: Request, reply: Reply) -> tuple[str, list[bytes]]:
        content_type, parts = self._plain_content(request, reply)
        if reply.compressed:
            parts = [gzip.compress(b"".join(parts))]
        return reply.headers.get("content-type", content_type), parts

    def _plain_content(self, request: Request, reply: Reply) -> tuple[str, list[bytes]]:
        path = request.path.partition("?")[0]
        anthropic = path.endswith("/messages")
        if reply.fault is Fault.HTML:
            return "text/html", [wire.HTML]
        if reply.events is not None:
            return "text/event-stream", list(reply.events)
        if reply.body is not None:
            return "application/json", [reply.body]
        if reply.status >= 300:
            return "application/json", [wire.error_body(reply.status, anthropic=anthropic)]
        if path.endswith("/models"):
            return "application/json", [wire.models_body(self._upstream.models)]
        if path == "/health":
            return "application/json", [b"{}"]
        body = request.json if request.body else {}
        model = str(body.get("model", ""))
        if path.endswith("/embeddings"):
            return "application/json", [wire.embeddings_body(model, body.get("input"))]
        usage = wire.usage_of(anthropic=anthropic, count=reply.words, override=reply.usage)
        if body.get("stream"):
            return "text/event-stream", _events(body, model, reply, usage, anthropic=anthropic)
        if anthropic:
            whole = wire.messages_body(model, reply.words, usage)
        else:
            whole = wire.chat_body(model, reply.words, usage, body.get("n") or 1)
        return "application/json", [whole[: len(whole) // 2] if reply.fault is Fault.BROKEN_JSON else whole]


def _events(body: dict[str, Any], model: str, reply: Reply, usage: dict[str, Any], *, anthropic: bool) -> list[bytes]:
    if anthropic:
        events = wire.messages_events(model, reply.words, usage)
    else:
        asked = (body.get("stream_options") or {}).get("include_usage")
        events = wire.chat_events(model, reply.words, usage if asked else None)
    match reply.fault:
        case Fault.GARBAGE_EVENT:
            events.insert(reply.at, b"data: {]garbage\n\n")
        case Fault.ERROR_EVENT:
            events[reply.at :] = [wire.error_event(anthropic=anthropic)]
        case Fault.NO_TERMINAL_EVENT:
            del events[-3:]
    return events


def closed_port() -> int:
    """A port that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
