"""`POST /v1/chat` driven by Temporal: the same answers and errors as without, a run of one leg for each, and streams
that pass by."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.orchestration import test_temporal as driven
from tests.orchestration.script import COST, nano, said, streamed
from tests.orchestration.test_temporal import NARROW, admin, listed, wait_for_temporal, workflows, write_down
from tests.support.gateway import KEY, Gateway
from tests.support.temporal import Temporal, TemporalWorker, why_not
from tests.support.upstream import Reply, Upstream

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
temporal, server, gateway, local, upstream = (
    driven.temporal, driven.server, driven.gateway, driven.local, driven.upstream,
)  # fmt: skip
running, worker = driven.running, driven.worker
CHANGES = {"x-request-id", "x-tokenhub-request-id", "x-tokenhub-upstream-request-id", "date", "content-length"}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def chat(gateway: Gateway, text: str = "hi", **fields: Any) -> httpx.Response:
    fields = dict(fields)
    headers = fields.pop("headers", None)
    request = {"messages": [{"role": "user", "content": text}], **fields.pop("request", {})}
    return gateway.post("/v1/chat", {"request": request, **fields}, headers=headers)


def without_times(answer: httpx.Response) -> tuple[int, dict[str, Any], dict[str, str]]:
    body = answer.json()
    body.pop("request_id", None)
    body.get("error", {}).pop("request_id", None)
    for one in body.get("attempts", ()):
        one.pop("latency_ms")
    return answer.status_code, body, {name: one for name, one in answer.headers.items() if name not in CHANGES}


def asked(model: str = "", key: str = KEY, **fields: Any) -> dict[str, Any]:
    return {"request": {"model_hint": model}, "headers": {"Authorization": f"Bearer {key}"}, **fields}


REPLIES = {
    "a": Reply(status=400), "b": Reply(status=404), "c": said('{"age": 7}'), "d": said('{"age": "seven"}'),
}  # fmt: skip
FORM: dict[str, Any] = {"output_format": {"schema": SCHEMA}}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "named": (200, asked("c")),
    "routed": (200, asked(key=NARROW)),
    "in-a-mode": (200, asked(key=NARROW, policy={"mode": "cheap", "max_latency_ms": 60_000, "max_budget_usd": 1})),
    "with-a-form": (200, asked("c", **FORM)),
    "with-another-form": (422, asked("d", **FORM)),
    "refused-upstream": (400, asked("a")),
    "failed-upstream": (502, asked("b", policy={"min_weight": 9})),
    "no-such-model": (404, asked("nobody")),
    "not-allowed": (403, asked("a", NARROW)),
    "no-such-mode": (400, asked(policy={"mode": "splendid"})),
    "no-key": (401, asked("c", "tokenhub_" + "00" * 32)),
    "without-messages": (400, {"request": {"messages": None}}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_the_same_as_without_temporal(
    gateway: Gateway, local: Gateway, worker: TemporalWorker, upstream: Upstream, case: str
) -> None:
    for model, reply in REPLIES.items():
        upstream.when(reply, model=model)
    status, fields = CASES[case]
    answer, direct = chat(gateway, **fields), chat(local, **fields)
    assert without_times(answer) == without_times(direct)
    assert answer.status_code == status, answer.text
    if status == 200:
        (leg,) = listed(gateway, workflows(gateway)[0]["id"])["legs"]
        assert leg["request_id"] == answer.json()["request_id"]


def test_it_is_a_run_of_one_leg(
    gateway: Gateway, temporal: Temporal, worker: TemporalWorker, upstream: Upstream
) -> None:
    upstream.when(said("The answer."))
    answer = chat(gateway, request={"model_hint": "c"})
    assert answer.json()["response"]["choices"][0]["message"]["content"] == "The answer."
    assert answer.json()["request_id"] == answer.headers["x-tokenhub-request-id"]
    run = listed(gateway, workflows(gateway)[0]["id"])
    assert (run["mode"], run["runner"], run["status"], run["background"]) == ("chat", "temporal", "completed", False)
    (leg,) = run["legs"]
    assert (leg["leg"], leg["role"], leg["model_id"]) == ("chat", "assistant", "c")
    assert leg["request_id"] == answer.json()["request_id"]
    told = leg["request_id"].replace("-", "")
    gateway.wait_until(lambda: told in {one["request_id"] for one in gateway.rows()})
    (row,) = [one for one in gateway.rows() if one["request_id"] == told]
    assert (row["endpoint"], row["model_id"], nano(row["cost_usd"])) == ("/v1/chat", "c", nano(COST))
    events = admin(gateway, "GET", f"workflows/{run['id']}/history")["events"]
    assert [one["event"] for one in events] == ["run_started", "leg_started", "leg_completed", "run_completed"]
    gateway.wait_until(lambda: temporal.status(run["id"]) == "COMPLETED")
    if os.environ.get("TOKENHUB_RECORD_HISTORIES"):
        write_down(temporal, run["id"], "chat")


def test_a_stream_passes_it_by_and_is_recorded(gateway: Gateway, worker: TemporalWorker, upstream: Upstream) -> None:
    upstream.when(streamed("The ", "answer."))
    before = workflows(gateway)
    answer = chat(gateway, request={"model_hint": "c", "stream": True})
    assert "answer." in answer.text
    assert workflows(gateway) == before
    told = answer.headers["x-tokenhub-request-id"].replace("-", "")
    gateway.wait_until(lambda: told in {row["request_id"] for row in gateway.rows()})


@pytest.mark.slow
def test_another_worker_answers_when_one_is_killed(
    gateway: Gateway, worker: TemporalWorker, running: list[TemporalWorker], upstream: Upstream
) -> None:
    upstream.next(Reply(delay=60), said("The answer."))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(chat, gateway, request={"model_hint": "c"})
        upstream.wait_for_requests(1, timeout=30)
        running.append(TemporalWorker(gateway).start().wait_until_ready())
        worker.kill()
        answer = waiting.result(timeout=60)
    assert answer.json()["response"]["choices"][0]["message"]["content"] == "The answer."
    run = listed(gateway, workflows(gateway)[0]["id"])
    assert [(leg["attempt"], leg["status"]) for leg in run["legs"]] == [(1, "lost"), (2, "completed")]


def test_it_is_answered_directly_while_temporal_is_away(
    gateway: Gateway, temporal: Temporal, worker: TemporalWorker, upstream: Upstream
) -> None:
    upstream.when(said("The answer."))
    before = workflows(gateway)
    temporal.stop()
    wait_for_temporal(gateway, up=0)
    assert chat(gateway, request={"model_hint": "c"}).status_code == 200
    assert workflows(gateway) == before
