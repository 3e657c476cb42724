"""Where runs are kept: synchronous Django, in one thread of the process. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final, TypeVar

from django.db import close_old_connections, connection
from django.db.utils import DatabaseError

T = TypeVar("T")
PATIENCE_SECONDS: Final = 60.0  # with a database that cannot be reached, before a run is left to others
_THREAD: Final = ThreadPoolExecutor(1, thread_name_prefix="plan-runs")
"""Keeps its connection: to open one takes longer than to write down a leg."""


async def in_thread(call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_THREAD, _connected, call)


def disconnect() -> None:
    connection.close()  # looked up here: each thread has another


def _connected(call: Callable[[], T]) -> T:
    try:
        return call()
    except DatabaseError:
        connection.close()
        raise
    finally:
        if connection.vendor != "sqlite":
            close_old_connections()


async def patiently(call: Callable[[], T]) -> T:
    """Again, as long as the database may come back. Raises what the call raises."""
    until = monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await in_thread(call)
        except DatabaseError:
            if monotonic() >= until:
                raise
        await asyncio.sleep(0.5)
