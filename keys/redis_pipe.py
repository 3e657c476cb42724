"""One connection to Redis whose callers never wait for each other: what is sent in one turn of the event loop leaves in
one write, and answers come back in order to whoever asked. A fifth of what redis-py's round trip costs.

A connection that refuses, breaks, is silent for too long or answers with an error is given up at once; whoever waits
gets None. Then it is tried again until it is back. Knows nothing of limits."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import uniform
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from keys.limit_scripts import command

TIMEOUT_SECONDS: Final = 0.25
CONNECT_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 0.5
Answered = Callable[[Any], object]


class Unusable(Exception):
    """Why: the code of an error of Redis'; never what was sent."""


@dataclass(frozen=True, slots=True)
class Server:
    host: str
    port: int
    path: str
    database: int
    tls: bool
    timeout: float
    user: str = field(repr=False)
    password: str = field(repr=False)

    @classmethod
    def of(cls, url: str) -> Server:
        """Of a URL that the settings have looked at."""
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        is_socket = parts.scheme == "unix"
        number = query.get("db") or ("" if is_socket else parts.path.strip("/"))
        return cls(
            host=parts.hostname or "localhost",
            port=parts.port or 6379,
            path=unquote(parts.path) if is_socket else "",
            database=int(number or 0),
            tls=parts.scheme == "rediss",
            timeout=float(query.get("socket_timeout") or TIMEOUT_SECONDS),
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )


class _Link(asyncio.Protocol):
    """One connection, from its first byte to its end."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader(replyError=Unusable)
        self.transport: asyncio.Transport | None = None
        self.answers: Callable[[_Link], None] | None = None
        self.ended: Callable[[_Link, str], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # a stream's; uvloop has a class of its own

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        if self.answers is not None:
            self.answers(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ended is not None:
            self.ended(self, type(exc).__name__ if exc is not None else "closed")


class Pipe:
    """`up` is called when commands are taken, `down` with a reason when they no longer are, before those under way are
    answered by None. `probe`: a command that writes; where it fails nothing would work."""

    def __init__(
        self,
        server: Server,
        *,
        loads: Sequence[bytes],
        probe: bytes,
        up: Callable[[Any], object],
        down: Callable[[str], object],
    ) -> None:
        self.is_up = False
        self._server = server
        self._loads = loads
        self._probe = probe
        self._up, self._down = up, down
        self._link: _Link | None = None
        self._out: list[bytes] = []
        self._waiting: deque[tuple[bytes, Answered]] = deque()
        self._sent = self._answered = 0
        self._watch: asyncio.TimerHandle | None = None
        self._is_loading = False
        self._lost = asyncio.Event()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns after the first try, whatever came of it."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())
        await self._tried.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._flush()
        self._give_up("stopped", tell=False)

    def send(self, data: bytes, answered: Answered) -> None:
        """Only while it is up. `answered`: called once, with the answer, or None when there will be none."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        self._waiting.append((data, answered))
        self._sent += 1
        if self._watch is None:
            self._watch = self._loop.call_later(self._server.timeout / 2, self._look, self._sent)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._link is not None and self._link.transport is not None:
            self._link.transport.write(out[0] if len(out) == 1 else b"".join(out))

    # -- answers -------------------------------------------------------------------------------------------------------
    def _answers(self, link: _Link) -> None:
        gets = link.reader.gets
        try:
            while link is self._link and (answer := gets()) is not False:
                data, answered = self._waiting.popleft()
                self._answered += 1
                if isinstance(answer, Unusable):
                    if str(answer).startswith("NOSCRIPT"):
                        self._again(data, answered)
                        continue
                    self._waiting.appendleft((data, answered))
                    raise answer
                answered(answer)
        except (Unusable, hiredis.ProtocolError, IndexError) as problem:
            self._give_up(_reason(problem))

    def _again(self, data: bytes, answered: Answered) -> None:
        """Redis has forgotten its scripts."""
        if not self._is_loading:
            self._is_loading = True
            for one in self._loads:
                self.send(one, self._loaded)
        self.send(data, answered)

    def _loaded(self, _: object) -> None:
        self._is_loading = False

    def _look(self, sent: int) -> None:
        """Whether what was sent by the last look has been answered by now."""
        self._watch = None
        if self._answered < sent:  # perhaps it was this process that slept: what has come is read first
            self._watch = self._loop.call_later(self._server.timeout / 8, self._judge, sent)
        elif self._waiting:
            self._watch = self._loop.call_later(self._server.timeout / 2, self._look, self._sent)

    def _judge(self, sent: int) -> None:
        self._watch = None
        if self._answered < sent:
            self._give_up("timeout")
        elif self._waiting:
            self._watch = self._loop.call_later(self._server.timeout / 2, self._look, self._sent)

    # -- the connection ------------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        while True:
            self._lost.clear()
            try:
                hosts = await self._connect()
            except (OSError, TimeoutError, UnicodeError, Unusable) as problem:
                self._give_up(_reason(problem))
            else:
                self.is_up = True
                self._up(hosts)
                self._tried.set()
                await self._lost.wait()
            self._tried.set()
            await asyncio.sleep(uniform(0.5, 1.0) * RETRY_SECONDS)  # noqa: S311  spreads workers, no secret

    async def _connect(self) -> Any:
        """The probe's answer. Raises OSError, TimeoutError, Unusable."""
        server = self._server
        async with asyncio.timeout(CONNECT_SECONDS):
            if server.path:
                _, link = await self._loop.create_unix_connection(_Link, server.path)
            else:
                context = ssl.create_default_context() if server.tls else None
                _, link = await self._loop.create_connection(_Link, server.host, server.port, ssl=context)
            self._link = link
            link.answers, link.ended = self._answers, self._end
            answer: asyncio.Future[Any] = self._loop.create_future()
            if server.password:
                self.send(
                    command(b"AUTH", *([server.user.encode()] if server.user else []), server.password.encode()), _no
                )
            if server.database:
                self.send(command(b"SELECT", b"%d" % server.database), _no)
            for one in self._loads:
                self.send(one, _no)
            self.send(self._probe, lambda reply: None if answer.done() else answer.set_result(reply))
            hosts = await answer
        if hosts is None or self._link is not link:
            raise Unusable(self._why)
        return hosts

    def _end(self, link: _Link, reason: str) -> None:
        if link is self._link:
            self._give_up(reason)

    def _give_up(self, reason: str, *, tell: bool = True) -> None:
        link, self._link = self._link, None
        waiting, self._waiting = self._waiting, deque()
        self.is_up, self._is_loading, self._out, self._why = False, False, [], reason
        self._sent = self._answered = 0
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if link is not None and link.transport is not None:
            if tell:
                link.transport.abort()
            else:
                link.transport.close()  # what was said last still leaves
        if tell:
            self._down(reason)
        for _, answered in waiting:
            answered(None)
        self._lost.set()


def _no(_: object) -> None:
    """Nobody waits for it."""


def _reason(problem: Exception) -> str:
    """The code of an error of Redis', or the kind of any other; neither holds anything of ours."""
    return str(problem).partition(" ")[0] if isinstance(problem, Unusable) else type(problem).__name__
