"""HTTP/1.1 on asyncio and httptools, with a pool of idle connections per origin. It exists because a cancelled call
must end upstream at once (pyreqwest 0.15 leaves it running until the response head) and because it costs half as much.
Knows bytes only."""

from __future__ import annotations

import asyncio
import os
import ssl
import zlib
from collections import deque
from time import monotonic
from typing import Any

import httptools

from providers.client import FailureKind, Headers, UpstreamFailure, Url, is_refused_address
from providers.outbox import Outbox

CONNECT_TIMEOUT_SECONDS = 10.0
IDLE_SECONDS = 50.0  # below the 60 s after which common servers and load balancers drop an idle connection
MAX_IDLE_PER_ORIGIN = 256
MAX_HEAD_BYTES = 65_536
HIGH_WATER_BYTES = 262_144
MAX_INFLATED_BYTES = 16_777_216  # of what one read of the socket may become


def tls_failure(problem: ssl.SSLError) -> UpstreamFailure:
    reason = getattr(problem, "verify_message", "") or problem.reason or "handshake failed"
    return UpstreamFailure(FailureKind.TLS, f"no secure connection to the provider: {reason}")


class Connection(asyncio.Protocol):
    """One socket and at most one call on it. The transport pools it again once the answer was read to its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: DirectTransport, origin: tuple[str, str, int]) -> None:
        self._loop = loop
        self._pool = pool
        self.origin = origin
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.idle_since = 0.0
        self.used = False
        self._reset_call()

    def _reset_call(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._head_bytes = 0
        self._head_done = False
        self._complete = False
        self._failure: UpstreamFailure | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._inflate: Any = None
        self._keep_alive = False
        self.received = False

    # -- one call ------------------------------------------------------------------------------------------------
    async def start(self, head: bytes, body: bytes) -> None:
        """Writes the request and waits for the response head."""
        self._reset_call()
        assert self.transport is not None  # noqa: S101  a pooled connection has one
        if len(body) < 65_536:
            self._pool.outbox.put(self.transport, head + body)
        else:
            self._pool.outbox.put(self.transport, head)
            self._pool.outbox.put(self.transport, body)
        while not self._head_done:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    async def chunk(self) -> bytes:
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self._complete:
                return b""
            await self._wait()
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        self._resume()
        return data

    async def read(self, limit: int) -> bytes:
        if self._complete and len(self._chunks) == 1 and self._buffered <= limit:
            return self._chunks.popleft()
        parts, size = [], 0
        while data := await self.chunk():
            size += len(data)
            if size > limit:
                raise UpstreamFailure(FailureKind.TOO_LARGE, f"the provider's answer is larger than {limit} bytes")
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        """Back to the pool after a whole answer, else the end of the connection, and with it of the call."""
        if self._complete and self._failure is None and not self.closed and self._keep_alive:
            self._chunks.clear()
            self._resume()  # an answer may be whole and too much at once
            self._pool.release(self)
        else:
            self.abort()

    def abort(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    def _resume(self) -> None:
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, kind: FailureKind, message: str) -> None:
        if self._failure is None:
            self._failure = UpstreamFailure(kind, message)
        self._wake()

    # -- asyncio -------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream socket has one; uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        if self.idle_since:  # bytes nobody asked for: the connection is out of step
            self.abort()
            return
        self.received = True
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._protocol_error("it switched protocols")
        except httptools.HttpParserError:
            self._protocol_error("it is not HTTP")
        if not self._head_done and self._head_bytes > MAX_HEAD_BYTES:
            self._protocol_error("its header is too large")

    def _protocol_error(self, why: str) -> None:
        if not self._complete:
            self._fail(FailureKind.PROTOCOL, f"the provider's answer cannot be read: {why}")
        self.abort()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.idle_since:
            self._pool.forget(self)
        if self._complete or self._failure is not None:
            self._wake()
            return
        until_close = b"content-length" not in self.headers and b"transfer-encoding" not in self.headers
        if self._head_done and until_close and exc is None:
            self._complete = True
            self._wake()
            return
        when = "in the middle of its answer" if self._head_done else "before it answered"
        self._fail(FailureKind.RESET, f"the provider closed the connection {when}")

    # -- httptools -----------------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._complete:  # a second answer; what is raised here stops the parser and ends the connection
            raise ValueError("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200:
            self.headers.clear()
            return
        if sum(map(len, self.headers)) + sum(map(len, self.headers.values())) > MAX_HEAD_BYTES:
            self._protocol_error("its header is too large")
            return
        encoding = self.headers.get(b"content-encoding", b"").lower()
        if encoding in {b"gzip", b"x-gzip", b"deflate"}:
            self._inflate = zlib.decompressobj(47)  # 32 + 15: gzip or zlib, told apart by their header
        self._keep_alive = self._parser.should_keep_alive()
        self._head_done = True
        self._wake()

    def on_body(self, data: bytes) -> None:
        if self._inflate is not None:
            try:
                data = self._inflate.decompress(data, MAX_INFLATED_BYTES)
            except zlib.error:
                self._protocol_error("its compression is broken")
                return
            if self._inflate.unconsumed_tail:
                self._protocol_error("it inflates beyond measure")
                return
        if not data:
            return
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER_BYTES and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
            self._wake()


class DirectTransport:
    """Keeps idle connections per origin, newest first, and opens further ones as they are needed."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._idle: dict[tuple[str, str, int], list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, method: bytes, url: Url, headers: Headers, body: bytes) -> Connection:
        lines = [method, b" ", url.target, b" HTTP/1.1\r\nhost: ", url.host_header]
        lines += [b"\r\naccept-encoding: identity\r\ncontent-length: ", str(len(body)).encode()]
        for name, value in headers:
            lines += (b"\r\n", name, b": ", value)
        lines.append(b"\r\n\r\n")
        head = b"".join(lines)
        breaks = len(headers) + 5
        if head.count(b"\r") != breaks or head.count(b"\n") != breaks or b"\0" in head:
            raise UpstreamFailure(FailureKind.PROTOCOL, "a header for the provider holds a line break")
        origin = (url.scheme, url.host, url.port)
        while True:
            connection = self._take(origin) or await self._connect(origin)
            reused = connection.used
            connection.used = True
            try:
                await connection.start(head, body)
            except UpstreamFailure as failure:
                connection.abort()
                # A kept connection that the server closed meanwhile: nothing was answered, a fresh one will do.
                if reused and failure.kind is FailureKind.RESET and not connection.received:
                    continue
                raise
            except BaseException:
                connection.abort()
                raise
            return connection

    def _take(self, origin: tuple[str, str, int]) -> Connection | None:
        idle = self._idle.get(origin)
        now = monotonic()
        while idle:
            connection = idle.pop()
            fresh = now - connection.idle_since < IDLE_SECONDS
            connection.idle_since = 0.0
            if fresh and not connection.closed:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: tuple[str, str, int]) -> Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        tls = self._tls_context() if scheme == "https" else None
        failure: UpstreamFailure | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                for family, address in await self._resolve(loop, host, port):
                    try:
                        _, connection = await loop.create_connection(
                            lambda: Connection(loop, self, origin),
                            address,
                            port,
                            family=family,
                            ssl=tls,
                            server_hostname=host if tls else None,
                        )
                    except ssl.SSLError as problem:
                        failure = tls_failure(problem)
                    except OSError as problem:
                        # Not problem.strerror: asyncio writes the address into it.
                        why = os.strerror(problem.errno).lower() if problem.errno else "refused"
                        failure = UpstreamFailure(FailureKind.CONNECT, f"the provider cannot be reached: {why}")
                    else:
                        return connection
        except TimeoutError:
            raise UpstreamFailure(FailureKind.TIMEOUT, "no connection to the provider in time") from None
        raise failure or UpstreamFailure(FailureKind.DNS, "the provider's host name has no address")

    async def _resolve(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[tuple[int, str]]:
        try:
            found = await loop.getaddrinfo(host, port, type=1)  # SOCK_STREAM
        except (OSError, UnicodeError):
            raise UpstreamFailure(FailureKind.DNS, "the provider's host name cannot be resolved") from None
        addresses = [(int(family), str(address[0])) for family, _, _, _, address in found]
        if any(is_refused_address(address) for _, address in addresses):
            raise UpstreamFailure(
                FailureKind.REFUSED_ADDRESS, "the provider's host name leads to a link-local or metadata address"
            )
        return addresses

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def release(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.origin, [])
        if self._closed or len(idle) >= MAX_IDLE_PER_ORIGIN:
            connection.abort()
            return
        connection.idle_since = monotonic()
        idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep_idle)

    def forget(self, connection: Connection) -> None:
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)

    def _sweep_idle(self) -> None:
        self._sweep = None
        oldest = monotonic() - IDLE_SECONDS
        for origin, idle in list(self._idle.items()):
            for connection in [one for one in idle if one.idle_since < oldest]:
                idle.remove(connection)
                connection.idle_since = 0.0
                connection.abort()
            if not idle:
                del self._idle[origin]
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep_idle)

    async def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for idle in self._idle.values():
            for connection in idle:
                connection.idle_since = 0.0
                connection.abort()
        self._idle.clear()
