"""What the fake upstream says in a run, and how the run's tests read what came of it."""

from __future__ import annotations

import json
from typing import Any

from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Request
from tests.support.wire import encode

TOKENS = (100, 10)
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
COST = (100 * 0.001 + 10 * 0.002) / 1000  # of one call, with PRICES
PRICES = {"input_per_1k": "0.001", "output_per_1k": "0.002"}
ASK = {"messages": [{"role": "user", "content": "How shall we move the house?"}]}
NANO = 1_000_000_000


DEAR = {"prompt_tokens": 800, "completion_tokens": 10, "total_tokens": 810}
DEAR_COST = (800 * 0.001 + 10 * 0.002) / 1000


def said(text: str | None, *, finish: str = "stop", usage: dict[str, int] = USAGE, **reply: Any) -> Reply:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    body = {"id": "c1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    return Reply(body=encode(body), **reply)


def streamed(*texts: str, **reply: Any) -> Reply:
    chunks: list[dict[str, Any]] = [
        {"id": "c1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts
    ]
    chunks.append({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"id": "c1", "choices": [], "usage": USAGE})
    return Reply(events=(*(b"data: %b\n\n" % encode(chunk) for chunk in chunks), b"data: [DONE]\n\n"), **reply)


def plan(gateway: Gateway, mode: str, *, key: str = "", **fields: Any) -> Any:
    """`orchestration`'s fields, beside the further ones of the body."""
    outer = {"request", "policy", "output_format", "stream", "background"} & fields.keys()
    body = {"request": ASK, **{name: fields.pop(name) for name in outer}, "orchestration": {"mode": mode, **fields}}
    headers = {"Authorization": f"Bearer {key}"} if key else None
    return gateway.post("/v1/plan", body, headers=headers)


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def legs_of(gateway: Gateway, plan_id: str, count: int) -> list[dict[str, Any]]:
    """The run's rows in the request log but its own, as soon as there are so many; with the leg's name."""
    found: list[dict[str, Any]] = []

    def enough() -> bool:
        nonlocal found
        rows = gateway.query("SELECT * FROM telemetry_requestlog WHERE endpoint = '/v1/plan' ORDER BY id")
        mine = [{**row, **json.loads(row["detail"])} for row in rows]
        found = [row for row in mine if row.get("plan") == plan_id and row["leg"]]
        return len(found) >= count

    gateway.wait_until(enough)
    assert len(found) == count
    return found


def nano(usd: object) -> int:
    return 0 if usd is None else round(float(str(usd)) * NANO)


def last_words(request: Request) -> str:
    return str(request.json["messages"][-1]["content"])
