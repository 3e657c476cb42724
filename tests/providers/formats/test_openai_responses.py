"""What only Responses has, on its way to providers that speak something else and back."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from providers.formats.canonical import (
    ChatResponse,
    Ended,
    Finished,
    PartEnded,
    Started,
    StopReason,
    StreamEvent,
    Text,
    ToolCall,
    ToolDelta,
    ToolStarted,
)
from providers.formats.dialect import Rendered, UpstreamModel, Usage
from providers.formats.errors import InvalidRequest
from providers.formats.openai_responses import call_id, flat_name
from providers.formats.registry import DIALECTS, relay, translate_answer
from providers.formats.sse import Framer
from tests.support import cassettes
from tests.support.canonical import CHAT, MESSAGES, RESPONSES
from tests.support.cassettes import AgentRequest

CLIENT: Final = DIALECTS[RESPONSES]
PIXEL: Final = "data:image/png;base64,AAEC"
PDF: Final = "data:application/pdf;base64,JVBE"
FUNCTION: Final = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
CUSTOM: Final = {"type": "custom", "name": "patch", "description": "Patches", "format": {
    "type": "grammar", "syntax": "lark", "definition": "start: WORD"}}  # fmt: skip
NAMESPACE: Final = {"type": "namespace", "name": "agents.v1", "tools": [
    {"type": "function", "name": "wait", "parameters": {"type": "object"}},
    {"type": "custom", "name": "say"}]}  # fmt: skip
USER: Final = {"role": "user", "content": "Hi"}


def body_of(*items: Any, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": list(items) or [USER], **fields}).encode()


def rendered(target: str, *items: Any, model: str = "some-model", **fields: Any) -> Rendered:
    return DIALECTS[target].render_request(CLIENT.parse_request(body_of(*items, **fields)), UpstreamModel(model))


def to(target: str, *items: Any, **fields: Any) -> Any:
    return json.loads(rendered(target, *items, **fields).body)


# -- tools that nobody else has --------------------------------------------------------------------------------------
def test_a_tool_that_takes_free_text_becomes_a_function_of_one_text() -> None:
    (tool,) = to(CHAT, tools=[CUSTOM])["tools"]
    assert tool["function"]["name"] == "patch"
    assert tool["function"]["parameters"]["required"] == ["input"]
    assert "lark" in tool["function"]["description"]
    assert "start: WORD" in tool["function"]["description"]


def test_names_in_a_namespace_are_flattened_to_letters_that_everybody_takes() -> None:
    names = [tool["name"] for tool in to(MESSAGES, tools=[NAMESPACE, FUNCTION])["tools"]]
    assert names == ["agents_v1__wait", "agents_v1__say", "f"]


def test_a_long_flat_name_is_cut_and_stays_one_of_a_kind() -> None:
    first, second = flat_name("a" * 70 + "1", "n"), flat_name("a" * 70 + "2", "n")
    assert len(first) == len(second) == 64
    assert first != second
    assert first == flat_name("a" * 70 + "1", "n")


def answered(upstream: str, parts: tuple[Any, ...], *, is_stream: bool, **asked: Any) -> list[dict[str, Any]]:
    """The output items that the client gets."""
    request = CLIENT.parse_request(body_of(**asked))
    answer = ChatResponse("i", "m", parts, StopReason.TOOL_CALLS, Usage(1, 0, 0, 1), created=1)
    if not is_stream:
        body = DIALECTS[upstream].render_response(answer)
        shown = json.loads(translate_answer(DIALECTS[upstream], CLIENT, body, now=1.0, asked=request).body)
        return list(shown["output"])
    events: list[StreamEvent] = [Started("i", "m", 1)]
    for number, part in enumerate(parts):
        half = len(part.arguments) // 2
        events += [ToolStarted(number, part.id, part.name), ToolDelta(number, part.arguments[:half])]
        events += [ToolDelta(number, part.arguments[half:]), PartEnded()]
    events += [Finished(StopReason.TOOL_CALLS), Ended()]
    way = relay(DIALECTS[upstream], CLIENT, show_usage=True, now=1.0, asked=request)
    stream = way.feed(DIALECTS[upstream].stream_renderer(show_usage=True).render(events)) + way.close()
    shown = [json.loads(frame.data) for frame in Framer().feed(stream)]
    assert [event["sequence_number"] for event in shown] == list(range(len(shown)))
    items = list(shown[-1]["response"]["output"])
    assert [event["item"] for event in shown if event["type"] == "response.output_item.done"] == items
    return items


CALLS: Final = (
    ToolCall("c1", "patch", '{"input": "*** Begin\\n+moon"}'),
    ToolCall("c2", "agents_v1__wait", '{"x": 1}'),
    ToolCall("c3", "agents_v1__say", '{"input": "hi"}'),
    ToolCall("c4", "f", "{}"),
)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("upstream", [CHAT, MESSAGES])
def test_calls_come_back_under_the_names_and_in_the_shapes_that_the_client_knows(
    upstream: str, is_stream: bool
) -> None:
    items = answered(upstream, CALLS, is_stream=is_stream, tools=[CUSTOM, NAMESPACE, FUNCTION])
    for item in items:
        assert item.pop("id")
        assert item.pop("status") == "completed"
    assert items == [
        {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** Begin\n+moon"},
        {"type": "function_call", "call_id": "c2", "name": "wait", "arguments": '{"x": 1}', "namespace": "agents.v1"},
        {"type": "custom_tool_call", "call_id": "c3", "name": "say", "input": "hi", "namespace": "agents.v1"},
        {"type": "function_call", "call_id": "c4", "name": "f", "arguments": "{}"},
    ]


@pytest.mark.parametrize("arguments", ['"just text"', '{"other": 1}', '{"input": 5}', '{"input": "cut'])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_model_that_does_not_keep_to_the_one_text_is_passed_on_as_it_wrote(arguments: str, is_stream: bool) -> None:
    (item,) = answered(CHAT, (ToolCall("c", "patch", arguments),), is_stream=is_stream, tools=[CUSTOM])
    assert item["input"] == arguments


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_call_of_a_tool_that_nobody_offered_keeps_its_name(is_stream: bool) -> None:
    (item,) = answered(CHAT, (ToolCall("c", "agents_v1__wait", "{}"),), is_stream=is_stream, tools=[FUNCTION])
    assert (item["type"], item["name"]) == ("function_call", "agents_v1__wait")
    assert "namespace" not in item


def test_calls_of_such_tools_in_the_history_are_said_as_the_model_said_them() -> None:
    history = [
        USER,
        {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "a\nb"},
        {"type": "function_call", "call_id": "c2", "name": "wait", "namespace": "agents.v1", "arguments": "{}"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
        {"type": "function_call_output", "call_id": "c2", "output": "waited"},
    ]
    _, said, first, second = to(CHAT, *history)["messages"]
    assert [(call["id"], call["function"]) for call in said["tool_calls"]] == [
        ("c1", {"name": "patch", "arguments": '{"input":"a\\nb"}'}),
        ("c2", {"name": "agents_v1__wait", "arguments": "{}"}),
    ]
    assert [first["content"], second["content"]] == ["done", "waited"]


def test_a_tool_may_be_forced_by_its_name_in_a_namespace() -> None:
    choice = {"type": "function", "name": "wait", "namespace": "agents.v1"}
    body = to(CHAT, tools=[NAMESPACE], tool_choice=choice)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "agents_v1__wait"}}
    custom = to(MESSAGES, tools=[CUSTOM], tool_choice={"type": "custom", "name": "patch"})
    assert custom["tool_choice"] == {"type": "tool", "name": "patch"}


@pytest.mark.parametrize(("mode", "expected"), [("auto", "auto"), ("required", "required"), (None, "auto")])
def test_of_all_tools_the_allowed_ones_go_along(mode: str | None, expected: str) -> None:
    allowed = [{"type": "function", "name": "f"}, {"type": "function", "name": "wait", "namespace": "agents.v1"}]
    choice = {"type": "allowed_tools", "mode": mode, "tools": allowed}
    body = to(CHAT, tools=[FUNCTION, CUSTOM, NAMESPACE], tool_choice=choice)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f", "agents_v1__wait"]
    assert body["tool_choice"] == expected


def test_an_answer_repeats_the_tools_as_the_client_gave_them() -> None:
    asked = CLIENT.parse_request(body_of(tools=[CUSTOM, NAMESPACE], tool_choice="auto"))
    answer = ChatResponse("i", "m", (Text("x"),), StopReason.END, None)
    assert json.loads(CLIENT.render_response(answer, asked))["tools"] == [CUSTOM, NAMESPACE]


@pytest.mark.parametrize("agent", [one for one in cassettes.AGENT_REQUESTS if one.dialect == RESPONSES],
                         ids=lambda one: one.name)  # fmt: skip
@pytest.mark.parametrize("is_stream", [False, True])
def test_every_tool_of_codex_is_called_back_as_codex_named_it(agent: AgentRequest, is_stream: bool) -> None:
    known: list[tuple[str, str, str]] = []
    for tool in agent.json["tools"]:
        if tool["type"] == "namespace":
            known += [(one["type"], one["name"], tool["name"]) for one in tool["tools"]]
        elif tool["type"] in {"function", "custom"}:
            known.append((tool["type"], tool["name"], ""))
    request = CLIENT.parse_request(agent.body)
    assert len(request.tools) == len(known) > 3
    calls = tuple(ToolCall(f"c{number}", tool.name, "{}") for number, tool in enumerate(request.tools))
    items = answered(MESSAGES, calls, is_stream=is_stream, tools=agent.json["tools"])
    kinds = {"function_call": "function", "custom_tool_call": "custom"}
    assert [(kinds[item["type"]], item["name"], item.get("namespace", "")) for item in items] == known


# -- what is refused or left out -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
        ("background", True),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
def test_what_needs_a_provider_that_stores_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name) as refused:
        CLIENT.parse_request(body_of(**{name: value}))
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "background", "prompt"])
def test_what_is_null_or_false_asks_for_nothing(name: str) -> None:
    CLIENT.parse_request(body_of(**{name: False if name == "background" else None}))


def test_a_native_provider_gets_them_all() -> None:
    body = body_of(previous_response_id="resp_1", background=True)
    assert CLIENT.for_upstream(CLIENT.read_envelope(body), "m").body == body


def test_a_reference_to_a_stored_item_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        CLIENT.parse_request(body_of(USER, {"type": "item_reference", "id": "msg_1"}))
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "input[1]")


@pytest.mark.parametrize("part", [{"type": "input_image", "file_id": "f"}, {"type": "input_file", "file_id": "f"}])
def test_a_stored_file_is_refused_by_its_place(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        CLIENT.parse_request(body_of({"role": "user", "content": [{"type": "input_text", "text": "x"}, part]}))
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "input[0].content[1]")


def test_items_tools_and_includes_that_nobody_else_knows_are_named() -> None:
    body = rendered(
        CHAT,
        USER,
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "brand_new_item"},
        tools=[FUNCTION, {"type": "web_search"}],
        include=["reasoning.encrypted_content", "web_search_call.action.sources"],
        max_tool_calls=3,
        truncation="auto",
    )
    assert set(body.dropped) == {
        "input.web_search_call", "input.brand_new_item", "tools.web_search", "include.web_search_call.action.sources",
        "max_tool_calls", "truncation",
    }  # fmt: skip


def test_what_changes_no_answer_is_left_out_without_a_word() -> None:
    quiet: dict[str, Any] = {"store": True, "truncation": "disabled", "service_tier": "auto", "metadata": {"a": "b"},
             "prompt_cache_key": "k", "include": ["reasoning.encrypted_content"]}  # fmt: skip
    assert rendered(CHAT, **quiet).dropped == ()


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"role": "nobody", "content": "x"}, "input[0].role"),
        ({"type": "function_call", "call_id": "c", "arguments": "{}"}, "input[0].name"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "input[0].content[0]"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_field(item: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        CLIENT.parse_request(body_of(item))
    assert refused.value.param == field


# -- ids -------------------------------------------------------------------------------------------------------------
def test_an_id_that_is_too_long_is_shortened_alike_in_call_and_result() -> None:
    long = "call_" + "x" * 100
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [
            {"id": long, "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": long, "content": "r"},
    ]  # fmt: skip
    request = DIALECTS[CHAT].parse_request(json.dumps({"model": "m", "messages": messages}).encode())
    _, call, result = json.loads(CLIENT.render_request(request, UpstreamModel("m")).body)["input"]
    assert call["call_id"] == result["call_id"] == call_id(long)
    assert len(call["call_id"]) <= 64
    assert call_id("x" * 64) == "x" * 64


# -- files and images ------------------------------------------------------------------------------------------------
def with_output(output: Any) -> list[dict[str, Any]]:
    return [
        USER,
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": output},
    ]


MEDIA: Final = [
    {"type": "input_text", "text": "See"},
    {"type": "input_image", "image_url": PIXEL, "detail": "original"},
    {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
]


def test_images_and_files_of_a_tool_stand_in_its_result_for_anthropic() -> None:
    (result,) = to(MESSAGES, *with_output(MEDIA))["messages"][-1]["content"]
    assert [block["type"] for block in result["content"]] == ["text", "image", "document"]
    assert result["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "AAEC"}
    assert result["content"][2]["source"]["data"] == "JVBE"


def test_images_and_files_of_a_tool_follow_its_result_in_chat() -> None:
    *_, result, beside = to(CHAT, *with_output(MEDIA))["messages"]
    assert (result["role"], result["content"]) == ("tool", "See")
    assert beside["role"] == "user"
    assert [part["type"] for part in beside["content"]] == ["text", "image_url", "file"]
    assert beside["content"][1]["image_url"] == {"url": PIXEL}  # `original` is no detail there
    assert beside["content"][2]["file"] == {"filename": "a.pdf", "file_data": PDF}


def test_images_and_files_of_a_tool_are_kept_for_another_provider_of_responses() -> None:
    body = to(RESPONSES, *with_output(MEDIA))
    assert body["input"][-1]["output"] == MEDIA


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("plain", "plain"), ("", ""), (None, ""), ({"a": 1}, '{"a": 1}'), ([1, 2], "[1, 2]"), (5, "5"),
        ([{"type": "input_text", "text": "a"}], "a"), ([{"type": "output_text", "text": "a"}], "a"),
    ],
)  # fmt: skip
def test_an_output_of_any_shape_is_told_as_text(output: Any, text: str) -> None:
    assert to(CHAT, *with_output(output))["messages"][-1] == {"role": "tool", "tool_call_id": "c", "content": text}


def test_what_a_user_sent_keeps_its_bytes() -> None:
    content = to(CHAT, {"role": "user", "content": MEDIA})["messages"][0]["content"]
    assert content[1]["image_url"]["url"] == PIXEL
    assert content[2]["file"]["file_data"] == PDF


# -- turns -----------------------------------------------------------------------------------------------------------
def test_instructions_and_developer_messages_are_the_systems() -> None:
    body = to(MESSAGES, {"role": "developer", "content": "B"}, USER, instructions="A")
    assert [block["text"] for block in body["system"]] == ["A", "B"]
    chat = to(CHAT, {"role": "developer", "content": "B"}, USER, instructions="A")["messages"]
    assert [(one["role"], one["content"]) for one in chat] == [("system", "A"), ("system", "B"), ("user", "Hi")]


def test_what_the_model_said_in_one_turn_is_one_message() -> None:
    items = [
        USER,
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": "2"},
    ]
    messages = to(CHAT, *items)["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "tool"]
    assert len(messages[1]["tool_calls"]) == 2


def test_a_text_alone_is_the_users() -> None:
    request = CLIENT.parse_request(json.dumps({"model": "m", "input": "Hi"}).encode())
    body = json.loads(DIALECTS[CHAT].render_request(request, UpstreamModel("m")).body)
    assert body["messages"] == [{"role": "user", "content": "Hi"}]


def test_nothing_is_stored_and_encrypted_reasoning_is_asked_for() -> None:
    request = DIALECTS[CHAT].parse_request(json.dumps({"model": "m", "messages": [USER]}).encode())
    body = json.loads(CLIENT.render_request(request, UpstreamModel("gpt-5.5")).body)
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]


def test_a_schema_that_is_not_strict_says_so() -> None:
    """Left out, it would be strict there."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = json.dumps({"model": "m", "messages": [USER], "tools": tools}).encode()
    request = DIALECTS[CHAT].parse_request(body)
    assert json.loads(CLIENT.render_request(request, UpstreamModel("m")).body)["tools"][0]["strict"] is False
