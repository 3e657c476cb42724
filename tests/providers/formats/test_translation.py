"""Chat between the dialects, against recorded traffic and against the types of the official packages."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import MessageCreateParams
from anthropic.types.beta import BetaContentBlock, BetaContentBlockParam
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk, CompletionCreateParams
from pydantic import TypeAdapter
from typing_extensions import is_typeddict

from providers.formats import anthropic_types
from providers.formats.base import Dialect
from providers.formats.canonical import (
    Ended,
    Finished,
    Started,
    StopReason,
    StreamEvent,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import UpstreamModel, Usage
from providers.formats.errors import InvalidRequest, UnreadableAnswer
from providers.formats.registry import DIALECTS, relay, translate_answer
from tests.support import cassettes
from tests.support.cassettes import Cassette, names

OPENAI, ANTHROPIC = DIALECTS["openai-chat"], DIALECTS["anthropic-messages"]
RESPONSES = DIALECTS["openai-responses"]
OPENAI_REQUEST: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)
ANTHROPIC_REQUEST: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)


def dialects_of(cassette: Cassette) -> tuple[Dialect, Dialect]:
    """The recording's own, and the other."""
    return (ANTHROPIC, OPENAI) if cassette.is_anthropic else (OPENAI, ANTHROPIC)


def translated_request(source: Dialect, target: Dialect, body: Any, *, model: str = "m") -> dict[str, Any]:
    request = source.parse_request(json.dumps(body).encode())
    rendered = target.render_request(request, UpstreamModel(model))
    result: dict[str, Any] = json.loads(rendered.body)
    return result


def dropped(source: Dialect, target: Dialect, body: Any) -> tuple[str, ...]:
    request = source.parse_request(json.dumps(body).encode())
    return target.render_request(request, UpstreamModel("m")).dropped


