"""Reasoning that one provider signed or encrypted comes back to it through a client of another dialect, and reaches
nobody else."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from providers.formats.canonical import (
    ChatResponse,
    Ended,
    Finished,
    Part,
    PartEnded,
    Started,
    StopReason,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import Rendered, UpstreamModel, Usage
from providers.formats.registry import DIALECTS, relay, translate_answer
from providers.formats.seal import sealed, unsealed
from providers.formats.sse import Framer
from tests.support.canonical import CHAT, MESSAGES, NAMES, RESPONSES

CROSS: Final = [(upstream, client) for upstream in NAMES for client in NAMES if upstream != client]
MODELS: Final = {
    CHAT: UpstreamModel("some-model"),
    RESPONSES: UpstreamModel("gpt-5.5"),
    MESSAGES: UpstreamModel("claude-opus-4-6"),
}
THOUGHTS: Final[dict[str, list[list[Thinking]]]] = {
    CHAT: [[Thinking("Hm, hm", source=CHAT)]],
    RESPONSES: [
        [Thinking("Hm, hm", "ZW5j", source=RESPONSES, id="rs_1-a")],
        [Thinking("", "ZW5j/+==", source=RESPONSES, id="rs_2")],
        [Thinking("One", "MQ==", source=RESPONSES, id="rs_3"), Thinking("Two", "Mg==", source=RESPONSES, id="rs_4")],
    ],
    MESSAGES: [
        [Thinking("Hm, hm", "c2ln/+==", source=MESSAGES)],
        [Thinking("", "c2ln", source=MESSAGES)],  # as models whose thoughts are not shown say it
        [Thinking(redacted="cmVk.x.y", source=MESSAGES)],
        [Thinking("One", "MQ==", source=MESSAGES), Thinking(redacted="cmVk", source=MESSAGES)],
        [Thinking("One", "MQ==", source=MESSAGES), Thinking("Two", "Mg==", source=MESSAGES)],
    ],
}
CASES: Final = [
    (upstream, client, thoughts, is_stream)
    for upstream, client in CROSS
    for thoughts in THOUGHTS[upstream]
    for is_stream in (False, True)
]
TOOL: Final = "lookup"


def answer_of(thoughts: list[Thinking]) -> ChatResponse:
    parts: list[Part] = [*thoughts, Text("I look."), ToolCall("call_1", TOOL, '{"x": 1}')]
    return ChatResponse("i", "m", tuple(parts), StopReason.TOOL_CALLS, Usage(1, 0, 0, 1), created=1)


# -- a turn later --------------------------------------------------------------------------------------------------
def seen_by_client(upstream: str, client: str, thoughts: list[Thinking], *, is_stream: bool) -> list[Any]:
    """The client's history of the turn, as its dialect hands an answer back."""
    body = DIALECTS[upstream].render_response(answer_of(thoughts))
    if not is_stream:
        shown = json.loads(translate_answer(DIALECTS[upstream], DIALECTS[client], body, now=1.0).body)
        match client:
            case "openai-chat":
                return [shown["choices"][0]["message"]]
            case "openai-responses":
                return list(shown["output"])
            case _:
                return [{"role": "assistant", "content": shown["content"]}]
    way = relay(DIALECTS[upstream], DIALECTS[client], show_usage=True, now=1.0)
    stream = way.feed(stream_of(upstream, thoughts)) + way.close()
    events = [json.loads(frame.data) for frame in Framer().feed(stream) if frame.data != b"[DONE]"]
    match client:
        case "openai-chat":
            return [message_of(events)]
        case "openai-responses":
            return list(events[-1]["response"]["output"])
        case _:
            return [{"role": "assistant", "content": blocks_of(events)}]


def stream_of(upstream: str, thoughts: list[Thinking]) -> bytes:
    events: list[StreamEvent] = [Started("i", "m", 1)]
    for part in thoughts:
        if part.redacted:
            events.append(ThinkingDelta("", "", part.redacted, part.source, part.id))
        else:
            events += [ThinkingDelta(piece, "", "", part.source, part.id) for piece in part.text]
            if part.signature:
                events.append(ThinkingDelta("", part.signature, "", part.source, part.id))
        events.append(PartEnded())
    events += [TextDelta("I "), TextDelta("look."), PartEnded()]
    events += [ToolStarted(0, "call_1", TOOL), ToolDelta(0, '{"x": 1}'), PartEnded()]
    events += [Finished(StopReason.TOOL_CALLS), UsageSeen(Usage(1, 0, 0, 1)), Ended()]
    return DIALECTS[upstream].stream_renderer(show_usage=True).render(events)


