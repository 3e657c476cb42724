"""Whether the server is ready, as anybody may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tokenhub.health import DatabaseLook


class Counted(ThreadPoolExecutor):
    calls = 0

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        self.calls += 1
        return super().submit(call, *args, **options)


@pytest.mark.django_db(transaction=True)
def test_many_who_ask_at_once_take_one_thread_and_one_look() -> None:
    look = DatabaseLook()

    async def asked() -> tuple[list[tuple[str, str]], int]:
        threads = Counted(max_workers=2)
        asyncio.get_running_loop().set_default_executor(threads)
        found = await asyncio.gather(*(look.state() for _ in range(50)))
        assert threads.calls == 1
        return [*found, await look.state()], threads.calls

    found, calls = asyncio.run(asked())
    assert set(found) == {("ok", "ok")}
    assert calls == 2