def to_anthropic(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return translated_request(OPENAI, ANTHROPIC, {"model": "x", "messages": list(messages), **fields})


def to_openai(*messages: dict[str, Any], model: str = "m", **fields: Any) -> dict[str, Any]:
    body = {"model": "x", "max_tokens": 100, "messages": list(messages), **fields}
    return translated_request(ANTHROPIC, OPENAI, body, model=model)


USER = {"role": "user", "content": "Hi"}


# -- recorded traffic ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cassette", cassettes.ALL, ids=names(cassettes.ALL))
def test_a_recorded_request_becomes_one_that_the_other_official_package_accepts(cassette: Cassette) -> None:
    source, target = dialects_of(cassette)
    body = translated_request(source, target, cassette.request)
    (OPENAI_REQUEST if target is OPENAI else ANTHROPIC_REQUEST).validate_python(body)
    assert body["model"] == "m"


@pytest.mark.parametrize("cassette", cassettes.WHOLE, ids=names(cassettes.WHOLE))
def test_a_recorded_answer_becomes_one_of_the_other_official_package(cassette: Cassette) -> None:
    source, target = dialects_of(cassette)
    answer = translate_answer(source, target, cassette.body, now=1.0)
    if target is ANTHROPIC:
        message = AnthropicMessage.model_validate_json(answer.body, strict=True)
        said = cassette.json["choices"][0]["message"]
        assert "".join(block.text for block in message.content if block.type == "text") == (said["content"] or "")
        calls = [(call["id"], json.loads(call["function"]["arguments"])) for call in said.get("tool_calls") or ()]
        assert [(block.id, block.input) for block in message.content if block.type == "tool_use"] == calls
        assert message.usage.output_tokens == cassette.json["usage"]["completion_tokens"]
    else:
        completion = ChatCompletion.model_validate_json(answer.body)
        blocks = cassette.json["content"]
        said = completion.choices[0].message
        assert (said.content or "") == "".join(block["text"] for block in blocks if block["type"] == "text")
        calls = [(block["id"], block["input"]) for block in blocks if block["type"] == "tool_use"]
        assert [(one.id, json.loads(one.function.arguments)) for one in said.tool_calls or ()] == calls  # type: ignore[union-attr]
        assert completion.usage is not None
        assert completion.usage.completion_tokens == cassette.json["usage"]["output_tokens"]


@pytest.mark.parametrize("cassette", cassettes.WHOLE, ids=names(cassettes.WHOLE))
def test_an_answer_there_and_back_says_the_same(cassette: Cassette) -> None:
    source, target = dialects_of(cassette)
    there = translate_answer(source, target, cassette.body, now=1.0).body
    first, back = source.parse_response(cassette.body), target.parse_response(there)
    assert back.parts == first.parts
    assert (back.stop_reason, back.usage, back.model) == (first.stop_reason, first.usage, first.model)


@pytest.mark.parametrize("step", [1, 7, 1_000_000])
@pytest.mark.parametrize("cassette", cassettes.STREAMS, ids=names(cassettes.STREAMS))
def test_a_stream_there_and_back_says_the_same_however_it_is_cut(cassette: Cassette, step: int) -> None:
    source, target = dialects_of(cassette)
    way = relay(source, target, show_usage=True, now=1.0)
    pieces = [cassette.body[at : at + step] for at in range(0, len(cassette.body), step)]
    there = b"".join(way.feed(piece) for piece in pieces)
    assert way.finished
    assert way.error is None
    assert way.close() == b""
    parser, again = source.stream_parser(), target.stream_parser()
    assert summary(again.feed(there) + again.close()) == summary(parser.feed(cassette.body) + parser.close())


@pytest.mark.parametrize("cassette", cassettes.STREAMS, ids=names(cassettes.STREAMS))
def test_a_stream_passes_unchanged_where_both_sides_speak_alike(cassette: Cassette) -> None:
    source, _ = dialects_of(cassette)
    way = relay(source, source, show_usage=True, now=1.0)
    assert b"".join(way.feed(cassette.body[at : at + 11]) for at in range(0, len(cassette.body), 11)) == cassette.body
    assert way.finished
    assert way.usage is not None
    assert way.usage.output_tokens > 0


@pytest.mark.parametrize("cassette", [one for one in cassettes.STREAMS if one.is_anthropic])
def test_every_translated_event_is_a_chunk_of_the_official_package(cassette: Cassette) -> None:
    way = relay(ANTHROPIC, OPENAI, show_usage=True, now=1.0)
    events = way.feed(cassette.body).split(b"\n\n")[:-1]
    assert events.pop() == b"data: [DONE]"
    for event in events:
        ChatCompletionChunk.model_validate_json(event.removeprefix(b"data: "))


def summary(events: list[StreamEvent]) -> dict[str, Any]:
    """What a stream said, whatever pieces it came in."""
    said: dict[str, Any] = {"text": "", "thinking": "", "signature": "", "calls": {}}
    for event in events:
        match event:
            case Started():
                said["model"] = event.model
            case TextDelta():
                said["text"] += event.text
            case ThinkingDelta():
                said["thinking"] += event.text
                said["signature"] += event.signature
            case ToolStarted():
                said["calls"][event.index] = [event.id, event.name, ""]
            case ToolDelta():
                said["calls"][event.index][2] += event.arguments
            case Finished():
                said["reason"] = event.reason
            case UsageSeen():
                said["usage"] = event.usage
            case Ended():
                said["ended"] = True
    return said


# -- requests, OpenAI to Anthropic -------------------------------------------------------------------------------------
def test_system_and_developer_messages_become_the_system_text() -> None:
    body = to_anthropic({"role": "system", "content": "A"}, {"role": "developer", "content": "B"}, USER)
    assert [block["text"] for block in body["system"]] == ["A", "B"]
    assert body["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_limit_is_always_given_to_anthropic() -> None:
    assert to_anthropic(USER)["max_tokens"] == 4096
    assert to_anthropic(USER, max_tokens=7)["max_tokens"] == 7
    assert to_anthropic(USER, max_completion_tokens=9)["max_tokens"] == 9


def test_parallel_calls_and_their_results_stand_in_one_turn_each_results_first() -> None:
    def call(number: int) -> dict[str, Any]:
        return {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": f'{{"n":{number}}}'}}

    body = to_anthropic(
        USER,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call(1), call(2)]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "user", "content": "And?"},
    )
    said, answered = body["messages"][1:]
    assert said["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"n": 1}},
        {"type": "tool_use", "id": "c2", "name": "f", "input": {"n": 2}},
    ]
    assert [block["type"] for block in answered["content"]] == ["tool_result", "tool_result", "text"]
    assert [block.get("tool_use_id") for block in answered["content"]] == ["c1", "c2", None]


def test_tool_arguments_keep_the_spelling_of_their_numbers() -> None:
    text = '{"big": 12345678901234567890, "exact": 1.10, "text": "\\u00e9"}'
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}]
    request = {"model": "x", "messages": [USER, {"role": "assistant", "tool_calls": calls}]}
    rendered = ANTHROPIC.render_request(OPENAI.parse_request(json.dumps(request).encode()), UpstreamModel("m"))
    assert text.encode() in rendered.body


@pytest.mark.parametrize(("written", "expected"), [("", {}), ("{}", {}), ('{"a":', {"unparsed_arguments": '{"a":'})])
def test_arguments_that_are_no_object_are_not_lost(written: str, expected: Any) -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": written}}]
    assert (
        to_anthropic(USER, {"role": "assistant", "tool_calls": calls})["messages"][1]["content"][0]["input"] == expected
    )


