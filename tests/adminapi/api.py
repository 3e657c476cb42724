"""The admin API as a script sees it, through Django's test client."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.test import Client

from tokenhub.apikit import CODES

FIELDS = {"message", "type", "param", "code", "hint", "request_id"}


class Api:
    def __init__(self, token: str = "", client: Client | None = None, **headers: str) -> None:
        self.client = client or Client()
        self.headers = {"authorization": f"Bearer {token}", **headers} if token else headers

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """`path` after /admin/v1/; a body of bytes is sent as it is."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.client.generic(
            method, f"/admin/v1/{path}", content, "application/json", headers={**self.headers, **headers}
        )

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None) -> Any:
        return self.call("POST", path, body)

    def put(self, path: str, body: Any = None) -> Any:
        return self.call("PUT", path, body)

    def patch(self, path: str, body: Any = None) -> Any:
        return self.call("PATCH", path, body)

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)


def ok(answer: Any) -> Any:
    assert answer.status_code == 200, (answer.status_code, answer.content[:500])
    assert UUID(answer.headers["X-TokenHub-Request-ID"]).version == 7
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json()


def refused(answer: Any, code: str, param: str | None = None) -> dict[str, Any]:
    """The error, which has the contract's shape and this code."""
    error: dict[str, Any] = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert set(error) == FIELDS
    assert answer.headers["X-TokenHub-Error-Code"] == code
    assert answer.headers["X-Request-ID"] == error["request_id"]
    assert UUID(answer.headers["X-TokenHub-Request-ID"]).version == 7
    if code in CODES:
        assert (answer.status_code, error["type"]) == CODES[code]
    return error
