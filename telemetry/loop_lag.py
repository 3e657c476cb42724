"""How late an event loop is: a timer that should come twice a second, and by how much it missed. Read from any thread,
also while the loop stands still."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

EVERY_SECONDS: Final = 0.5
WINDOW_SECONDS: Final = 15.0


class LoopLag:
    def __init__(self) -> None:
        self._due = 0.0
        self._window_ends = 0.0
        self._worst = self._worst_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """On the loop's own thread."""
        now = monotonic()
        self._window_ends = now + WINDOW_SECONDS
        self._next(now)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = 0.0

    def seconds(self) -> float:
        """The most within the last one or two windows."""
        now_late = monotonic() - self._due if self._due else 0.0
        return max(self._worst, self._worst_before, now_late, 0.0)

    def _next(self, now: float) -> None:
        self._due = now + EVERY_SECONDS
        self._timer = asyncio.get_running_loop().call_later(EVERY_SECONDS, self._tick)

    def _tick(self) -> None:
        now = monotonic()
        self._worst = max(self._worst, now - self._due)
        if now >= self._window_ends:
            self._worst_before, self._worst, self._window_ends = self._worst, 0.0, now + WINDOW_SECONDS
        self._next(now)
