"""A bound on waiting, and whoever else ends the wait."""

from __future__ import annotations

import asyncio
import time

import pytest

from routing.patience import Patience


async def waiting(patience: Patience, seconds: float) -> None:
    with patience.within(seconds):
        await asyncio.sleep(20)


def test_who_leaves_in_the_moment_in_which_time_runs_out_has_left() -> None:
    async def run() -> asyncio.Task[None]:
        async def one() -> None:
            await waiting(Patience(armed=True), 0.01)

        task = asyncio.create_task(one())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        time.sleep(0.1)  # noqa: ASYNC251  now both are due in one turn
        await asyncio.wait([task])
        return task

    assert asyncio.run(run()).cancelled()


def test_time_that_runs_out_is_no_cancellation() -> None:
    async def run() -> None:
        patience = Patience(armed=True)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await waiting(patience, 0.01)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    asyncio.run(run())