def test_an_id_that_anthropic_refuses_is_replaced_alike_in_call_and_result() -> None:
    calls = [{"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    body = to_anthropic(
        USER,
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "1"},
    )
    used, result = body["messages"][1]["content"][0]["id"], body["messages"][2]["content"][0]["tool_use_id"]
    assert used == result
    assert used.replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "tool", "name": "f"}),
    ],
)
def test_a_tool_choice_keeps_its_meaning_both_ways(choice: Any, expected: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = to_anthropic(USER, tools=tools, tool_choice=choice)
    assert body["tool_choice"] == expected
    back = to_openai(USER, tools=body["tools"], tool_choice=expected)
    assert back["tool_choice"] == choice
    assert back["tools"] == tools


def test_parallel_calls_can_be_switched_off_both_ways() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = to_anthropic(USER, tools=tools, parallel_tool_calls=False)
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert to_openai(USER, tools=body["tools"], tool_choice=body["tool_choice"])["parallel_tool_calls"] is False


def test_images_and_documents_keep_their_bytes() -> None:
    content = [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAEC"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
    ]
    blocks = to_anthropic({"role": "user", "content": content})["messages"][0]["content"]
    assert blocks[1]["source"] == {"type": "base64", "media_type": "image/jpeg", "data": "AAEC"}
    assert blocks[2]["source"] == {"type": "url", "url": "https://example.org/a.png"}
    assert blocks[3] == {
        "type": "document",
        "title": "a.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
    }
    assert to_openai({"role": "user", "content": blocks})["messages"][0]["content"] == content


def test_empty_texts_are_left_out_and_turns_of_one_role_joined() -> None:
    body = to_anthropic(USER, {"role": "assistant", "content": ""}, {"role": "user", "content": "there"})
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}
    ]


def test_what_has_no_counterpart_is_named() -> None:
    asked = {"seed": 1, "logprobs": True, "n": 2, "frequency_penalty": 0.5, "logit_bias": {"1": 2}}
    assert set(dropped(OPENAI, ANTHROPIC, {"model": "x", "messages": [USER], **asked})) == set(asked)
    quiet = {"n": 1, "logprobs": False, "seed": None, "stream_options": {"include_usage": True}, "stop": None}
    assert dropped(OPENAI, ANTHROPIC, {"model": "x", "messages": [USER], **quiet}) == ()


def test_a_schema_for_the_output_goes_along_both_ways() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
    body = to_anthropic(USER, response_format=wanted)
    assert [(tool["name"], tool["input_schema"]) for tool in body["tools"]] == [("thing", schema)]
    assert body["tool_choice"] == {"type": "tool", "name": "thing", "disable_parallel_tool_use": True}
    back = to_openai(USER, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert back["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, "messages[0].content[0].file"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "nobody", "content": "x"}, "messages[0].role"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_field(message: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        to_anthropic(message)
    assert (refused.value.param or "").replace("[...]", "[0]") == field


# -- requests, Anthropic to OpenAI -------------------------------------------------------------------------------------
def test_system_blocks_and_a_system_turn_in_the_middle_become_system_messages() -> None:
    body = to_openai(USER, {"role": "system", "content": "Now be brief."}, USER, system=[{"type": "text", "text": "A"}])
    assert [message["role"] for message in body["messages"]] == ["system", "user", "system", "user"]


def test_tool_results_become_messages_of_their_own_before_what_else_was_said() -> None:
    body = to_openai(
        USER,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1.50}}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Go on."},
                {"type": "tool_result", "tool_use_id": "t1", "content": "no such file", "is_error": True},
            ],
        },
    )
    said, result, rest = body["messages"][1:]
    assert said["content"] is None
    assert said["tool_calls"][0]["id"] == "t1"
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"a": 1.5}
    assert result == {"role": "tool", "tool_call_id": "t1", "content": "Error: no such file"}
    assert rest == {"role": "user", "content": "Go on."}


def test_every_kind_of_block_that_the_official_package_sends_is_known() -> None:
    """Whoever sends one that is not, gets no answer from another provider for the rest of the conversation."""
    said = get_args(get_args(BetaContentBlock)[0])
    kinds = {get_args(block.model_fields["type"].annotation)[0] for block in said}
    sent = [block for block in get_args(BetaContentBlockParam) if is_typeddict(block)]
    kinds |= {get_args(get_type_hints(block)["type"])[0] for block in sent}
    known = {block.__struct_config__.tag for block in get_args(anthropic_types.Block)}
    assert kinds - known == set()


def test_what_anthropics_own_tools_said_is_left_out_by_name_and_a_compaction_refused() -> None:
    said = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "Found it."},
    ]
    body = {"model": "x", "max_tokens": 9, "messages": [USER, {"role": "assistant", "content": said}, USER]}
    request = ANTHROPIC.parse_request(json.dumps(body).encode())
    rendered = OPENAI.render_request(request, UpstreamModel("m"))
    assert rendered.dropped == ("messages.server_tool_use", "messages.web_search_tool_result")
    assert json.loads(rendered.body)["messages"][1]["content"] == "Found it."
    body["messages"][1] = {"role": "assistant", "content": [{"type": "compaction", "content": "…"}]}  # type: ignore[index]
    with pytest.raises(InvalidRequest, match="compaction"):
        ANTHROPIC.parse_request(json.dumps(body).encode())


