"""The entry of every ASGI server, asked for what is no HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tokenhub import asgi


@pytest.mark.parametrize("path", ["/docs/", "/docs", "/v1/chat", "/v1/plan/x", "/v1/nothing", "/healthz", "/admin/"])
def test_a_websocket_is_refused_wherever_it_goes(path: str) -> None:
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "headers": [], "query_string": b""}
    said = list[Any]()

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(asgi.application(scope, receive, send))
    assert [one["type"] for one in said] == ["websocket.close"]
