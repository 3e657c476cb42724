"""An answer whose form is checked while its client leaves."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from providers.formats.dialect import Usage
from routing.shaped import in_shape
from routing.shaping import Shape


def test_an_answer_whose_client_leaves_while_it_is_checked_is_on_the_bill() -> None:
    billed: list[tuple[str, Usage, bool]] = []
    usage = Usage(input_tokens=100, output_tokens=10)
    visit: Any = SimpleNamespace(
        runtime=SimpleNamespace(output_repairs=1),
        add_leg=lambda target, usage, *, estimated: billed.append((target, usage, estimated)),
    )
    call: Any = SimpleNamespace(dialect=SimpleNamespace(name="openai-chat"))
    delivery: Any = SimpleNamespace(answer=SimpleNamespace(body=b"{}", usage=usage, produced_bytes=2), target="m")

    async def run() -> None:
        gate, threads = threading.Event(), ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(threads)
        busy = asyncio.ensure_future(asyncio.to_thread(gate.wait, 20))
        checking = asyncio.ensure_future(in_shape(visit, call, delivery, Shape("json")))
        for _ in range(3):
            await asyncio.sleep(0)
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        gate.set()
        await busy

    asyncio.run(run())
    assert billed == [("m", usage, False)]