def test_an_image_in_a_tool_result_reaches_the_model() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
    body = to_openai(
        USER,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [image]}]},
    )
    del body["messages"][1]
    assert body["messages"][1]["role"] == "tool"
    assert body["messages"][2]["content"][1]["image_url"]["url"] == "data:image/png;base64,AA"


@pytest.mark.parametrize(
    ("model", "name"),
    [("gpt-4o", "max_tokens"), ("gpt-5.2-mini", "max_completion_tokens"), ("o3", "max_completion_tokens"),
     ("openai/o4-mini", "max_completion_tokens"), ("mistral-large", "max_tokens"), ("olmo-3", "max_tokens")],
)  # fmt: skip
def test_the_limit_is_named_as_the_model_wants_it(model: str, name: str) -> None:
    assert to_openai(USER, model=model)[name] == 100


def test_usage_is_asked_for_in_streams() -> None:
    assert to_openai(USER, stream=True)["stream_options"] == {"include_usage": True}


def test_thinking_of_earlier_turns_and_tools_that_anthropic_runs_are_named_as_dropped() -> None:
    body = {
        "model": "x", "max_tokens": 5, "thinking": {"type": "enabled", "budget_tokens": 1024}, "top_k": 3,
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        "messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "h", "signature": "s"}]}],
    }  # fmt: skip
    assert set(dropped(ANTHROPIC, OPENAI, body)) == {
        "top_k", "tools.web_search_20250305", "messages.thinking",
    }  # fmt: skip


def test_a_missing_limit_is_named() -> None:
    with pytest.raises(InvalidRequest, match="max_tokens"):
        translated_request(ANTHROPIC, OPENAI, {"model": "x", "messages": [USER]})


def test_a_long_user_id_is_shortened_the_same_way_every_time() -> None:
    long = json.dumps({"device": "d" * 80})
    first = to_openai(USER, metadata={"user_id": long})["user"]
    assert first == to_openai(USER, metadata={"user_id": long})["user"]
    assert len(first) == 64


@pytest.mark.parametrize("media_type", ["text/plain", "text/csv", "Text/Markdown", "application/json"])
def test_a_text_file_in_base64_is_told_as_its_text(media_type: str) -> None:
    data = f"data:{media_type};base64,{base64.b64encode('Grüße, 1'.encode()).decode()}"
    chat = {"type": "file", "file": {"filename": "a.txt", "file_data": data}}
    source = {"type": "text", "media_type": "text/plain", "data": "Grüße, 1"}
    expected = [{"type": "document", "source": source, "title": "a.txt"}]
    assert to_anthropic({"role": "user", "content": [chat]})["messages"][0]["content"] == expected
    item = {"role": "user", "content": [{"type": "input_file", "filename": "a.txt", "file_data": data}]}
    assert translated_request(RESPONSES, ANTHROPIC, {"input": [item]})["messages"][0]["content"] == expected
    told = translated_request(RESPONSES, OPENAI, {"input": [item]})["messages"][0]["content"]
    assert told == [{"type": "text", "text": "a.txt\n\nGrüße, 1"}]


@pytest.mark.parametrize("source", [OPENAI, RESPONSES])
def test_a_text_file_that_is_no_base64_is_refused_by_name(source: Dialect) -> None:
    data = {"filename": "a.txt", "file_data": "data:text/plain;base64,SGVsbG8"}
    chat = {"messages": [{"role": "user", "content": [{"type": "file", "file": data}]}]}
    responses = {"input": [{"role": "user", "content": [{"type": "input_file", **data}]}]}
    with pytest.raises(InvalidRequest, match="not base64") as refused:
        source.parse_request(json.dumps(chat if source is OPENAI else responses).encode())
    assert refused.value.param in {"messages[0].content[0].file", "input[0].content[0]"}


