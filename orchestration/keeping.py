"""How what happens in a run is written down: behind the back of a client that waits, or before the run goes on. Belongs
to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from django.db.utils import DatabaseError

from orchestration import store
from orchestration.plan import Due, cost_of, together
from orchestration.runner import Watcher
from orchestration.steps import LegResult
from orchestration.store import LostRun, Taken
from orchestration.threads import in_thread, patiently
from telemetry.logs import EventLogger

log = EventLogger(__name__)
MAX_BEHIND: Final = 1_000


class Behind:
    """Writes down what nobody waits for, in order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], object], Callable[[], object] | None]] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, write: Callable[[], object], *, then: Callable[[], object] | None = None) -> None:
        if len(self._waiting) >= MAX_BEHIND:
            log.warning("plan_run_not_recorded", waiting=len(self._waiting))
            return
        self._waiting.append((write, then))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            write, then = self._waiting.popleft()
            try:
                await in_thread(write)
            except LostRun:
                continue
            except DatabaseError as problem:
                log.warning("plan_run_not_recorded", error=type(problem).__name__)
                continue
            if then is not None:
                then()

    async def stop(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=5)


class Follower:
    """Of a run with a client: tells the client's watcher, and writes down behind."""

    def __init__(self, behind: Behind, watcher: Watcher, run_id: str, holder: str) -> None:
        self._behind = behind
        self._watcher = watcher
        self._cost_nano: int | None = None
        self._run_id = run_id
        self._holder = holder
        self.streams = watcher.streams
        self.heard = watcher.heard

    async def began(self, due: Sequence[Due]) -> None:
        self._note(None, due)
        await self._watcher.began(due)

    async def ended(self, result: LegResult, following: Sequence[Due]) -> None:
        self._note(result, following)
        await self._watcher.ended(result, following)

    def _note(self, result: LegResult | None, following: Sequence[Due]) -> None:
        if result is not None:
            self._cost_nano = together(self._cost_nano, result.cost_nano)
        self._behind.put(
            partial(
                store.advance,
                self._run_id,
                holder=self._holder,
                result=result,
                following=following,
                attempts={},
                cost_nano=self._cost_nano,
                is_kept=False,
            )
        )


class Keeper:
    """Of a run in the background: nothing goes on before what came of it is kept."""

    streams = False

    def __init__(self, holder: str, taken: Taken) -> None:
        self._run_id = taken.plan.id
        self._holder = holder
        self._attempts = taken.attempts
        self._cost_nano = cost_of(taken.known, taken.lost_nano)

    async def began(self, due: Sequence[Due]) -> None:
        await self._keep(None, due)

    async def ended(self, result: LegResult, following: Sequence[Due]) -> None:
        await self._keep(result, following)

    def heard(self, leg: str, text: str) -> None:
        pass

    async def _keep(self, result: LegResult | None, following: Sequence[Due]) -> None:
        if result is not None:
            self._cost_nano = together(self._cost_nano, result.cost_nano)
        await patiently(
            partial(
                store.advance,
                self._run_id,
                holder=self._holder,
                result=result,
                following=following,
                attempts=self._attempts,
                cost_nano=self._cost_nano,
                is_kept=True,
            )
        )
