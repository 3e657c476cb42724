"""The corners of shaped answers, over real sockets: hostile providers and schemas, clients that leave, every dialect on
both sides, streams."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.test_shaping import AS_JSON, BAD, COST, DIRECTIVE, GOOD, SCHEMA, said, streamed
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream
from tests.support.wire import encode

ROUTED_KEY = KEY[:-2] + "31"
ENDS = ("[DONE]", "message_stop", "response.completed")
PATHS = ["/v1/chat/completions", "/v1/messages", "/v1/responses"]


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    prices = {"input_per_1k": "0.001", "output_per_1k": "0.002"}
    able, unable = ["structured_output", "tools"], ["tools"]
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[
            {"id": "chat", "type": "openai", "base_url": server.url, "dialects": ["openai-chat"]},
            {"id": "claude", "type": "anthropic", "base_url": server.url},
            {"id": "responses", "type": "openai", "base_url": server.url, "dialects": ["openai-responses"]},
        ],
        models=[
            {"id": f"{provider}-{kind}", "provider_id": provider, "abilities": abilities, **prices}
            for provider in ("chat", "claude", "responses")
            for kind, abilities in (("native", able), ("wordy", unable))
        ],
        keys=[{"key": KEY}, {"key": ROUTED_KEY, "allowed_models": ["chat-native"]}],
    ) as running:
        yield running


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.forget()
    server.requests.clear()
    return server


def ask(
    gateway: Gateway,
    model: str = "chat-native",
    *,
    stream: bool = False,
    key: str = KEY,
    request: Any = None,
    **body: Any,
) -> Any:
    asked = {"messages": [{"role": "user", "content": "How old?"}], "model_hint": model, "stream": stream}
    headers = {"Authorization": f"Bearer {key}", "X-TokenHub-Fallback": "none"}  # some of these tests wear a model out
    return gateway.post("/v1/chat", {"request": asked | (request or {}), **body}, headers=headers)


def directed(path: str, model: str, *, stream: bool = False) -> dict[str, Any]:
    turns = [{"role": "user", "content": DIRECTIVE}]
    body: dict[str, Any] = {"model": model, "stream": stream, "input" if "responses" in path else "messages": turns}
    return body | ({"max_tokens": 50} if "messages" in path else {})


def replied(model: str, text: str) -> Reply:
    """In the dialect of the model's provider."""
    match model.partition("-")[0]:
        case "claude":
            said_parts = [{"type": "text", "text": text}]
            usage = {"input_tokens": 100, "output_tokens": 10}
            head = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
            return Reply(body=encode({**head, "content": said_parts, "usage": usage}))
        case "responses":
            content: list[dict[str, Any]] = [{"type": "output_text", "text": text, "annotations": []}]
            item = {"type": "message", "id": "x", "role": "assistant", "status": "completed", "content": content}
            usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
            head = {"id": "r", "object": "response", "status": "completed", "model": "m"}
            return Reply(body=encode({**head, "output": [item], "usage": usage}))
        case _:
            return said(text)