@pytest.mark.parametrize(
    ("said", "data", "told"),
    [
        ("image/jpg", "/9j/4AAQSkZJRg==", "image/jpeg"), ("image/png", "/9j/4AAQSkZJRg==", "image/jpeg"),
        ("", "R0lGODlhAQABAAAAACw=", "image/gif"), ("image/jpeg", "iVBORw0KGgoAAAA=", "image/png"),
        ("image/jpeg", "UklGRiQAAABXRUJQ", "image/webp"), ("image/jpeg", "AAAA", "image/jpeg"),
    ],
)  # fmt: skip
def test_an_image_has_the_type_that_it_is_of(said: str, data: str, told: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:{said};base64,{data}"}}
    (block,) = to_anthropic({"role": "user", "content": [image]})["messages"][0]["content"]
    assert block["source"] == {"type": "base64", "media_type": told, "data": data}


def test_thoughts_that_stand_among_the_parts_of_an_answer_are_thoughts() -> None:
    """As Mistral's models tell them."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm, "}, {"type": "text", "text": "well."}]}
    parts = [thought, {"type": "text", "text": "Yes"}, {"type": "reference", "reference_ids": [1]}]
    choice = {"index": 0, "message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}
    whole = json.dumps({"id": "i", "model": "m", "choices": [choice]}).encode()
    said = json.loads(translate_answer(OPENAI, ANTHROPIC, whole, now=1.0).body)["content"]
    assert [(block["type"], block.get("text") or block.get("thinking")) for block in said] == [
        ("thinking", "Hm, well."),
        ("text", "Yes"),
    ]
    history = {"messages": [USER, {"role": "assistant", "content": parts[:2]}, USER]}
    assert translated_request(OPENAI, ANTHROPIC, history)["messages"][1] == {"role": "assistant", "content": "Yes"}
    way = relay(OPENAI, ANTHROPIC, show_usage=True, now=1.0)
    pieces = [chunk({"content": [thought]}), chunk({"content": parts[1:]}), chunk({"content": "!"}, "stop")]
    out = b"".join(map(way.feed, pieces)) + way.close()
    assert [one["type"] for one in blocks_of(out)] == ["thinking", "text"]
    assert b'"thinking":"Hm, well."' in out
    assert way.finished


@pytest.mark.parametrize("target", [ANTHROPIC, RESPONSES])
def test_a_participants_name_is_dropped_by_name(target: Dialect) -> None:
    assert dropped(OPENAI, target, {"messages": [{**USER, "name": "ann"}]}) == ("messages.name",)
    assert dropped(OPENAI, OPENAI, {"messages": [{**USER, "name": "ann"}]}) == ()


@pytest.mark.parametrize(("mode", "told"), [("auto", "auto"), ("required", "any")])
def test_allowed_tools_are_the_only_ones_that_are_offered(mode: str, told: str) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g", "h")]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tools[0], tools[2]]}}
    body = to_anthropic(USER, tools=tools, tool_choice=choice)
    assert [tool["name"] for tool in body["tools"]] == ["f", "h"]
    assert body["tool_choice"] == {"type": told}


# -- streams ---------------------------------------------------------------------------------------------------------
def chunk(delta: dict[str, Any], reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: %b\n\n" % json.dumps({"id": "i", "model": "m", "created": 1, "choices": [choice], **fields}).encode()


def call_delta(index: int, arguments: str, **fields: Any) -> bytes:
    name = {"name": fields.pop("name")} if "name" in fields else {}
    return chunk({"tool_calls": [{"index": index, "function": {**name, "arguments": arguments}, **fields}]})


def blocks_of(stream: bytes) -> list[Any]:
    """What an Anthropic client builds of a stream; fails when two blocks are open at once."""
    blocks: list[Any] = []
    opened = None
    for event in stream.split(b"\n\n")[:-1]:
        data = json.loads(event.split(b"data: ", 1)[1])
        match data["type"]:
            case "content_block_start":
                assert opened is None
                assert data["index"] == len(blocks)
                opened = data["index"]
                blocks.append({**data["content_block"], "json": ""})
            case "content_block_delta":
                assert data["index"] == opened
                blocks[opened]["json"] += data["delta"].get("partial_json", "")
            case "content_block_stop":
                assert data["index"] == opened
                opened = None
    assert opened is None
    return blocks


def test_calls_whose_arguments_interleave_come_out_one_after_the_other_and_whole() -> None:
    stream = [
        call_delta(0, "", id="a", name="f"), call_delta(1, "", id="b", name="g"), call_delta(0, '{"x"'),
        call_delta(1, '{"y":'), call_delta(0, ":1}"), call_delta(1, "2}"), chunk({}, "tool_calls"), b"data: [DONE]\n\n",
    ]  # fmt: skip
    way = relay(OPENAI, ANTHROPIC, show_usage=True, now=1.0)
    blocks = blocks_of(b"".join(map(way.feed, stream)))
    assert [(one["id"], one["name"], one["json"]) for one in blocks] == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


def test_a_server_that_numbers_all_its_calls_0_is_understood() -> None:
    stream = [call_delta(0, "{}", id="a", name="f"), call_delta(0, '{"k":1}', id="b", name="g"), chunk({}, "stop")]
    way = relay(OPENAI, ANTHROPIC, show_usage=True, now=1.0)
    out = b"".join(map(way.feed, stream)) + way.close()
    assert [(one["name"], one["json"]) for one in blocks_of(out)] == [("f", "{}"), ("g", '{"k":1}')]
    assert b'"stop_reason":"tool_use"' in out
    assert way.finished


def bare_delta(**fields: Any) -> bytes:
    return chunk({"tool_calls": [fields]})


ODD_CALLS: list[tuple[str, list[bytes], list[tuple[str, str, str]]]] = [
    (
        "no index, and the id in every piece",
        [bare_delta(id="a", function={"name": "f", "arguments": '{"k"'}),
         bare_delta(id="a", function={"name": "f", "arguments": ":1}"}),
         bare_delta(id="b", function={"name": "g", "arguments": "{}"})],
        [("a", "f", '{"k":1}'), ("b", "g", "{}")],
    ),
    (
        "no index, and neither id nor name in later pieces",
        [bare_delta(id="a", function={"name": "f", "arguments": '{"k"'}), bare_delta(function={"arguments": ":1}"}),
         bare_delta(id="b", function={"name": "g", "arguments": ""}), bare_delta(function={"arguments": "{}"})],
        [("a", "f", '{"k":1}'), ("b", "g", "{}")],
    ),
    (
        "neither index nor ids",
        [bare_delta(function={"name": "f", "arguments": "{}"}), bare_delta(function={"name": "g", "arguments": "{}"})],
        [("call_i_0", "f", "{}"), ("call_i_1", "g", "{}")],
    ),
    (
        "the name after the id, and after a part of the arguments",
        [call_delta(0, "", id="a", name=""), call_delta(0, '{"k"', id="a"), call_delta(0, ":1}", id="a", name="f")],
        [("a", "f", '{"k":1}')],
    ),
    (
        "the second call begins under the first one's index, and goes on under its own",
        [call_delta(0, '{"k":1}', id="a", name="f"), call_delta(0, '{"k"', id="b", name="g"), call_delta(1, ":2}")],
        [("a", "f", '{"k":1}'), ("b", "g", '{"k":2}')],
    ),
    (
        "an index that grows with every piece",
        [call_delta(0, '{"k"', id="a", name="f"), call_delta(1, ":"), call_delta(2, "1}")],
        [("a", "f", '{"k":1}')],
    ),
    (
        "indices that begin late and leave gaps",
        [call_delta(1, "{}", id="a", name="f"), call_delta(4, '{"k"', id="b", name="g"), call_delta(4, ":1}")],
        [("a", "f", "{}"), ("b", "g", '{"k":1}')],
    ),
    (
        "two calls under one id",
        [call_delta(0, "{}", id="f", name="f"), call_delta(1, '{"k":1}', id="f", name="f")],
        [("f", "f", "{}"), ("f", "f", '{"k":1}')],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "calls"), [case[1:] for case in ODD_CALLS], ids=[case[0] for case in ODD_CALLS])
def test_pieces_of_calls_find_together_however_a_server_labels_them(
    stream: list[bytes], calls: list[tuple[str, str, str]]
) -> None:
    way = relay(OPENAI, ANTHROPIC, show_usage=True, now=1.0)
    out = b"".join(map(way.feed, [*stream, chunk({}, "tool_calls"), b"data: [DONE]\n\n"]))
    assert [(one["id"], one["name"], one["json"]) for one in blocks_of(out)] == calls


def test_arguments_that_are_told_as_an_object_are_its_text() -> None:
    """They neither cost the answer nor are they lost."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"b": [1, "ü"], "a": None}}}
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
    whole = json.dumps({"id": "i", "model": "m", "choices": [choice]}).encode()
    assert translate_answer(OPENAI, OPENAI, whole, now=1.0) == (whole, None, len('{"b":[1,"ü"],"a":null}'))
    (block,) = json.loads(translate_answer(OPENAI, ANTHROPIC, whole, now=1.0).body)["content"]
    assert block["input"] == {"b": [1, "ü"], "a": None}
    stream = [bare_delta(index=0, **call), chunk({}, "tool_calls"), b"data: [DONE]\n\n"]
    way = relay(OPENAI, ANTHROPIC, show_usage=True, now=1.0)
    assert [one["json"] for one in blocks_of(b"".join(map(way.feed, stream)))] == ['{"b":[1,"ü"],"a":null}']
    same = relay(OPENAI, OPENAI, show_usage=True, now=1.0)
    assert b"".join(map(same.feed, stream)) == b"".join(stream)
    history: list[dict[str, Any]] = [USER, {"role": "assistant", "tool_calls": [call]}]
    history.append({"role": "tool", "tool_call_id": "a", "content": "1"})
    assert to_anthropic(*history)["messages"][1]["content"][0]["input"] == {"b": [1, "ü"], "a": None}


def test_an_emoji_that_a_server_cut_in_two_costs_no_answer() -> None:
    """As servers do that count in UTF-16: bytes go on as they are, and half a pair is U+FFFD elsewhere."""
    halves = [chunk({"content": "Well \ud83d"}), chunk({"content": "\ude00 \\\\ud83d \U0001f600"}, "stop")]
    stream = b"".join([*halves, b"data: [DONE]\n\n"])
    assert rb"Well \ud83d" in stream
    same = relay(OPENAI, OPENAI, show_usage=True, now=1.0)
    assert same.feed(stream) == stream
    assert same.finished
    said = summary(OPENAI.stream_parser().feed(stream))
    assert said["text"] == "Well \ufffd\ufffd \\\\ud83d \U0001f600"
    whole = json.dumps({"choices": [{"message": {"content": "Well \ud83d"}, "finish_reason": "stop"}]}).encode()
    assert translate_answer(OPENAI, OPENAI, whole, now=1.0).body == whole
    assert json.loads(translate_answer(OPENAI, ANTHROPIC, whole, now=1.0).body)["content"][0]["text"] == "Well \ufffd"
    event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "\ud83d"}}
    messages = relay(ANTHROPIC, ANTHROPIC, show_usage=True, now=1.0)
    assert messages.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    event = {"type": "response.output_text.delta", "delta": "\ud83d"}
    responses = relay(RESPONSES, RESPONSES, show_usage=True, now=1.0)
    assert responses.feed(b"data: " + json.dumps(event).encode() + b"\n\n")


