"""Routing wishes in the text of a request."""

from __future__ import annotations

import json
from contextlib import suppress
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.directives import Directive, taken_from, taken_from_body, with_output_schema
from routing.errors import ApiError
from routing.policy import Policy

NORMAL = Policy("normal")
LINE = "@@tokenhub mode=cheap budget=0.01"


def obeyed(body: dict[str, Any], dialect: str = "openai-chat") -> tuple[dict[str, Any], dict[str, str] | None]:
    left, found = taken_from_body(json.dumps(body).encode(), dialect)
    return json.loads(left), found.values if found is not None else None


def read(text: str) -> tuple[Policy, dict[str, Any] | None]:
    found = taken_from(text)[1] or Directive()
    return found.apply(NORMAL), found.output_schema


def refused(text: str) -> ApiError:
    with pytest.raises(ApiError) as problem:
        read(text)
    assert (problem.value.status, problem.value.code) == (400, "invalid_directive")
    return problem.value


# -- in a text -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "left", "values"),
    [
        ("Hi\n@@tokenhub mode=cheap\nthere", "Hi\nthere", {"mode": "cheap"}),
        ("@@tokenhub mode=cheap budget=0.01 latency=5000 min_weight=5\nHi", "Hi",
         {"mode": "cheap", "budget": "0.01", "latency": "5000", "min_weight": "5"}),
        ("Hi\r\n  @@tokenhub mode=cheap  \r\nthere", "Hi\r\nthere", {"mode": "cheap"}),
        ("Hi\n@@tokenhub mode=cheap", "Hi\n", {"mode": "cheap"}),
        ('A\n@@tokenhub\nmode=high_confidence\n\noutput_schema={"type": "object"}\n@@end\nB', "A\nB",
         {"mode": "high_confidence", "output_schema": '{"type": "object"}'}),
        ('@@tokenhub output_schema={"a": "b c"} mode=cheap\nx', "x",
         {"output_schema": '{"a": "b c"}', "mode": "cheap"}),
        ("@@tokenhub mode=cheap\nA\n@@tokenhub budget=1\nB", "A\nB", {"budget": "1"}),
        ("@@tokenhub\n@@end\nA", "A", {}),
    ],
)  # fmt: skip
def test_a_directive_is_read_and_taken_out(text: str, left: str, values: dict[str, str]) -> None:
    assert taken_from(text) == (left, Directive(values))


@pytest.mark.parametrize(
    "text", ["", "Hi", "about @@tokenhub mode=cheap", "@@tokenhubs mode=x", "@@token hub", "@@end", "`@@tokenhub x=1`"]
)
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert taken_from(text) == (text, None)


@pytest.mark.parametrize(
    ("text", "param", "says"),
    [
        ("@@tokenhub mod=cheap", "mod", "there is no 'mod'"),
        ("@@tokenhub cheap", "@@tokenhub", "'cheap' is no name=value"),
        ("@@tokenhub mode=", "mode", "mode has no value"),
        ("@@tokenhub mode=fancy", "mode", "fancy"),
        ("@@tokenhub budget=much", "budget", "budget must be a number"),
        ("@@tokenhub budget=nan", "budget", "from 0 to 100"),
        ("@@tokenhub budget=101", "budget", "from 0 to 100"),
        ("@@tokenhub latency=-1", "latency", "from 0 to 300000"),
        ("@@tokenhub min_weight=11", "min_weight", "from 0 to 10"),
        ("@@tokenhub\nmode=cheap", "@@tokenhub", "no @@end"),
        ("@@tokenhub output_schema={broken", "output_schema", "no JSON"),
        ("@@tokenhub output_schema=[1]", "output_schema", "JSON object"),
    ],
)
def test_a_bad_directive_is_an_error_that_names_it(text: str, param: str, says: str) -> None:
    error = refused(text)
    assert error.param == param
    assert says in error.message


def test_its_keys_go_before_the_requests_policy_key_by_key() -> None:
    policy = Policy("normal", max_budget_nano=5, max_latency_ms=1000, min_weight=3, allow_fallback=False)
    applied = Directive({"mode": "cheap", "latency": "2000"}).apply(policy)
    assert (applied.mode, applied.max_latency_ms, applied.deadline_ms) == ("cheap", 2000, 2000)
    assert (applied.max_budget_nano, applied.min_weight, applied.allow_fallback) == (5, 3, False)


@pytest.mark.parametrize("text", ["@@tokenhub mode=cheap mode=fast", "@@tokenhub\nbudget=1\nbudget=2\n@@end"])
def test_one_directive_that_says_something_twice_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="stands there twice"):
        taken_from(text)


@given(st.text(alphabet='@tokenhub end=mode{}[]"\n\r 1.', max_size=80))
def test_no_text_gets_by_with_a_directive_in_it(text: str) -> None:
    try:
        left, found = taken_from(text)
    except ApiError:
        return
    if found is None:
        assert left == text
    else:
        assert taken_from(left)[1] is None or "@@tokenhub" in text.replace("\n", "")


