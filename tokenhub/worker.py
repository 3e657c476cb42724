"""One worker process: uvicorn, told when to go in one of two ways. SIGTERM (the server stops): no new connection, idle
ones are closed, running requests get GRACE_SECONDS. SIGUSR2 (a fresh worker stands ready): kept-alive connections stay
usable for a while, and each is told with its next answer that it closes. A connection that closes while its client
sends the next request would lose that."""

from __future__ import annotations

import asyncio
import logging
import mmap
import signal
import sys
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

import uvicorn
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from telemetry.event_feed import FEED
from tokenhub.protocol import Protocol

GRACE_SECONDS = 30
LINGER_SECONDS = 10.0
"""Longer than common clients keep an idle connection (httpx: 5)."""
RETIRE = signal.SIGUSR2
ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, RETIRE}


class GracefulServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, when_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._when_ready = when_ready
        self._lingers = False

    def retire(self) -> None:
        self._lingers = True
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._lingers = False  # the whole server stops
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._when_ready()

    async def shutdown(self, sockets: Any = None) -> None:
        await self._beat()
        if self._lingers:
            await self._linger()
            await self._beat()  # what follows takes less than the master's patience
        await super().shutdown(sockets)

    async def _beat(self) -> None:
        if self.config.callback_notify is not None:
            await self.config.callback_notify()

    async def _linger(self) -> None:
        """Takes no connection, but serves those that are there. Not longer than the process may be without a beat."""
        for server in self.servers:
            server.close()
        Protocol.is_leaving = True
        FEED.close()  # who listens to events comes again, to another worker
        for connection in list(self.server_state.connections):
            cycle = connection.cycle  # type: ignore[union-attr]  # Protocol's, which is the only one in use
            if cycle is not None and not cycle.response_started:
                cycle.keep_alive = False
        deadline = monotonic() + LINGER_SECONDS
        while self._lingers and self.server_state.connections and monotonic() < deadline:  # noqa: ASYNC110  a set
            await asyncio.sleep(0.05)


class PlainWorker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker has no type information
    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": "tokenhub.protocol:Protocol",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # forwarded headers are judged by TOKENHUB_TRUSTED_PROXIES alone
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        errors, access = logging.getLogger("uvicorn.error"), logging.getLogger("uvicorn.access")
        errors.propagate = True
        errors.setLevel(logging.WARNING)
        access.handlers, access.propagate = [], False  # uvicorn then spares itself the work
        self._ready = mmap.mmap(-1, 1)  # made by the master, before the fork: both see it
        self.is_replaceable = False
        """Whether others serve already: then the server goes on without this one, should it fail to start."""

    @property
    def is_ready(self) -> bool:
        """Whether it has accepted connections since, as the master sees it."""
        return self._ready[0] == 1

    def _is_ready(self) -> None:
        self._ready[0] = 1

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the master's; whoever sends it to all shall end none
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # the master blocked them for the fork

    def run(self) -> None:
        try:
            super().run()
        except SystemExit as end:
            if end.code == Arbiter.WORKER_BOOT_ERROR and self.is_replaceable:
                sys.exit(1)  # the other code would have the master end everything
            raise

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = GracefulServer(self.config, when_ready=self._is_ready)
        self._install_sigquit_handler()
        asyncio.get_running_loop().add_signal_handler(RETIRE, server.retire)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