def message_of(chunks: list[Any]) -> dict[str, Any]:
    """A chat client's own sum of the chunks."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            if text := delta.get("reasoning_content"):
                message["reasoning_content"] = message.get("reasoning_content", "") + text
            for block in delta.get("thinking_blocks", ()):
                message.setdefault("thinking_blocks", []).append(block)
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    message["tool_calls"].append(call)
                else:
                    message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return message


def blocks_of(events: list[Any]) -> list[dict[str, Any]]:
    """An Anthropic client's own sum of the events."""
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            for name in ("text", "thinking", "signature"):
                if name in delta:
                    blocks[-1][name] += delta[name]
            blocks[-1]["json"] += delta.get("partial_json", "")
    for block in blocks:
        written = block.pop("json")
        if written:
            block["input"] = json.loads(written)
    return blocks


def next_request(client: str, history: list[Any]) -> bytes:
    body: dict[str, Any]
    match client:
        case "openai-chat":
            turns = [*history, {"role": "tool", "tool_call_id": "call_1", "content": "found"}]
            body = {"messages": [{"role": "user", "content": "Hi"}, *turns]}
        case "openai-responses":
            result = {"type": "function_call_output", "call_id": "call_1", "output": "found"}
            body = {"input": [{"role": "user", "content": "Hi"}, *history, result]}
        case _:
            result = {"type": "tool_result", "tool_use_id": "call_1", "content": "found"}
            turns = [*history, {"role": "user", "content": [result]}]
            body = {"messages": [{"role": "user", "content": "Hi"}, *turns], "max_tokens": 99}
    return json.dumps({"model": "m", **body}).encode()


def thoughts_in(upstream: str, body: Any) -> list[Any]:
    """What a provider's request hands back to it, in its own words."""
    match upstream:
        case "openai-chat":
            return [one["reasoning_content"] for one in body["messages"] if "reasoning_content" in one]
        case "openai-responses":
            return [item for item in body["input"] if item.get("type") == "reasoning"]
        case _:
            turns = [one["content"] for one in body["messages"] if isinstance(one["content"], list)]
            return [block for blocks in turns for block in blocks if "thinking" in block["type"]]


def words_of(thoughts: list[Thinking]) -> list[Any]:
    """The same as the provider said it."""
    shown: list[Any] = []
    for part in thoughts:
        match part.source:
            case "openai-chat":
                shown.append(part.text)
            case "openai-responses":
                summary = [{"type": "summary_text", "text": part.text}] if part.text else []
                shown.append(
                    {"type": "reasoning", "id": part.id, "summary": summary, "encrypted_content": part.signature}
                )
            case _ if part.redacted:
                shown.append({"type": "redacted_thinking", "data": part.redacted})
            case _:
                shown.append({"type": "thinking", "thinking": part.text, "signature": part.signature})
    return shown


@pytest.mark.parametrize(("upstream", "client", "thoughts", "is_stream"), CASES)
def test_what_a_provider_thought_comes_back_to_it_word_for_word(
    upstream: str, client: str, thoughts: list[Thinking], is_stream: bool
) -> None:
    history = seen_by_client(upstream, client, thoughts, is_stream=is_stream)
    request = DIALECTS[client].parse_request(next_request(client, history))
    rendered = DIALECTS[upstream].render_request(request, MODELS[upstream])
    assert thoughts_in(upstream, json.loads(rendered.body)) == words_of(thoughts)
    assert rendered.dropped == ()
    assert b"tokenhub.seal" not in rendered.body


@pytest.mark.parametrize(
    ("upstream", "client", "thoughts", "is_stream", "other"),
    [(*case, other) for case in CASES for other in NAMES if other != case[0]],
)
def test_what_a_provider_thought_reaches_no_other(
    upstream: str, client: str, thoughts: list[Thinking], is_stream: bool, other: str
) -> None:
    body = next_request(client, seen_by_client(upstream, client, thoughts, is_stream=is_stream))
    if other == client:
        envelope = DIALECTS[client].read_envelope(body)
        rendered = DIALECTS[other].for_upstream(envelope, MODELS[other].name)
    else:
        rendered = DIALECTS[other].render_request(DIALECTS[client].parse_request(body), MODELS[other])
        assert "messages.thinking" in rendered.dropped
    assert b"tokenhub.seal" not in rendered.body
    for part in thoughts:
        if part.signature or part.redacted:
            assert f'"{part.signature or part.redacted}"'.encode() not in rendered.body
    said = json.loads(rendered.body)
    assert b"I look." in rendered.body
    assert TOOL.encode() in rendered.body
    assert b"found" in rendered.body
    assert said["model"] == MODELS[other].name