def test_a_call_that_never_gets_a_name_is_not_lost() -> None:
    parser = OPENAI.stream_parser()
    said = summary(parser.feed(call_delta(0, "{}", id="a") + chunk({}, "tool_calls") + b"data: [DONE]\n\n"))
    assert said["calls"] == {0: ["a", "", "{}"]}


def test_a_call_without_arguments_is_an_empty_object_for_an_openai_client() -> None:
    (cassette,) = [one for one in cassettes.STREAMS if one.name == "anthropic_messages_stream_tool_use"]
    parser = OPENAI.stream_parser()
    said = summary(parser.feed(relay(ANTHROPIC, OPENAI, show_usage=False, now=1.0).feed(cassette.body)))
    assert [call[2] for call in said["calls"].values()] == ["{}"]


def test_an_error_event_ends_the_translation_and_is_kept_from_the_client() -> None:
    way = relay(ANTHROPIC, OPENAI, show_usage=False, now=1.0)
    event = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    assert way.feed(event) == b""
    assert way.error is not None
    assert way.error.message == "Overloaded"


def test_usage_with_a_cache_is_told_in_each_dialects_own_arithmetic() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 80}}
    body = {"id": "i", "model": "m", "choices": [{"index": 0, "message": {"content": "x"}}], "usage": usage}
    answer = translate_answer(OPENAI, ANTHROPIC, json.dumps(body).encode(), now=1.0)
    shown = json.loads(answer.body)["usage"]
    assert (shown["input_tokens"], shown["cache_read_input_tokens"]) == (20, 80)
    back = json.loads(translate_answer(ANTHROPIC, OPENAI, answer.body, now=1.0).body)["usage"]
    assert (back["prompt_tokens"], back["prompt_tokens_details"]["cached_tokens"]) == (100, 80)
    assert answer.usage == Usage(input_tokens=100, cached_input_tokens=80, output_tokens=5)


