"""What each family of models is told of thinking, of the shape of its answer and of sampling; what must be left out is
named."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from providers.formats.canonical import StreamEvent
from providers.formats.dialect import Rendered, UpstreamModel
from providers.formats.reasoning import budget_of, effort_of
from providers.formats.registry import DIALECTS, relay, translate_answer
from tests.support.canonical import CHAT, MESSAGES, RESPONSES, said, said_whole

USER: Final = {"role": "user", "content": "Hi"}
TOOLS: Final = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
FORCED: Final = {"type": "function", "function": {"name": "f"}}
SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WANTED: Final = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
ADAPTIVE: Final = [
    "claude-opus-4-6", "claude-sonnet-4-6", "claude-opus-4-7", "anthropic/claude-sonnet-5", "claude-x-10",
]  # fmt: skip
BUDGETED: Final = [
    "claude-haiku-4-5", "claude-sonnet-4-5-20250929", "claude-opus-4-20250514", "claude-opus-4-1", "claude-3-7-sonnet",
]  # fmt: skip
SILENT: Final = ["claude-3-5-sonnet-20241022", "claude-3-haiku-20240307", "claude-2.1"]
BY_TOOL = Rendered(b"", output_tool="thing")


def rendered(source: str, target: str, body: dict[str, Any], model: UpstreamModel) -> Rendered:
    request = DIALECTS[source].parse_request(json.dumps({"model": "m", **body}).encode())
    return DIALECTS[target].render_request(request, model)


def from_chat(target: str, model: str | UpstreamModel, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    named = UpstreamModel(model) if isinstance(model, str) else model
    result = rendered(CHAT, target, {"messages": [USER], **fields}, named)
    return json.loads(result.body), result.dropped


def from_messages(target: str, model: str, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    result = rendered(MESSAGES, target, {"messages": [USER], "max_tokens": 64_000, **fields}, UpstreamModel(model))
    return json.loads(result.body), result.dropped


# -- efforts and budgets ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("effort", "budget"),
    [("minimal", 1024), ("low", 2048), ("medium", 8192), ("high", 16_384), ("xhigh", 32_768), ("max", 65_536)],
)
@pytest.mark.parametrize("model", BUDGETED)
def test_an_effort_is_a_budget_to_a_claude_that_takes_one(model: str, effort: str, budget: int) -> None:
    body, dropped = from_chat(MESSAGES, model, reasoning_effort=effort, max_tokens=100_000)
    assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert body["max_tokens"] == 100_000
    assert "output_config" not in body
    assert dropped == ()


@pytest.mark.parametrize(
    ("effort", "word"), [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("max", "max")]
)
@pytest.mark.parametrize("model", ADAPTIVE)
def test_an_effort_stays_one_to_a_claude_that_adapts(model: str, effort: str, word: str) -> None:
    body, dropped = from_chat(MESSAGES, model, reasoning_effort=effort)
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": word})
    assert dropped == ()


@pytest.mark.parametrize("model", SILENT)
def test_a_claude_that_does_not_think_is_not_asked_to(model: str) -> None:
    body, dropped = from_chat(MESSAGES, model, reasoning_effort="high")
    assert not {"thinking", "output_config"} & body.keys()
    assert dropped == ("reasoning_effort",)


@pytest.mark.parametrize("model", [ADAPTIVE[0], BUDGETED[0]])
def test_no_thinking_is_said_so(model: str) -> None:
    body, dropped = from_chat(MESSAGES, model, reasoning_effort="none")
    assert body["thinking"] == {"type": "disabled"}
    assert dropped == ()


@pytest.mark.parametrize("model", [*ADAPTIVE, *BUDGETED, *SILENT])
def test_who_asks_for_nothing_gets_nothing(model: str) -> None:
    body, _ = from_chat(MESSAGES, model)
    assert not {"thinking", "output_config"} & body.keys()


@pytest.mark.parametrize(("budget", "effort"), [(1024, "low"), (4096, "low"), (8192, "medium"), (16_384, "high")])
@pytest.mark.parametrize("target", [CHAT, RESPONSES])
def test_a_budget_is_an_effort_to_openai(target: str, budget: int, effort: str) -> None:
    thinking = {"type": "enabled", "budget_tokens": budget}
    body, dropped = from_messages(target, "gpt-5.5", thinking=thinking)
    assert (body["reasoning_effort"] if target == CHAT else body["reasoning"]["effort"]) == effort
    assert dropped == ()


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_an_effort_there_and_back_is_the_same(effort: str) -> None:
    assert effort_of(budget_of(effort)) == effort


@pytest.mark.parametrize(
    ("model", "effort", "word"),
    [
        ("gpt-5", "xhigh", "high"), ("gpt-5.1", "max", "high"), ("gpt-5.5", "xhigh", "xhigh"),
        ("gpt-5.5", "max", "xhigh"), ("gpt-5.1-codex-max", "xhigh", "xhigh"), ("o3", "max", "high"),
        ("openai/gpt-5.5", "none", "none"), ("some-model", "max", "xhigh"), ("gpt-6", "xhigh", "xhigh"),
    ],
)  # fmt: skip
def test_the_highest_efforts_go_as_far_as_the_model_knows_them(model: str, effort: str, word: str) -> None:
    assert from_chat(CHAT, model, reasoning_effort=effort)[0]["reasoning_effort"] == word


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "openai/gpt-4o", "chatgpt-4o-latest", "gpt-3.5-turbo"])
@pytest.mark.parametrize("target", [CHAT, RESPONSES])
def test_a_gpt_that_does_not_think_is_not_asked_to(target: str, model: str) -> None:
    body, dropped = from_chat(target, model, reasoning_effort="low")
    assert not {"reasoning", "reasoning_effort"} & body.keys()
    assert dropped == ("reasoning_effort",)
    assert from_chat(target, model, reasoning_effort="none")[1] == ()


def test_what_the_operator_declared_counts_before_the_name() -> None:
    thinks = UpstreamModel("gpt-4o", abilities=frozenset({"reasoning"}))
    silent = UpstreamModel("claude-opus-4-6", abilities=frozenset({"tools"}))
    assert from_chat(CHAT, thinks, reasoning_effort="low")[0]["reasoning_effort"] == "low"
    body, dropped = from_chat(MESSAGES, silent, reasoning_effort="low")
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ({"thinking": {"type": "adaptive"}}, "thinking"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
    ],
)
def test_what_is_left_out_has_the_clients_own_name(fields: dict[str, Any], name: str) -> None:
    assert from_messages(CHAT, "gpt-4o", **fields)[1] == (name,)


def test_a_wish_to_see_the_thoughts_goes_along() -> None:
    body, _ = from_messages(RESPONSES, "gpt-5.5", thinking={"type": "adaptive", "display": "summarized"},
                            output_config={"effort": "low"})  # fmt: skip
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    asked = {"input": "Hi", "reasoning": {"effort": "low", "summary": "auto"}}
    back = json.loads(rendered(RESPONSES, MESSAGES, asked, UpstreamModel("claude-opus-4-6")).body)
    assert back["thinking"] == {"type": "adaptive", "display": "summarized"}


# -- within a limit --------------------------------------------------------------------------------------------------
def test_a_budget_leaves_a_fifth_of_the_limit_to_the_answer() -> None:
    body, dropped = from_chat(MESSAGES, "claude-haiku-4-5", reasoning_effort="high", max_tokens=10_000)
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (10_000, 8000)
    assert dropped == ()


@pytest.mark.parametrize(("limit", "thinks"), [(1024, False), (1025, True), (16, False)])
def test_a_limit_that_is_too_small_for_any_thought_leaves_it_out(limit: int, thinks: bool) -> None:
    body, dropped = from_chat(MESSAGES, "claude-haiku-4-5", reasoning_effort="low", max_tokens=limit)
    assert ("thinking" in body) is thinks
    assert dropped == (() if thinks else ("reasoning_effort",))
    if thinks:
        assert body["thinking"]["budget_tokens"] == 1024 < body["max_tokens"]


def test_where_no_limit_was_asked_for_the_thoughts_come_on_top() -> None:
    body, _ = from_chat(MESSAGES, "claude-haiku-4-5", reasoning_effort="medium")
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (4096 + 8192, 8192)
    limited = UpstreamModel("claude-haiku-4-5", max_output_tokens=9000)
    body, _ = from_chat(MESSAGES, limited, reasoning_effort="medium")
    assert (body["max_tokens"], body["thinking"]["budget_tokens"]) == (9000, 7200)


# -- beside tools ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("choice", [FORCED, "required"])
@pytest.mark.parametrize("model", [ADAPTIVE[0], BUDGETED[0]])
def test_a_call_is_forced_without_thinking(model: str, choice: Any) -> None:
    body, dropped = from_chat(MESSAGES, model, reasoning_effort="low", tools=TOOLS, tool_choice=choice)
    assert "thinking" not in body
    assert body["tool_choice"]["type"] in {"tool", "any"}
    assert dropped == ("reasoning_effort",)


@pytest.mark.parametrize("choice", ["auto", "none"])
@pytest.mark.parametrize("model", [ADAPTIVE[0], BUDGETED[0]])
def test_a_call_that_is_free_goes_with_thinking(model: str, choice: str) -> None:
    body, dropped = from_chat(MESSAGES, model, reasoning_effort="low", tools=TOOLS, tool_choice=choice, max_tokens=9000)
    assert "thinking" in body
    assert dropped == ()


def amid_a_turn(model: str, **said_fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [USER, {"role": "assistant", "tool_calls": [call], **said_fields},
                {"role": "tool", "tool_call_id": "c", "content": "r"}]  # fmt: skip
    return from_chat(MESSAGES, model, messages=messages, tools=TOOLS, reasoning_effort="low", max_tokens=9000)


def test_a_turn_that_began_without_thinking_goes_on_without() -> None:
    body, dropped = amid_a_turn(BUDGETED[0])
    assert "thinking" not in body
    assert dropped == ("reasoning_effort",)
    body, dropped = amid_a_turn(ADAPTIVE[0])
    assert body["thinking"] == {"type": "adaptive"}
    assert dropped == ()


def test_a_turn_that_began_with_thinking_goes_on_with_it() -> None:
    body, dropped = amid_a_turn(BUDGETED[0], thinking_blocks=[{"type": "thinking", "thinking": "t", "signature": "s"}])
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "t", "signature": "s"}
    assert body["thinking"]["type"] == "enabled"
    assert dropped == ()


# -- the shape of an answer ------------------------------------------------------------------------------------------
def shape(model: str, **fields: Any) -> tuple[dict[str, Any], Rendered]:
    result = rendered(CHAT, MESSAGES, {"messages": [USER], "max_tokens": 9000, **fields}, UpstreamModel(model))
    return json.loads(result.body), result


def test_an_answer_of_a_shape_is_the_arguments_of_a_forced_tool() -> None:
    body, result = shape("claude-haiku-4-5", response_format=WANTED)
    assert result.output_tool == "thing"
    assert body["tool_choice"] == {"type": "tool", "name": "thing", "disable_parallel_tool_use": True}
    assert [(tool["name"], tool["input_schema"]) for tool in body["tools"]] == [("thing", SCHEMA)]


def test_any_json_is_any_object() -> None:
    body, result = shape("claude-haiku-4-5", response_format={"type": "json_object"})
    assert body["tools"][0]["input_schema"] == {"type": "object"}
    assert result.output_tool == body["tools"][0]["name"] == "output"


def test_beside_other_tools_one_of_them_must_be_called() -> None:
    body, result = shape("claude-haiku-4-5", response_format=WANTED, tools=TOOLS)
    assert [tool["name"] for tool in body["tools"]] == ["f", "thing"]
    assert body["tool_choice"]["type"] == "any"
    assert result.output_tool == "thing"


def test_where_no_tool_may_be_called_the_answer_is_still_of_its_shape() -> None:
    body, _ = shape("claude-haiku-4-5", response_format=WANTED, tools=TOOLS, tool_choice="none")
    assert body["tool_choice"]["name"] == "thing"


def test_where_another_tool_is_forced_its_call_is_the_answer() -> None:
    body, result = shape("claude-haiku-4-5", response_format=WANTED, tools=TOOLS, tool_choice=FORCED)
    assert body["tool_choice"]["name"] == "f"
    assert result.output_tool == ""


def test_the_tool_for_the_answer_takes_no_other_tools_name() -> None:
    tools = [{"type": "function", "function": {"name": "thing"}}]
    body, result = shape("claude-haiku-4-5", response_format=WANTED, tools=tools)
    assert [tool["name"] for tool in body["tools"]] == ["thing", "thing_"]
    assert result.output_tool == "thing_"


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-haiku-4-5", "claude-opus-4-1"])
def test_a_model_that_thinks_gives_the_shape_by_itself(model: str) -> None:
    body, result = shape(model, response_format=WANTED, reasoning_effort="low")
    assert body["output_config"]["format"] == {"type": "json_schema", "schema": SCHEMA}
    assert "thinking" in body
    assert (result.output_tool, result.dropped) == ("", ())
    assert "tools" not in body


@pytest.mark.parametrize(
    ("model", "wanted"), [("claude-opus-4-6", {"type": "json_object"}), ("claude-3-7-sonnet", WANTED)]
)
def test_where_it_cannot_the_shape_counts_before_the_thoughts(model: str, wanted: Any) -> None:
    body, result = shape(model, response_format=wanted, reasoning_effort="low")
    assert "thinking" not in body
    assert result.output_tool
    assert result.dropped == ("reasoning_effort",)


def message(*blocks: dict[str, Any], reason: str = "tool_use") -> bytes:
    usage = {"input_tokens": 1, "output_tokens": 2}
    shown = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": list(blocks)}
    return json.dumps({**shown, "stop_reason": reason, "stop_sequence": None, "usage": usage}).encode()


def streamed(*blocks: dict[str, Any], reason: str = "tool_use") -> bytes:
    """As Anthropic streams such blocks, the arguments of a tool in pieces."""
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        at = {"index": index}
        if block["type"] == "text":
            events.append({"type": "content_block_start", **at, "content_block": {"type": "text", "text": ""}})
            events.append({"type": "content_block_delta", **at, "delta": {"type": "text_delta", "text": block["text"]}})
        else:
            events.append({"type": "content_block_start", **at, "content_block": {**block, "input": {}}})
            text = json.dumps(block["input"])
            for piece in (text[:3], text[3:]):
                delta = {"type": "input_json_delta", "partial_json": piece}
                events.append({"type": "content_block_delta", **at, "delta": delta})
        events.append({"type": "content_block_stop", **at})
    events.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 2}})
    events.append({"type": "message_stop"})
    return b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in events)


TALK: Final = {"type": "text", "text": "Here it is:"}
OUTPUT: Final = {"type": "tool_use", "id": "t", "name": "thing", "input": {"a": 1}}
CALL: Final = {"type": "tool_use", "id": "c", "name": "f", "input": {"b": 2}}


def heard(
    client: str, *blocks: dict[str, Any], is_stream: bool, reason: str = "tool_use"
) -> tuple[str, list[Any], str]:
    """Text, calls and stop reason as a client gets them."""
    parser = DIALECTS[client].stream_parser()
    if is_stream:
        way = relay(DIALECTS[MESSAGES], DIALECTS[client], show_usage=True, now=1.0, rendered=BY_TOOL)
        sent = b"".join(way.feed(one + b"\n\n") for one in streamed(*blocks, reason=reason).split(b"\n\n")[:-1])
        events: list[StreamEvent] = [*parser.feed(sent + way.close()), *parser.close()]
        one = said(events)
        return one.text, one.calls, str(one.reason)
    answer = translate_answer(
        DIALECTS[MESSAGES], DIALECTS[client], message(*blocks, reason=reason), now=1.0, rendered=BY_TOOL
    )
    whole = DIALECTS[client].parse_response(answer.body)
    one = said_whole(whole)
    return one.text, one.calls, str(one.reason)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("client", [CHAT, RESPONSES])
def test_the_arguments_of_the_tool_are_the_answers_text(client: str, is_stream: bool) -> None:
    assert heard(client, OUTPUT, is_stream=is_stream) == ('{"a": 1}', [], "end")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("client", [CHAT, RESPONSES])
def test_what_the_model_says_besides_is_no_part_of_an_answer_of_a_shape(client: str, is_stream: bool) -> None:
    assert heard(client, TALK, OUTPUT, is_stream=is_stream) == ('{"a": 1}', [], "end")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("client", [CHAT, RESPONSES])
def test_a_call_of_another_tool_is_a_call(client: str, is_stream: bool) -> None:
    text, calls, reason = heard(client, TALK, CALL, is_stream=is_stream)
    assert (text, calls, reason) == ("Here it is:", [["c", "f", '{"b": 2}']], "tool_calls")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("client", [CHAT, RESPONSES])
def test_a_model_that_does_not_call_the_tool_is_heard_nevertheless(client: str, is_stream: bool) -> None:
    assert heard(client, TALK, is_stream=is_stream, reason="end_turn") == ("Here it is:", [], "end")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("client", [CHAT, RESPONSES])
def test_an_answer_of_a_shape_that_was_cut_says_so(client: str, is_stream: bool) -> None:
    assert heard(client, OUTPUT, is_stream=is_stream, reason="max_tokens")[2] == "length"


# -- sampling --------------------------------------------------------------------------------------------------------
def test_a_claude_that_thinks_samples_in_its_own_way() -> None:
    body, dropped = from_chat(
        MESSAGES, "claude-haiku-4-5", reasoning_effort="low", temperature=0.2, max_tokens=9000, top_p=1
    )
    assert "temperature" not in body
    assert dropped == ("temperature",)


def test_a_late_claude_takes_one_of_temperature_and_top_p() -> None:
    body, dropped = from_chat(MESSAGES, "claude-opus-4-6", temperature=0.2, top_p=0.5)
    assert (body["temperature"], "top_p" in body, dropped) == (0.2, False, ("top_p",))
    body, dropped = from_chat(MESSAGES, "claude-3-5-sonnet-20241022", temperature=0.2, top_p=0.5)
    assert (body["temperature"], body["top_p"], dropped) == (0.2, 0.5, ())


def test_the_latest_claude_takes_neither() -> None:
    body, dropped = from_chat(MESSAGES, "claude-opus-4-7", temperature=0.2, top_p=0.5)
    assert not {"temperature", "top_p"} & body.keys()
    assert dropped == ("temperature", "top_p")
    assert from_chat(MESSAGES, "claude-opus-4-7", temperature=1, top_p=1)[1] == ()


def test_a_temperature_above_anthropics_highest_is_its_highest() -> None:
    assert from_chat(MESSAGES, "claude-haiku-4-5", temperature=1.7)[0]["temperature"] == 1


@pytest.mark.parametrize("model", ["gpt-5.5", "o3"])
@pytest.mark.parametrize("target", [CHAT, RESPONSES])
def test_an_openai_model_that_thinks_samples_in_one_way(target: str, model: str) -> None:
    fields = {"temperature": 0.2, "top_p": 0.5, "stop": ["x"]}
    body, dropped = from_chat(target, model, **fields)
    assert not fields.keys() & body.keys()
    assert set(dropped) == set(fields)
    body, dropped = from_chat(target, model, reasoning_effort="none", temperature=0.2)
    assert (body["temperature"], dropped) == (0.2, ())
    assert from_chat(target, model, temperature=1, top_p=1)[1] == ()


def test_stops_go_along_where_they_can() -> None:
    assert from_chat(MESSAGES, "claude-opus-4-6", stop="x")[0]["stop_sequences"] == ["x"]
    assert from_chat(RESPONSES, "gpt-4o", stop="x")[1] == ("stop",)
    body, dropped = from_chat(MESSAGES, "claude-opus-4-6", stop=["\n", "x"])
    assert (body["stop_sequences"], dropped) == (["x"], ("stop",))


def test_what_only_vllm_knows_goes_to_vllm_alone() -> None:
    asked = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}
    body, dropped = from_chat(CHAT, UpstreamModel("m", provider_type="vllm"), **asked)
    assert {name: body[name] for name in asked} == asked
    assert dropped == ()
    assert set(from_chat(CHAT, "m", **asked)[1]) == set(asked)


@pytest.mark.parametrize(
    ("target", "fields", "names"),
    [
        (MESSAGES, {"seed": 1, "n": 2, "logprobs": True, "presence_penalty": 1, "logit_bias": {"1": 1}},
         {"seed", "n", "logprobs", "presence_penalty", "logit_bias"}),
        (RESPONSES, {"seed": 1, "n": 2, "stop": ["x"], "frequency_penalty": 1},
         {"seed", "n", "stop", "frequency_penalty"}),
        (MESSAGES, {"service_tier": "flex", "verbosity": "low", "web_search_options": {"x": 1}},
         {"service_tier", "verbosity", "web_search_options"}),
        (CHAT, {"service_tier": "flex", "verbosity": "low", "safety_identifier": "u"},
         {"service_tier", "verbosity", "safety_identifier"}),
        (MESSAGES, {"service_tier": "auto", "n": 1, "prompt_cache_key": "k", "modalities": ["text"], "store": False},
         set()),
    ],
)  # fmt: skip
def test_each_parameter_that_is_left_out_is_named(target: str, fields: dict[str, Any], names: set[str]) -> None:
    assert set(from_chat(target, "some-model", **fields)[1]) == names
