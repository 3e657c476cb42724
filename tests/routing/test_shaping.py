from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.shaping import MAX_TEXT, Kind, Shape, check, instruction

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


def test_the_schema_is_told() -> None:
    assert '{"a":1}' in instruction(Shape("json", b'{"a":1}'))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('See [1]: {"a": [2]}', '{"a": [2]}'),
        ('See [1]: {"a": 1} [2]', '{"a": 1}'),
        ('Here: [{"a": 1}, {"a": 2}] Done.', '[{"a": 1}, {"a": 2}]'),
        ('[{"a": 1}]', '[{"a": 1}]'),
        ("~~~\n[1]\n~~~\n", "[1]"),
        ('```json\r\n{"a": "\\u2028"}\r\n```', '{"a": "\\u2028"}'),
    ],
)
def test_json_is_found_amid_words(text: str, found: str) -> None:
    assert check(JSON, text) == (found, ())


def test_what_does_not_fit_is_kept_as_it_was_said() -> None:
    text = 'Well: {"a": "b"}'
    checked = check(Shape("json", b'{"properties": {"a": {"type": "integer"}}}'), text)
    assert checked.text == text
    assert "integer" in checked.problems[0]


@pytest.mark.parametrize("kind", ["json", "xml", "markdown"])
@pytest.mark.parametrize(
    "text", ["```\n" + " " * 500_000, "```\n" * 100_000, "`" * 500_000, "<" * 500_000, "[{" * 250_000]
)
def test_no_text_takes_long(kind: Kind, text: str) -> None:
    """A quadratic look at these would take hours."""
    check(Shape(kind, strip_think=True), text)


def test_a_text_beyond_the_limit_is_not_checked() -> None:
    assert "too long" in check(JSON, "1" * (MAX_TEXT + 1)).problems[0]
