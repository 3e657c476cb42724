"""What rewards are made of, as a running gateway learns them: asking again, calls of tools, a judge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from tests.gateway.test_shaping import said
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CHUNK = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def judges() -> Iterator[Upstream]:
    with Upstream() as server:
        server.default = said('{"reason": "half right", "score": 5}')
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, judges: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with started(tmp_path_factory.mktemp("gateway"), upstream, judges) as running:
        yield running


def started(
    folder: Path, upstream: Upstream, judges: Upstream, *, allowed: Sequence[str] = ("one", "judge"), **env: str
) -> Gateway:
    prices = {"input_per_1k": "0.001", "output_per_1k": "0.002"}
    return Gateway(
        folder,
        providers=[
            {"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]},
            {"id": "judges", "type": "openai", "base_url": judges.url, "dialects": ["openai-chat"]},
        ],
        models=[
            {"id": "one", "provider_id": "p", **prices, "abilities": ["tools"]},
            {
                "id": "judge",
                "provider_id": "judges",
                **prices,
                "abilities": [],
                "weight": 0,
                "max_context_tokens": 1_000_000,
            },
        ],
        keys=[{"key": KEY, "allowed_models": allowed}],
        env=env,
    )


def ask(gateway: Gateway, text: str, **fields: Any) -> str:
    """The id of the request."""
    messages = [{"role": "user", "content": text}]
    headers = gateway.headers(X_TokenHub_Min_Weight="1")  # no choice but one
    body = {"model": "tokenhub/thompson", "messages": messages, **fields}
    answer = gateway.post("/v1/chat/completions", body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-tokenhub-model"] == "one"
    return answer.headers["x-tokenhub-request-id"]


def detail_of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        rows = [row for row in gateway.rows() if str(row["request_id"]).replace("-", "") == request_id.replace("-", "")]
        found[:] = [json.loads(row["detail"]) for row in rows]
        return bool(found)

    gateway.wait_until(is_there)
    return found[0]


def later_parts(gateway: Gateway, request_id: str) -> dict[str, float]:
    """What came to be known of the answer by and by."""
    wanted = request_id.replace("-", "")
    query = "SELECT * FROM routing_feedback"

    def rows() -> list[dict[str, Any]]:
        return [row for row in gateway.query(query) if str(row["request_id"]).replace("-", "") == wanted]

    gateway.wait_until(lambda: bool(rows()))
    return {name: part["value"] for name, part in json.loads(rows()[0]["parts"]).items()}


def test_an_answer_that_is_asked_for_again_loses_reward(gateway: Gateway) -> None:
    first = ask(gateway, "Tell me a joke.")
    sleep(1.1)
    ask(gateway, "Tell me a joke.")
    ask(gateway, "Tell me another.")
    parts = later_parts(gateway, first)
    assert parts["regenerated"] == 0.0
    assert parts["success"] == 1.0
    told = gateway.query("SELECT score, reward FROM routing_feedback")
    assert [row["score"] for row in told] == [None]
    assert told[0]["reward"] < detail_of(gateway, first)["reward"]


def called(name: str, arguments: str, *, stream: bool) -> Reply:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    if not stream:
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{k: v for k, v in call.items() if k != "index"}],
        }
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        return Reply(
            body=json.dumps({**CHUNK, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        )
    chunks = [
        {
            **CHUNK,
            "choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}, "finish_reason": None}],
        },
        {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    return Reply(events=(*(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks), b"data: [DONE]\n\n"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "arguments", "value"), [("look", '{"at": 1}', 1.0), ("leap", "{}", 0.0), ("look", "{", 0.0)]
)
def test_calls_of_tools_that_cannot_be_made_lose_reward(
    gateway: Gateway, upstream: Upstream, name: str, arguments: str, value: float, stream: bool
) -> None:
    upstream.next(called(name, arguments, stream=stream))
    request_id = ask(gateway, f"Look: {name} {arguments} {stream}", tools=TOOLS, stream=stream)
    parts = detail_of(gateway, request_id)["reward_parts"]
    assert parts["validity"] == {"value": value, "weight": 2.0}


@pytest.mark.parametrize("stream", [False, True])
def test_a_judge_reads_request_and_answer_and_is_paid_by_the_installation(
    upstream: Upstream, judges: Upstream, tmp_path: Path, stream: bool
) -> None:
    with started(tmp_path, upstream, judges, TOKENHUB_JUDGE_MODEL="judge", TOKENHUB_JUDGE_SHARE="1") as gateway:
        judges.requests.clear()
        request_id = ask(gateway, "What is the capital of France?", stream=stream)
        assert later_parts(gateway, request_id)["judge"] == 0.5
        (asked,) = judges.requests
        seen = asked.json["messages"][1]["content"]
        assert "What is the capital of France?" in seen
        assert "<answer>\n" in seen
        assert "<answer>\n\n" not in seen
        assert "stream" not in asked.json
        (row,) = [row for row in gateway.rows() if row["routing_reason"] == "judge"]
        assert json.loads(row["detail"])["judge_of"] == request_id
        assert row["model_id"] == "judge"
        assert float(row["cost_usd"]) > 0
        assert detail_of(gateway, request_id)["reward_parts"].keys() == {"success", "latency"}
        assert gateway.post("/v1/feedback", {"request_id": request_id, "score": 1.0}).status_code == 200
        parts = later_parts(gateway, request_id)
        assert (parts["judge"], parts["feedback"]) == (0.5, 1.0)  # what one says leaves the other


def test_a_judge_that_fails_or_says_nothing_changes_nothing(
    upstream: Upstream, judges: Upstream, tmp_path: Path
) -> None:
    with started(tmp_path, upstream, judges, TOKENHUB_JUDGE_MODEL="judge", TOKENHUB_JUDGE_SHARE="1") as gateway:
        judges.next(said("Lovely."), Reply(status=503))  # a lost connection could be tried anew
        for text in ("One?", "Two?"):
            ask(gateway, text)
        gateway.wait_until(lambda: len([row for row in gateway.rows() if row["routing_reason"] == "judge"]) == 2)
        assert gateway.query("SELECT * FROM routing_feedback") == []


def test_a_key_is_judged_by_no_model_that_it_may_not_use(upstream: Upstream, judges: Upstream, tmp_path: Path) -> None:
    judge = {"TOKENHUB_JUDGE_MODEL": "judge", "TOKENHUB_JUDGE_SHARE": "1"}
    with started(tmp_path, upstream, judges, allowed=["one"], **judge) as gateway:
        judges.requests.clear()
        ask(gateway, "For whom?")
        gateway.configure(keys=[{"key": KEY, "allowed_models": ["one", "judge"]}])

        def judged() -> bool:
            ask(gateway, "And now?")
            return bool(judges.requests)

        gateway.wait_until(judged)
        assert not [one for one in judges.requests if "For whom?" in one.body.decode()]


def test_weights_are_settings(upstream: Upstream, judges: Upstream, tmp_path: Path) -> None:
    weights = "success=1,latency=0,cost=1"
    with started(tmp_path, upstream, judges, TOKENHUB_REWARD_WEIGHTS=weights) as gateway:
        parts = detail_of(gateway, ask(gateway, "Hi"))["reward_parts"]
        assert parts.keys() == {"success", "cost"}
        assert 0.4 < parts["cost"]["value"] < 0.99
