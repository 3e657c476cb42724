from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.shaping import ChunkFilter, Shape, asked_again, check, instruction, told

JSON = Shape("json")
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_any_json_object_is_itself(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    assert check(JSON, text) == (text, ())


@given(st.text(max_size=60))
def test_any_text_gets_an_answer(text: str) -> None:
    for kind in ("json", "xml", "markdown", "text", ""):
        checked = check(Shape(kind, strip_think=True), text)
        assert isinstance(checked.text, str)


def test_of_two_fenced_blocks_none_is_chosen() -> None:
    assert check(JSON, "```json\n{\n```\n```json\n}\n```").problems


def test_deep_json_is_a_problem_and_no_crash() -> None:
    assert check(JSON, "[" * 100_000).problems


def test_an_entity_bomb_is_not_read() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    assert "document type" in check(Shape("xml"), bomb).problems[0]


def test_fences_inside_a_text_stay() -> None:
    text = "Look:\n```py\n1\n```\nDone."
    assert check(Shape("markdown"), text).text == text
    assert check(Shape("text"), f"~~~\n{text}\n~~~").text == text


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"role": "system", "content": "Be kind."}, "Be kind.\n\nX"),
        ({"role": "developer", "content": [{"type": "text", "text": "a"}]}, None),
        ({"role": "user", "content": "hi"}, "X"),
    ],
)
def test_an_instruction_joins_the_system_message(first: dict[str, Any], expected: str | None) -> None:
    messages = json.loads(told(json.dumps({"messages": [first]}).encode(), "X"))["messages"]
    assert sum(one["role"] in {"system", "developer"} for one in messages) == 1
    if expected is None:
        assert messages[0]["content"][-1] == {"type": "text", "text": "X"}
    else:
        assert messages[0]["content"] == expected


def test_a_text_as_input_becomes_a_turn() -> None:
    body = asked_again(b'{"input":"How old?"}', "openai-responses", "", "Wrong.")
    assert [one["content"] for one in json.loads(body)["input"]] == ["How old?", "(nothing)", "Wrong."]


def test_the_schema_is_told() -> None:
    assert '{"a":1}' in instruction(Shape("json", b'{"a":1}'))


@pytest.mark.parametrize("chunk", [b"nonsense", b"[]", b'{"choices":3}', b'{"choices":[1]}', b'{"error":{}}'])
def test_a_chunk_that_is_none_is_passed_on(chunk: bytes) -> None:
    assert json.loads(ChunkFilter().filtered(chunk) if chunk != b"nonsense" else b"1") is not None
    assert ChunkFilter().filtered(b"nonsense") == b"nonsense"


def test_each_choice_has_thoughts_of_its_own() -> None:
    chunks = ChunkFilter()

    def fed(index: int, text: str) -> str:
        chunk = {"choices": [{"index": index, "delta": {"content": text, "reasoning_content": "x"}}]}
        (choice,) = json.loads(chunks.filtered(json.dumps(chunk).encode()))["choices"]
        assert choice["delta"].keys() == {"content"}
        return str(choice["delta"]["content"])

    assert [fed(0, "<think>a"), fed(1, "hello"), fed(0, "</think>b")] == ["", "hello", "b"]
