"""Clients that go on asking while a server is restarted or brought up to date, in mixed traffic, and note what became
of each request: answered whole, refused because nobody was there, or failed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import httpx

from tests.support.gateway import Gateway


class Kind(NamedTuple):
    path: str
    body: dict[str, Any]
    end: str


_TURNS = [{"role": "user", "content": "Hi"}]
MIXED = (
    Kind("/v1/chat/completions", {"model": "m", "messages": _TURNS}, "}"),
    Kind("/v1/chat/completions", {"model": "m", "messages": _TURNS, "stream": True}, "data: [DONE]"),
    Kind("/v1/messages", {"model": "m", "max_tokens": 100, "messages": _TURNS, "stream": True}, '"message_stop"}'),
    Kind("/v1/chat", {"request": {"messages": _TURNS, "model_hint": "m"}}, "}"),
)


class Load:
    def __init__(
        self, base: str, headers: dict[str, str], *, verify: ssl.SSLContext | bool = False, pause_seconds: float = 0.1
    ) -> None:
        self.answered: list[str] = []
        """Ids of requests whose whole answer came."""
        self.refused: list[str] = []
        self.failed: list[str] = []
        self._base, self._headers, self._verify, self._pause = base, headers, verify, pause_seconds
        self._over = False

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(
            base_url=self._base, headers=self._headers, verify=self._verify, timeout=60
        ) as client:
            while not self._over:
                number += 1
                await self._ask(client, MIXED[number % len(MIXED)])
                await asyncio.sleep(self._pause)

    async def _ask(self, client: httpx.AsyncClient, kind: Kind) -> None:
        has_begun = False
        try:
            async with client.stream("POST", kind.path, json=kind.body) as answer:
                has_begun = True
                await answer.aread()
        except httpx.HTTPError as problem:
            (self.failed if has_begun else self.refused).append(f"{kind.path}: {problem!r}")
            return
        own = answer.headers.get("x-tokenhub-request-id")
        if own is None and answer.status_code in {502, 504}:  # of the proxy in front: nobody was there
            self.refused.append(f"{kind.path}: {answer.status_code}")
        elif answer.status_code == 200 and answer.text.rstrip().endswith(kind.end):
            self.answered.append(str(own).replace("-", ""))
        else:
            self.failed.append(f"{kind.path}: {answer.status_code} {answer.text[-200:]}")

    def run(self, during: Callable[[], object], *, clients: int = 10) -> None:
        """`during` runs in a thread while the clients ask."""

        async def all_of_it() -> None:
            tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]
            try:
                await asyncio.to_thread(during)
            finally:
                self._over = True
                await asyncio.gather(*tasks)

        asyncio.run(all_of_it())

    def more(self, count: int) -> None:
        """Waits until so many more were answered. Nothing may fail meanwhile."""
        enough = len(self.answered) + count
        Gateway.wait_until(lambda: bool(self.failed) or len(self.answered) > enough, seconds=100)
        assert self.failed == []

    def is_logged(self, logged: Iterable[object]) -> bool:
        """Each answered request is among those ids, and none is there twice."""
        found = [str(one).replace("-", "") for one in logged]
        assert len(found) == len(set(found))
        return set(self.answered) <= set(found)


def logged(gateway: Gateway) -> list[str]:
    return [row["request_id"] for row in gateway.query("SELECT request_id FROM telemetry_requestlog")]