def text_in(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    if "content" in body:
        return str(body["content"][0]["text"])
    if "output" in body:
        return str(body["output"][0]["content"][0]["text"])
    return str(body["choices"][0]["message"]["content"])


# -- every dialect on both sides -------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", ["chat-wordy", "claude-wordy", "responses-wordy"])
def test_a_directive_is_said_in_words_and_repaired(gateway: Gateway, upstream: Upstream, path: str, model: str) -> None:
    upstream.next(replied(model, BAD), replied(model, f"```json\n{GOOD}\n```"))
    answer = gateway.post(path, directed(path, model))
    assert text_in(answer) == GOOD
    assert float(answer.headers["x-tokenhub-cost-usd"]) == pytest.approx(2 * COST)
    for asked in (one.json for one in upstream.requests):
        assert not {"response_format", "output_config", "text", "tools"} & asked.keys()
        assert json.dumps(json.dumps(SCHEMA, separators=(",", ":")))[1:-1] in json.dumps(asked)
    assert BAD in json.dumps(upstream.requests[1].json).replace("\\", "")


@pytest.mark.parametrize(("model", "field"), [("chat-native", "response_format"), ("responses-native", "text")])
def test_an_able_model_is_asked_by_its_own_field(gateway: Gateway, upstream: Upstream, model: str, field: str) -> None:
    for path in PATHS:
        upstream.next(replied(model, GOOD))
        assert text_in(gateway.post(path, directed(path, model))) == GOOD
        assert '"json_schema"' in json.dumps(upstream.requests[-1].json[field])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("interval", [0.0, 0.03])
@pytest.mark.parametrize("text", [GOOD, BAD])
def test_a_stream_ends_as_its_text_deserves(
    gateway: Gateway, upstream: Upstream, path: str, interval: float, text: str
) -> None:
    upstream.next(Reply(events=streamed(text[:4], text[4:]).events, interval=interval))
    answer = gateway.post(path, directed(path, "chat-native", stream=True))
    assert answer.status_code == 200
    assert any(end in answer.text for end in ENDS) == (text == GOOD)
    assert ("not what was asked for" in answer.text) == (text == BAD)
    assert text[4:8] in answer.text.replace("\\", "")


def test_a_stream_that_calls_a_tool_needs_no_form(gateway: Gateway, upstream: Upstream) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chunks = [{"content": "Let me see."}, {"tool_calls": [call]}]
    events = [b"data: %b\n\n" % encode({"id": "c1", "choices": [{"index": 0, "delta": one}]}) for one in chunks]
    upstream.next(Reply(events=(*events, *(streamed().events or ()))))
    assert ask(gateway, stream=True, output_format=AS_JSON).text.rstrip().endswith("[DONE]")


# -- what the answer tells ---------------------------------------------------------------------------------------------
def test_a_repaired_answer_keeps_its_reason(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(BAD), said(GOOD))
    answer = ask(gateway, "auto", key=ROUTED_KEY, output_format=AS_JSON)
    assert answer.json()["routing_reason"] == answer.headers["x-tokenhub-reason"] == "routed-weight-5"


def test_a_client_that_leaves_amid_repairs_pays_for_what_was_said(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(BAD), Reply(body=said(GOOD).body, delay=20))
    asked = {"messages": [{"role": "user", "content": "Hi"}], "model_hint": "chat-native"}
    body = encode({"request": asked, "output_format": AS_JSON})
    head = f"POST /v1/chat HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        upstream.wait_for_requests(2)
    assert upstream.requests[1].lost.wait(5)
    gateway.wait_until(lambda: any(row["status"] == 499 for row in gateway.rows()))
    (row,) = (row for row in gateway.rows() if row["status"] == 499)
    assert float(row["cost_usd"]) == pytest.approx(COST)


def test_the_formats_limit_goes_before_a_parameters(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("Hi"))
    ask(gateway, request={"parameters": {"max_completion_tokens": 5_000}}, output_format={"max_tokens": 17})
    assert "max_completion_tokens" not in upstream.requests[0].json
    assert upstream.requests[0].json["max_tokens"] == 17


# -- thoughts ----------------------------------------------------------------------------------------------------------
def test_thoughts_beside_a_tool_call_are_taken_out(gateway: Gateway, upstream: Upstream) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    upstream.next(said("<think>secret</think>", tool_calls=[call], reasoning_content="secret"))
    answer = ask(gateway, output_format={"strip_think": True})
    assert "secret" not in answer.text
    assert answer.json()["response"]["choices"][0]["message"]["tool_calls"] == [call]


def test_a_directives_schema_and_the_bodys_strip_think_hold_together(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(f"<think>secret</think>{GOOD}", reasoning_content="secret"))
    turns = {"messages": [{"role": "user", "content": DIRECTIVE}]}
    answer = ask(gateway, request=turns, output_format={"strip_think": True})
    assert answer.json()["response"]["choices"][0]["message"]["content"] == GOOD
    assert "secret" not in answer.text


# -- strangers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [{"index": [1], "delta": {"content": "x"}}]},
        {"choices": [{"index": {"a": 1}, "delta": {"content": "x"}}]},
        {"choices": {"a": 1}},
        {"choices": [{"index": "a", "delta": []}]},
        [1],
    ],
)
@pytest.mark.parametrize("form", [{"strip_think": True}, AS_JSON])
def test_a_strange_chunk_is_no_internal_error(gateway: Gateway, upstream: Upstream, chunk: Any, form: Any) -> None:
    first, *rest = streamed("Hi").events or ()
    upstream.next(*[Reply(events=(first, b"data: %b\n\n" % encode(chunk), *rest))] * 4)
    assert "internal_error" not in ask(gateway, stream=True, output_format=form).text


@pytest.mark.parametrize("text", ["[" * 5_000 + "]" * 5_000, "\ud800", "", "\0"])
def test_a_strange_text_does_not_fit(gateway: Gateway, upstream: Upstream, text: str) -> None:
    upstream.next(said(text), said(text))
    assert ask(gateway, output_format=AS_JSON).status_code == 422


@pytest.mark.parametrize("messages", [5, "x", [], None, [5], {}])
@pytest.mark.parametrize("form", ["json", "xml", "text"])
def test_strange_messages_are_refused_or_passed_on(
    gateway: Gateway, upstream: Upstream, messages: Any, form: str
) -> None:
    upstream.next(said("{}"))
    answer = ask(gateway, "chat-wordy", request={"messages": messages}, output_format={"type": form})
    assert answer.status_code == (200 if messages == [5] and form != "xml" else 422 if messages == [5] else 400)


def test_a_long_look_at_a_schema_stops_nobody(gateway: Gateway, upstream: Upstream) -> None:
    answer = ask(gateway, output_format={"type": "json", "schema": {"allOf": [{}] * 40_000}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "output_format.schema")
    assert "longer than" in answer.json()["error"]["message"]


def test_a_fence_that_never_ends_is_passed_on(gateway: Gateway, upstream: Upstream) -> None:
    text = "```\n" + " " * 200_000
    upstream.next(said(text))
    answer = ask(gateway, output_format={"type": "markdown"})
    assert answer.json()["response"]["choices"][0]["message"]["content"] == text