# -- a body that passes through --------------------------------------------------------------------------------------
ODD: Final = '{"exact": 1.10, "big": 12345678901234567890123, "e": 1E2, "text": "\\u00e9", "twice": 1, "twice": 2}'
SEAL: Final = sealed(Thinking("", "c2ln", source="some-dialect", id="x"))


def body_of(client: str, *, with_seals: bool) -> bytes:
    """Foreign reasoning among parts and fields that nobody here knows, in spellings that no writer here would use."""
    seals: list[str] = []
    match client:
        case "openai-chat":
            if with_seals:
                block = f'{{"type":"thinking","thinking":"t","signature":"{SEAL}"}}'
                seals = [f'"thinking_blocks": [{block}, {{"type":"redacted_thinking","data":"{SEAL}"}}],']
            turn = f'{{"role": "assistant", {"".join(seals)} "content": "x", "odd": {ODD}}}'
            text = f'{{"model": "m", "odd": {ODD}, "messages": [{{"role":"user","content":"Hi"}}, {turn}]}}'
        case "openai-responses":
            if with_seals:
                seals = [f'{{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"{SEAL}"}},']
            own = '{"type":"reasoning","id":"rs_2","summary":[],"encrypted_content":"own"}'
            text = f'{{"model": "m", "input": [{"".join(seals)} {own}, {{"role":"user","content":"Hi","odd":{ODD}}}]}}'
        case _:
            if with_seals:
                seals = [f'{{"type":"thinking","thinking":"t","signature":"{SEAL}"}},',
                         f'{{"type":"redacted_thinking","data":"{SEAL}"}},']  # fmt: skip
            call = f'{{"type":"tool_use","id":"c","name":"f","input":{ODD}}}'
            own = '{"type":"thinking","thinking":"t","signature":"own"}'
            turn = f'{{"role":"assistant","content":[{"".join(seals)} {own}, {call}]}}'
            text = f'{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":"Hi"}},{turn}]}}'
    return text.encode()


def as_written(body: bytes) -> Any:
    """Every pair and the spelling of every number."""
    return json.loads(body, parse_float=str, parse_int=str, object_pairs_hook=list)


def passed(client: str, body: bytes) -> Rendered:
    return DIALECTS[client].for_upstream(DIALECTS[client].read_envelope(body), "m")


@pytest.mark.parametrize("client", NAMES)
def test_foreign_reasoning_is_taken_out_of_a_body_and_nothing_else_is_touched(client: str) -> None:
    with_seals, without = body_of(client, with_seals=True), body_of(client, with_seals=False)
    assert as_written(passed(client, with_seals).body) == as_written(without)


@pytest.mark.parametrize("client", NAMES)
def test_a_body_without_foreign_reasoning_passes_byte_for_byte(client: str) -> None:
    body = body_of(client, with_seals=False)
    assert passed(client, body).body == body


def test_a_turn_that_held_foreign_reasoning_alone_is_left_out() -> None:
    block = {"type": "redacted_thinking", "data": SEAL}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [block]}]
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()
    assert json.loads(passed(MESSAGES, body).body)["messages"] == turns[:1]


def test_a_count_of_tokens_is_asked_without_foreign_reasoning() -> None:
    body = body_of(MESSAGES, with_seals=True)
    dialect = DIALECTS["anthropic-count-tokens"]
    assert b"tokenhub.seal" not in dialect.for_upstream(dialect.read_envelope(body), "m").body


# -- the seal itself -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("part", [part for parts in THOUGHTS.values() for one in parts for part in one])
def test_a_seal_says_all_but_the_text(part: Thinking) -> None:
    assert unsealed(Thinking(part.text), sealed(part)) == part


@pytest.mark.parametrize(
    "text", ["", "sig", "tokenhub.seal.", "tokenhub.seal.x", "tokenhub.seal.x.q.i.p", "x tokenhub.seal.a.s.i.p"]
)
def test_a_text_that_is_no_seal_is_none(text: str) -> None:
    assert unsealed(Thinking(), text) is None


def test_a_payload_may_hold_dots_and_lines() -> None:
    part = Thinking("", "a.b\nc", source=MESSAGES)
    assert unsealed(Thinking(), sealed(part)) == part