@pytest.mark.parametrize("reason", list(StopReason))
def test_every_stop_reason_has_a_word_in_each_dialect(reason: StopReason) -> None:
    for dialect in (OPENAI, ANTHROPIC):
        events: list[StreamEvent] = [Started("i", "m", 1), TextDelta("x"), Finished(reason), Ended()]
        parser = dialect.stream_parser()
        said = summary(parser.feed(dialect.stream_renderer(show_usage=True).render(events)) + parser.close())
        assert said["text"] == "x"
        if dialect is ANTHROPIC:
            assert said["reason"] is reason


# -- anything at all -----------------------------------------------------------------------------------------------
texts = st.text(max_size=30)
arguments = st.dictionaries(texts, st.integers() | texts, max_size=3).map(json.dumps)


@st.composite
def streams(draw: st.DrawFn) -> list[StreamEvent]:
    events: list[StreamEvent] = [Started("i", "m", 1)]
    index = 0
    for kind in draw(st.lists(st.sampled_from(["text", "call"]), max_size=5)):
        if kind == "text":
            events.append(TextDelta(draw(texts.filter(bool))))
            continue
        events.append(ToolStarted(index, f"id{index}", draw(texts) or "f"))
        written = draw(arguments)
        cut = draw(st.integers(0, len(written)))
        events += [ToolDelta(index, piece) for piece in (written[:cut], written[cut:]) if piece]
        index += 1
    usage = Usage(input_tokens=draw(st.integers(0, 9)), output_tokens=draw(st.integers(0, 9)))
    reason = StopReason.TOOL_CALLS if index else draw(st.sampled_from([StopReason.END, StopReason.LENGTH]))
    return [*events, Finished(reason), UsageSeen(usage), Ended()]


