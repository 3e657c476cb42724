"""Names of tools that a provider refuses for their length."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.formats.canonical import Ended, Finished, Started, StopReason, ToolDelta, ToolStarted
from providers.formats.dialect import UpstreamModel
from providers.formats.names import MAX_LENGTH, short_name
from providers.formats.registry import DIALECTS, relay, render_request, translate_answer

LONG = "mcp__a_server_with_a_telling_name__a_tool_whose_name_says_all_that_it_does_and_more"
MESSAGES = DIALECTS["anthropic-messages"]


def asked() -> Any:
    body = {
        "model": "x", "max_tokens": 9,
        "tools": [{"name": LONG, "input_schema": {"type": "object"}}, {"name": "short", "input_schema": {}}],
        "tool_choice": {"type": "tool", "name": LONG},
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": LONG, "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]},
        ],
    }  # fmt: skip
    return MESSAGES.parse_request(json.dumps(body).encode())


@pytest.mark.parametrize("name", ["openai-chat", "openai-responses"])
def test_a_long_name_goes_out_short_everywhere(name: str) -> None:
    rendered = render_request(DIALECTS[name], asked(), UpstreamModel("m"))
    assert LONG.encode() not in rendered.body
    short = short_name(LONG)
    assert len(short) == MAX_LENGTH
    assert rendered.body.count(short.encode()) == 3  # the tool, the choice, the call
    assert b'"short"' in rendered.body
    assert rendered.long_names == {short: LONG}


def test_it_comes_back_as_it_was_whole_and_streamed() -> None:
    chat = DIALECTS["openai-chat"]
    rendered = render_request(chat, asked(), UpstreamModel("m"))
    call = {"id": "c", "type": "function", "function": {"name": short_name(LONG), "arguments": "{}"}}
    choice = {"message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
    body = json.dumps({"id": "x", "choices": [choice]}).encode()
    answer = json.loads(translate_answer(chat, MESSAGES, body, now=1.0, rendered=rendered).body)
    assert answer["content"][0]["name"] == LONG
    stream = chat.stream_renderer(show_usage=True).render(
        [Started("x", "m", 1), ToolStarted(0, "c", short_name(LONG)), ToolDelta(0, "{}"),
         Finished(StopReason.TOOL_CALLS), Ended()]
    )  # fmt: skip
    way = relay(chat, MESSAGES, show_usage=True, now=1.0, rendered=rendered)
    assert f'"name":"{LONG}"'.encode() in way.feed(stream)


def test_short_names_stay_and_two_long_ones_differ() -> None:
    assert short_name("x" * MAX_LENGTH) == "x" * MAX_LENGTH
    assert short_name(LONG + "a") != short_name(LONG + "b")


@pytest.mark.parametrize("name", ["openai-chat", "openai-responses", "anthropic-messages"])
def test_a_schema_without_a_type_becomes_an_objects(name: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}}}}},
             {"type": "function", "function": {"name": "g", "parameters": {}}}]  # fmt: skip
    body = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    request = DIALECTS["openai-chat"].parse_request(json.dumps(body).encode())
    rendered = json.loads(DIALECTS[name].render_request(request, UpstreamModel("m")).body)
    schemas = [
        tool.get("input_schema") or tool.get("parameters") or tool["function"]["parameters"]
        for tool in rendered["tools"]
    ]
    assert schemas == [
        {"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {}},
    ]  # fmt: skip


def test_more_stop_sequences_than_openai_takes_are_named() -> None:
    body = {"model": "x", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}],
            "stop_sequences": list("abcdef")}  # fmt: skip
    request = MESSAGES.parse_request(json.dumps(body).encode())
    rendered = DIALECTS["openai-chat"].render_request(request, UpstreamModel("gpt-4o"))
    assert json.loads(rendered.body)["stop"] == list("abcd")
    assert rendered.dropped == ("stop[4]",)
