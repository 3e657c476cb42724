"""A second target for a stream whose first one is silent: whoever speaks first is heard, the other is told to stop.
It costs a second call now and then, and cuts off the longest waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def first_of(
    first: Callable[[], Coroutine[Any, Any, T | None]],
    second: Callable[[], Coroutine[Any, Any, T | None]],
    *,
    after_seconds: float,
    discard: Callable[[Any], None],
) -> tuple[T | None, bool]:
    """The result that comes first and is one, and whether `second` was begun: when `first` had none for that long. Both
    are over when this returns or raises; a late result is given to `discard`. Raises what a leg raises."""
    tasks = [asyncio.create_task(first())]
    kept: asyncio.Task[T | None] | None = None
    try:
        done, _ = await asyncio.wait(tasks, timeout=after_seconds)
        if not done:
            tasks.append(asyncio.create_task(second()))
        pending = set(tasks)
        while pending and kept is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            kept = next((one for one in tasks if one in done and one.result() is not None), None)
        return (kept.result() if kept is not None else None), len(tasks) > 1
    finally:
        for task in tasks:
            task.cancel()
        try:
            others = await asyncio.gather(*(one for one in tasks if one is not kept), return_exceptions=True)
        except asyncio.CancelledError:  # nobody waits for it any more
            if kept is not None:
                discard(kept.result())
            raise
        for result in others:
            if result is not None and not isinstance(result, BaseException):
                discard(result)
