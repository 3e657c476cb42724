"""A client of `GET /admin/v1/events`: reads in a thread of its own until it is closed, or the server ends it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Self

import httpx

from tests.support.gateway import Gateway


def token_of(gateway: Gateway) -> str:
    return (gateway.folder / "admin-token").read_text().strip()


class Listening:
    """`events`: (id, type, what was told); `ids`: every id, those without an event too."""

    def __init__(
        self, gateway: Gateway, query: str = "", *, cookies: dict[str, str] | None = None, **headers: str
    ) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.ids: list[str] = []
        self.comments = 0
        self.problem: Exception | None = None
        self.ended = threading.Event()
        self._client = httpx.Client(timeout=60, cookies=cookies)
        sent = {} if cookies else {"Authorization": f"Bearer {token_of(gateway)}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = self._client.build_request("GET", f"{gateway.base}/admin/v1/events{query}", headers=sent)
        self.answer = self._client.send(request, stream=True)
        if self.answer.status_code == 200:
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
            Gateway.wait_until(lambda: bool(self.ids))

    def _read(self) -> None:
        told = {"id": "", "event": "", "data": ""}
        try:
            for line in self.answer.iter_lines():
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    told[name] = value
                else:
                    if told["data"]:
                        self.events.append((told["id"], told["event"], json.loads(told["data"])))
                    if told["id"]:
                        self.ids.append(told["id"])
                    told = {"id": "", "event": "", "data": ""}
        except httpx.HTTPError as problem:
            self.problem = problem
        finally:
            self.ended.set()

    def wait(self, condition: Callable[[Self], bool], *, seconds: float = 20.0) -> None:
        Gateway.wait_until(lambda: condition(self), seconds=seconds)

    def requests(self, event: str = "") -> list[str]:
        """Ids of requests, by type of event."""
        wanted = [told["data"] for _, kind, told in self.events if not event or kind == event]
        return [data["request_id"] for data in wanted if "request_id" in data]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [told["data"] for _, kind, told in self.events if kind == event]

    @property
    def last_id(self) -> str:
        return self.ids[-1]

    def close(self) -> None:
        self.answer.close()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