@pytest.mark.parametrize(
    "text",
    [
        "@@tokenhub mode=cheap" + " " * 60_000 + "budget",
        "@@tokenhub" + " " * 2_000 + "\rx",
        "@@tokenhub " + "mode=cheap " * 60_000,
    ],
    ids=["spaces", "broken off", "pairs"],
)  # fmt: skip
def test_no_text_takes_longer_than_its_length_allows(text: str) -> None:
    begun = process_time()
    with suppress(ApiError):
        taken_from(text)
    assert process_time() - begun < 2.0


# -- in a request ----------------------------------------------------------------------------------------------------
def test_system_and_the_last_message_of_the_user_are_obeyed_the_last_one_winning() -> None:
    messages = [
        {"role": "system", "content": "@@tokenhub mode=cheap\nBe brief."},
        {"role": "user", "content": "@@tokenhub mode=planning\nOld"},
        {"role": "assistant", "content": "@@tokenhub mode=adversarial"},
        {"role": "user", "content": [{"type": "text", "text": "New\n@@tokenhub budget=1"}]},
    ]
    left, values = obeyed({"model": "m", "messages": messages, "big": 12345678901234567890})
    assert values == {"budget": "1"}
    assert [one["content"] for one in left["messages"]] == [
        "Be brief.", "Old", "@@tokenhub mode=adversarial", [{"type": "text", "text": "New\n"}],
    ]  # fmt: skip
    assert left["big"] == 12345678901234567890


def test_an_older_one_of_the_user_is_taken_out_only() -> None:
    messages = [
        {"role": "user", "content": f"{LINE}\nOld"}, {"role": "assistant", "content": "x"},
        {"role": "user", "content": "New"},
    ]  # fmt: skip
    left, values = obeyed({"messages": messages})
    assert values is None
    assert left["messages"][0]["content"] == "Old"


def test_tool_results_are_never_looked_into_and_are_no_message_of_the_user() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": f"{LINE}"}
    messages = [
        {"role": "user", "content": f"{LINE}\nDo it"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [result]},
    ]
    left, values = obeyed({"messages": messages}, "anthropic-messages")
    assert values == {"mode": "cheap", "budget": "0.01"}
    assert left["messages"][0]["content"] == "Do it"
    assert left["messages"][2]["content"] == [result]
    chat = [
        {"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "t", "content": LINE},
    ]  # fmt: skip
    assert obeyed({"messages": chat}) == ({"messages": chat}, None)


def test_every_dialects_own_places_are_looked_into() -> None:
    blocks = [{"type": "text", "text": LINE, "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Rules"}]
    user = {"role": "user", "content": "Hi"}
    left, values = obeyed({"system": blocks, "messages": [user]}, "anthropic-messages")
    assert (left["system"], values) == ([{"type": "text", "text": "Rules"}], {"mode": "cheap", "budget": "0.01"})
    left, values = obeyed({"instructions": LINE, "input": "Hi"}, "openai-responses")
    assert (left, values) == ({"input": "Hi"}, {"mode": "cheap", "budget": "0.01"})
    left, values = obeyed({"input": f"Hi\n{LINE}\nyou"}, "openai-responses")
    assert (left["input"], values) == ("Hi\nyou", {"mode": "cheap", "budget": "0.01"})
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": f"{LINE}\nx"}]},
        {"type": "function_call_output", "call_id": "c", "output": LINE},
        {"role": "user", "content": "Hi"},
    ]
    left, values = obeyed({"input": items}, "openai-responses")
    assert values == {"mode": "cheap", "budget": "0.01"}
    assert left["input"][0]["content"][0]["text"] == "x"
    assert left["input"][1] == items[1]


def test_a_message_of_a_directive_alone_is_left_out_and_a_request_of_one_refused() -> None:
    messages = [{"role": "system", "content": LINE}, {"role": "user", "content": "Hi"}]
    left, _ = obeyed({"messages": messages})
    assert left["messages"] == [{"role": "user", "content": "Hi"}]
    with pytest.raises(ApiError, match="nothing but the directive"):
        obeyed({"messages": [{"role": "user", "content": LINE}]})


@pytest.mark.parametrize(
    "body", [b"@@tokenhub", b'{"messages": "@@tokenhub x"}', b'{"messages": [1, "@@tokenhub mode=cheap"]}', b"[]"]
)
def test_a_body_that_is_no_request_comes_back_as_it_is(body: bytes) -> None:
    assert taken_from_body(body, "openai-chat") == (body, None)


def test_a_schema_is_asked_for_in_the_dialects_words() -> None:
    schema = {"type": "object"}
    chat = json.loads(with_output_schema(b'{"model":"m"}', "openai-chat", schema))
    assert chat["response_format"]["json_schema"]["schema"] == schema
    messages = json.loads(with_output_schema(b'{"output_config":{"effort":"low"}}', "anthropic-messages", schema))
    assert messages["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    responses = json.loads(with_output_schema(b'{"text":{"verbosity":"low"}}', "openai-responses", schema))
    assert responses["text"]["verbosity"] == "low"
    assert responses["text"]["format"]["schema"] == schema
