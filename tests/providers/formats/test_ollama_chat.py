"""Ollama's own API as a provider: a dialect in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from providers.formats.dialect import UpstreamModel, Usage
from providers.formats.errors import InvalidRequest, UnreadableAnswer
from providers.formats.registry import DIALECTS, relay, translate_answer
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream

OLLAMA, CHAT, MESSAGES = DIALECTS["ollama-chat"], DIALECTS["openai-chat"], DIALECTS["anthropic-messages"]
FIXTURES = Path(__file__).resolve().parents[2] / "fixtures/ollama"
STREAM = (FIXTURES / "stream_tool.jsonl").read_bytes()
ANSWER = (FIXTURES / "answer.json").read_bytes()


def rendered(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    request = CHAT.parse_request(json.dumps({"model": "x", "messages": list(messages), **fields}).encode())
    result: dict[str, Any] = json.loads(OLLAMA.render_request(request, UpstreamModel("llama3.2")).body)
    return result


def test_a_request_says_what_ollama_understands() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    calls = [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}]
    body = rendered(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "See"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
        tools=[{"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": schema}}],
        response_format={"type": "json_schema", "json_schema": {"name": "o", "schema": schema}},
        max_tokens=9, temperature=0.5, stop="x", seed=3, reasoning_effort="high", stream=True,
    )  # fmt: skip
    assert body == {
        "model": "llama3.2",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "See", "images": ["AAEC"]},
            {"role": "assistant", "content": "", "tool_calls": [
                {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
            ]},
            {"role": "tool", "tool_name": "get_weather", "content": "Sunny"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": schema}}
        ],
        "format": schema, "think": "high", "stream": True,
        "options": {"num_predict": 9, "temperature": 0.5, "stop": ["x"], "seed": 3},
    }  # fmt: skip


def test_what_ollama_cannot_take_is_named() -> None:
    with pytest.raises(InvalidRequest):
        rendered({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://e.org/a.png"}}]})
    body = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "n": 2, "logit_bias": {"1": 2}}
    request = CHAT.parse_request(json.dumps(body).encode())
    assert OLLAMA.render_request(request, UpstreamModel("m")).dropped == ("n", "logit_bias")


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_stream_becomes_one_of_the_client(step: int) -> None:
    way = relay(OLLAMA, MESSAGES, show_usage=True, now=1.0)
    out = b"".join(way.feed(STREAM[at : at + step]) for at in range(0, len(STREAM), step)) + way.close()
    events = [json.loads(line[6:]) for line in out.decode().splitlines() if line.startswith("data: ")]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(one.get("text", "") for one in deltas) == "I look it up — gleich."
    assert "".join(one.get("thinking", "") for one in deltas) == "The user asks"
    assert [json.loads(one["partial_json"])["city"] for one in deltas if "partial_json" in one] == ["Tōkyō", "Paris"]
    ids = [one["content_block"]["id"] for one in events if one.get("content_block", {}).get("type") == "tool_use"]
    assert len(set(ids)) == 2
    assert way.finished
    assert way.usage == Usage(input_tokens=169, output_tokens=15)
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_whole_answer_and_an_unreadable_one() -> None:
    answer = translate_answer(OLLAMA, CHAT, ANSWER, now=1.0)
    choice = json.loads(answer.body)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello! How are you today?", "length")
    assert answer.usage == Usage(input_tokens=26, output_tokens=298)
    with pytest.raises(UnreadableAnswer):
        translate_answer(OLLAMA, CHAT, b"<html>", now=1.0)


def test_a_provider_can_speak_it(tmp_path: Path) -> None:
    """Its path lies beside the version segment that other dialects' paths follow."""
    with (
        Upstream() as upstream,
        Gateway(
            tmp_path,
            providers=[{"id": "ollama", "type": "openai", "base_url": upstream.url, "dialects": ["ollama-chat"]}],
            models=[{"id": "llama3.2", "provider_id": "ollama"}],
        ) as gateway,
    ):
        upstream.next(Reply(body=ANSWER), Reply(headers={"content-type": "application/x-ndjson"}, body=STREAM))
        assert gateway.chat("llama3.2").json()["usage"]["completion_tokens"] == 298
        assert gateway.chat("llama3.2", stream=True).text.endswith("data: [DONE]\n\n")
        assert {request.path for request in upstream.requests} == {"/api/chat"}


def test_an_answer_is_looked_at_without_being_translated() -> None:
    said = {"message": {"role": "assistant", "content": "Yes"}, "done": True, "prompt_eval_count": 3, "eval_count": 4}
    answer = DIALECTS["ollama-chat"].inspect_response(json.dumps({"model": "m", **said}).encode())
    assert (answer.usage, answer.produced_bytes) == (Usage(input_tokens=3, output_tokens=4), 3)
    with pytest.raises(UnreadableAnswer):
        DIALECTS["ollama-chat"].inspect_response(b"<html>\n</html>")
