"""Broken histories of tool calls: afterwards each call is followed at once by one result, and nothing said is lost."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.formats.canonical import ChatRequest, Message, Part, Text, Thinking, ToolCall, ToolResult
from providers.formats.dialect import UpstreamModel
from providers.formats.registry import DIALECTS
from providers.formats.repair import NO_RESULT, repaired
from tests.support.canonical import CHAT, MESSAGES, NAMES, RESPONSES, requests

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HI = Message("user", (Text("Hi"),))


def call(identity: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(identity, "f", arguments)


def result(identity: str, text: str = "") -> ToolResult:
    return ToolResult(identity, (Text(text or f"of {identity}"),))


def said(*parts: Part) -> Message:
    return Message("assistant", parts)


def user(*parts: Part) -> Message:
    return Message("user", parts)


# -- what may come -----------------------------------------------------------------------------------------------------
@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    """Calls and results of four ids in any order and number, with texts between them; each text stands once."""
    messages: list[Message] = []
    texts = 0
    for _ in range(draw(st.integers(0, 7))):
        role = draw(st.sampled_from(["user", "user", "assistant", "assistant", "system"]))
        parts: list[Part] = []
        for _ in range(draw(st.integers(1, 3))):
            texts += 1
            identity = draw(st.sampled_from(["a", "b", "a_1", "call 3"]))
            kind = draw(st.sampled_from(["text", "tool", "tool"]))
            if kind == "text" or role == "system":
                parts.append(Text(f"text {texts}."))
            elif role == "assistant":
                parts.append(call(identity, draw(st.sampled_from(["{}", '{"x": 1}']))))
            else:
                parts.append(result(identity, f"result {texts}."))
        messages.append(Message("user" if role == "user" else "assistant" if role == "assistant" else "system",
                                tuple(parts)))  # fmt: skip
    return messages


def check(messages: list[Message]) -> None:
    """Every call is answered at once and once, by one message or several; no result stands elsewhere."""
    due: list[str] = []
    used: list[str] = []
    for message in messages:
        assert message.role == "user" or not due
        for part in message.parts:
            if due or isinstance(part, ToolResult):
                assert isinstance(part, ToolResult)
                due.remove(part.call_id)
        calls = [part.id for part in message.parts if isinstance(part, ToolCall)]
        assert message.role == "assistant" or not calls
        due += calls
        used += calls
    assert due == []
    assert len(set(used)) == len(used)


def texts_of(messages: list[Message]) -> str:
    parts = [part for message in messages for part in message.parts]
    inner = [one for part in parts for one in (part.parts if isinstance(part, ToolResult) else (part,))]
    return "\n".join(part.text for part in inner if isinstance(part, Text))


@given(messages=histories())
@MANY
def test_any_history_is_sound_afterwards(messages: list[Message]) -> None:
    check(repaired(messages))


@given(messages=histories())
@MANY
def test_all_that_was_said_is_still_said(messages: list[Message]) -> None:
    """Of several results for one call the last holds."""
    after = texts_of(repaired(messages))
    results = [part for message in messages for part in message.parts if isinstance(part, ToolResult)]
    answers = Counter(part.call_id for part in results)
    for message in messages:
        for part in message.parts:
            if isinstance(part, Text):
                assert after.count(part.text) == 1
            elif isinstance(part, ToolResult) and answers[part.call_id] == 1:
                assert after.count(texts_of([user(part)])) == 1


@given(messages=histories())
@MANY
def test_every_call_is_still_made(messages: list[Message]) -> None:
    """One call said twice in one turn is one."""

    def calls(history: list[Message]) -> list[set[tuple[str, str]]]:
        found = [
            {(part.name, part.arguments) for part in message.parts if isinstance(part, ToolCall)} for message in history
        ]
        return [one for one in found if one]

    assert calls(repaired(messages)) == calls(messages)


@given(messages=histories())
@MANY
def test_what_is_repaired_stays_as_it_is(messages: list[Message]) -> None:
    once = repaired(messages)
    assert repaired(once) == once


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@MANY
def test_a_sound_history_stays_as_it_is(name: str, data: st.DataObject) -> None:
    messages = data.draw(requests(name)).request.messages
    assert repaired(messages) == messages


# -- as each upstream gets it ------------------------------------------------------------------------------------------
def rendered(name: str, messages: list[Message]) -> Any:
    return json.loads(DIALECTS[name].render_request(ChatRequest([HI, *messages]), UpstreamModel("m")).body)


@given(messages=histories())
@MANY
def test_anthropic_gets_results_at_the_beginning_of_the_turn_after_their_calls(messages: list[Message]) -> None:
    due: list[str] = []
    last = ""
    used: list[str] = []
    for turn in rendered(MESSAGES, messages)["messages"]:
        assert turn["role"] != last
        last = turn["role"]
        blocks = turn["content"] if isinstance(turn["content"], list) else []
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert sorted(results) == sorted(due)
        assert all(block["type"] == "tool_result" for block in blocks[: len(due)])
        due = [block["id"] for block in blocks if block["type"] == "tool_use"]
        used += due
    assert due == []
    assert len(set(used)) == len(used)


@given(messages=histories())
@MANY
def test_openai_chat_gets_results_right_after_their_calls(messages: list[Message]) -> None:
    due: list[str] = []
    for message in rendered(CHAT, messages)["messages"]:
        if message["role"] == "tool":
            assert message["tool_call_id"] in due
            due.remove(message["tool_call_id"])
            continue
        assert due == []
        due = [one["id"] for one in message.get("tool_calls", ())]
    assert due == []


@given(messages=histories())
@MANY
def test_openai_responses_gets_one_result_for_each_call(messages: list[Message]) -> None:
    due: list[str] = []
    for item in rendered(RESPONSES, messages)["input"]:
        match item.get("type"):
            case "function_call":
                due.append(item["call_id"])
            case "function_call_output":
                due.remove(item["call_id"])
    assert due == []


# -- the cases by name -------------------------------------------------------------------------------------------------
def test_a_call_without_a_result_gets_one_that_says_so() -> None:
    after = repaired([HI, said(call("a")), user(Text("Go on"))])
    assert after[2] == user(ToolResult("a", (Text(NO_RESULT),), is_error=True), Text("Go on"))


def test_a_call_at_the_end_gets_a_result_too() -> None:
    assert repaired([HI, said(call("a"))])[2:] == [user(ToolResult("a", (Text(NO_RESULT),), is_error=True))]


def test_a_result_without_a_call_is_told_as_text() -> None:
    (message,) = repaired([user(result("a"))])
    assert message == user(Text("The result of the tool call a:"), Text("of a"))


def test_results_of_parallel_calls_come_in_any_order_and_are_left_so() -> None:
    messages = [HI, said(call("a"), call("b")), user(result("b"), result("a"))]
    assert repaired(messages) == messages


def test_a_call_said_twice_is_said_once() -> None:
    assert repaired([HI, said(call("a"), call("a")), user(result("a"))]) == [HI, said(call("a")), user(result("a"))]


def test_two_calls_under_one_id_get_ids_and_results_of_their_own() -> None:
    after = repaired([HI, said(call("a", "1"), call("a", "2")), user(result("a", "x"), result("a", "y"))])
    first, second = (part.id for part in after[1].parts if isinstance(part, ToolCall))
    assert first != second
    assert after[2] == user(result(first, "x"), result(second, "y"))


def test_an_id_that_is_used_again_in_a_later_turn_gets_one_of_its_own() -> None:
    after = repaired([HI, said(call("0", "1")), user(result("0", "x")), said(call("0", "2")), user(result("0", "y"))])
    assert after[:3] == [HI, said(call("0", "1")), user(result("0", "x"))]
    (again,) = [part for part in after[3].parts if isinstance(part, ToolCall)]
    assert again.id != "0"
    assert after[4] == user(result(again.id, "y"))


def test_of_two_results_for_one_call_the_last_holds() -> None:
    after = repaired([HI, said(call("a")), user(result("a", "x")), user(result("a", "y"))])
    assert after == [HI, said(call("a")), user(result("a", "y"))]


def test_what_stands_between_a_call_and_its_result_comes_after_it() -> None:
    system, between = Message("system", (Text("Mind the time"),)), user(Text("Still there?"))
    after = repaired([HI, said(call("a")), system, between, user(result("a"))])
    assert after == [HI, said(call("a")), user(result("a")), system, between]


def test_a_result_before_its_call_is_told_as_text() -> None:
    after = repaired([user(result("a", "early")), said(call("a"))])
    check(after)
    assert "early" in texts_of(after)


def test_thinking_stays_with_its_call() -> None:
    thought = Thinking("Hm", "sig", source=MESSAGES)
    after = repaired([HI, said(thought, call("a"))])
    assert after[1] == said(thought, call("a"))
