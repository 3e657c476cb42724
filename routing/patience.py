"""A bound on waiting that costs next to nothing while nobody waits long: most requests end before any timer is set.

    with patience.within(30):      # TimeoutError after 30 seconds; not to be nested
        …
        patience.renew(30)         # from now on anew

`asyncio.timeout` does the same at a tenth of a whole request's cost. Until `arm()` is called, which the owner does a
few hundredths of a second after the request began, deadlines are only noted down."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self


class Patience:
    __slots__ = ("_armed", "_deadline", "_expired", "_loop", "_task", "_timer")

    def __init__(self, *, armed: bool = False) -> None:
        """For the current task. `armed` from the start: for whoever will not call `arm()`."""
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed = armed
        self._expired = False

    def arm(self) -> None:
        self._armed = True
        if self._deadline is not None and self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look)

    def within(self, seconds: float) -> Self:
        self._deadline = self._loop.time() + max(seconds, 0.0)
        return self

    def renew(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds

    def _look(self) -> None:
        self._timer = None
        if self._deadline is None or self._task is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> Self:
        if self._armed and self._deadline is not None:
            self._timer = self._loop.call_at(self._deadline, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises TimeoutError in place of the cancellation that ran out of time causes."""
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._expired:
            self._expired = False
            others = self._task.uncancel() if self._task is not None else 0  # who cancelled it as well
            if not others and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from None
