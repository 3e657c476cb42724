"""What is captured of a request whose client leaves."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from providers.formats.registry import DIALECTS
from routing.capturing import Capture, Captures
from routing.snapshot import Snapshot
from telemetry.capture_text import Redaction


def test_a_client_that_leaves_while_its_answer_is_sealed_does_not_end_its_request() -> None:
    lost: list[str] = []
    captures = Captures(Redaction(()), most=1024, lost=lambda: lost.append("one"))
    capture = Capture(captures, Snapshot(), DIALECTS["openai-chat"], b"{}")

    async def request() -> bytes:
        capture.answered(b"{}")
        await capture.prepare("id")
        await asyncio.sleep(0)  # whoever accounts may wait again
        return capture.take("id")

    async def run() -> None:
        gate, threads = threading.Event(), ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(threads)
        busy = asyncio.ensure_future(asyncio.to_thread(gate.wait, 20))
        answering = asyncio.ensure_future(request())
        for _ in range(3):
            await asyncio.sleep(0)
        answering.cancel()
        assert await answering == b""  # there is no key to seal it with
        assert not answering.cancelling()
        gate.set()
        await busy

    asyncio.run(run())
    assert lost == ["one"]