@given(streams(), st.sampled_from([OPENAI, ANTHROPIC]), st.sampled_from([OPENAI, ANTHROPIC]), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_any_stream_survives_any_dialects_and_any_cuts(
    events: list[StreamEvent], source: Dialect, target: Dialect, step: int
) -> None:
    sent = source.stream_renderer(show_usage=True).render(events)
    way = relay(source, target, show_usage=True, now=1.0)
    there = b"".join(way.feed(sent[at : at + step]) for at in range(0, len(sent), step)) + way.close()
    parser = target.stream_parser()
    assert summary(parser.feed(there) + parser.close()) == summary(events)
    assert way.finished


@given(st.binary(max_size=300), st.sampled_from([OPENAI, ANTHROPIC]))
@settings(max_examples=200, deadline=None)
def test_bytes_of_any_kind_raise_nothing_but_what_is_announced(data: bytes, dialect: Dialect) -> None:
    other = ANTHROPIC if dialect is OPENAI else OPENAI
    for attempt in (
        lambda: dialect.parse_request(data),
        lambda: translate_answer(dialect, other, data, now=1.0),
        lambda: relay(dialect, other, show_usage=True, now=1.0).feed(b"data: " + data + b"\n\n"),
    ):
        with contextlib.suppress(InvalidRequest, UnreadableAnswer):
            attempt()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "id", "name", "function", "arguments", "input", "delta",
                         "index", "tool_calls", "messages", "choices", "message", "usage", "content_block", "error",
                         "finish_reason", "stop_reason", "model", "source", "data", "image_url", "url"]), inner,
        max_size=5), max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["messages", "content", "choices", "usage", "type", "delta"]), json_values))
@settings(max_examples=200, deadline=None)
def test_json_of_any_shape_raises_nothing_but_what_is_announced(value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    test_bytes_of_any_kind_raise_nothing_but_what_is_announced.hypothesis.inner_test(data, OPENAI)  # type: ignore[attr-defined]
    test_bytes_of_any_kind_raise_nothing_but_what_is_announced.hypothesis.inner_test(data, ANTHROPIC)  # type: ignore[attr-defined]


def test_a_client_of_functions_is_answered_in_its_words() -> None:
    """As the official package had it before there were `tools`: one call, whole and streamed, and its way back."""
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": "Look"}],
        "functions": [{"name": "look", "parameters": {"type": "object"}}],
        "function_call": {"name": "look"},
    }
    request = OPENAI.parse_request(json.dumps(asked).encode())
    sent = json.loads(ANTHROPIC.render_request(request, UpstreamModel("m")).body)
    assert sent["tool_choice"] == {"type": "tool", "name": "look", "disable_parallel_tool_use": True}
    calls = [{"type": "tool_use", "id": f"toolu_{number}", "name": "look", "input": {"n": number}} for number in (1, 2)]
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": calls,
               "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 4}}  # fmt: skip
    body = json.dumps(message).encode()
    answer = translate_answer(ANTHROPIC, OPENAI, body, now=1.0, asked=request)
    (choice,) = ChatCompletion.model_validate_json(answer.body).choices
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call is not None
    assert choice.message.function_call.name == "look"
    assert json.loads(choice.message.function_call.arguments) == {"n": 1}

    stream = relay(ANTHROPIC, OPENAI, show_usage=False, now=1.0, asked=request, is_whole=True)
    told = stream.feed(body) + stream.close()
    chunks = [ChatCompletionChunk.model_validate_json(line[6:]) for line in told.split(b"\n\n") if b"{" in line]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert not any(delta.tool_calls for delta in deltas)
    said = [delta.function_call for delta in deltas if delta.function_call is not None]
    assert "".join(one.name or "" for one in said) == "look"
    assert json.loads("".join(one.arguments or "" for one in said)) == {"n": 1}
    assert chunks[-1].choices[0].finish_reason == "function_call"

    back = [
        *asked["messages"],
        {"role": "assistant", "content": None, "function_call": choice.message.function_call.model_dump()},
        {"role": "function", "name": "look", "content": "A cat"},
    ]
    again = translated_request(OPENAI, ANTHROPIC, {**asked, "messages": back})
    use, result = again["messages"][1]["content"][-1], again["messages"][2]["content"][0]
    assert (use["type"], result["type"], use["id"]) == ("tool_use", "tool_result", result["tool_use_id"])


def test_a_client_of_tools_is_answered_by_tool_calls_whatever_functions_it_names_beside() -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    asked = {"model": "m", "messages": [], "tools": [tool], "functions": [{"name": "old"}]}
    assert OPENAI.parse_request(json.dumps(asked).encode()).echo is None
