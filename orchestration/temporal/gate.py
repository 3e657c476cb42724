"""The way from the server to Temporal, with a circuit breaker: while Temporal does not answer, or none of its workers
takes up a run, runs go on in this process, and those that it drove are taken over by the leases. Belongs to the event
loop; loads the rest in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from importlib import import_module
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from django.db.utils import DatabaseError

from orchestration import store
from orchestration.plan import Plan
from orchestration.temporal.messages import Begun
from orchestration.threads import patiently
from routing.runtime import Runtime
from telemetry.logs import EventLogger

if TYPE_CHECKING:
    from temporalio.client import Client

log = EventLogger(__name__)
LOOK_SECONDS: Final = 1.0
MISSES: Final = 2  # looks without an answer that open the circuit
PAUSE_SECONDS: Final = 30.0  # until runs go there again, when nobody took one up


class Gate:
    def __init__(self, held: Runtime) -> None:
        self.is_up = False
        self._metrics = held.metrics
        self._metrics.temporal_up = 0
        self._door: ModuleType | None = None
        self._client: Client | None = None
        self._again_at = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        tasks = [*self._tasks, *([self._watching] if self._watching is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, plan: Plan) -> None:
        self._later(self._begin(plan))

    def end(self, run_id: str) -> None:
        if self.is_up:
            self._later(self._end(run_id))

    def unattended(self) -> None:
        self._again_at = monotonic() + PAUSE_SECONDS
        self._turn(is_up=False)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self, plan: Plan) -> None:
        try:
            assert self._door is not None  # noqa: S101  it was up
            await self._door.start(self._client, Begun.of(plan))
        except Exception as problem:  # of many kinds, and any of them means: not there
            log.warning("temporal_start_failed", plan=plan.id, error=type(problem).__name__)
            self._turn(is_up=False)
            try:
                await patiently(partial(store.forsake, plan.id))
            except DatabaseError as trouble:  # its lease will be over by itself
                log.warning("plan_run_not_forsaken", plan=plan.id, error=type(trouble).__name__)

    async def _end(self, run_id: str) -> None:
        """The database says already that it is over: its legs end with that. This is for Temporal's own list."""
        try:
            assert self._door is not None  # noqa: S101  it was up
            await self._door.cancel(self._client, run_id)
        except Exception as problem:  # perhaps it never drove it
            log.debug("temporal_cancel_failed", plan=run_id, error=type(problem).__name__)

    # -- the circuit breaker ---------------------------------------------------------------------------------------
    async def _watch(self) -> None:
        misses = 0
        while True:
            try:
                serves = await self._serves()
            except Exception as problem:
                serves = False
                if not misses:
                    log.warning("temporal_silent", error=type(problem).__name__)
            misses = 0 if serves else misses + 1
            if serves or misses >= MISSES:
                self._turn(is_up=serves and monotonic() >= self._again_at)
            await asyncio.sleep(LOOK_SECONDS)

    async def _serves(self) -> bool:
        if self._door is None:
            self._door = await asyncio.to_thread(import_module, "orchestration.temporal.client")
        if self._client is None:
            self._client = await self._door.connect(lazy=True)
        return bool(await self._door.is_serving(self._client))

    def _turn(self, *, is_up: bool) -> None:
        if is_up != self.is_up:
            log.info("temporal_up" if is_up else "temporal_down")
        self.is_up = is_up
        self._metrics.temporal_up = int(is_up)
