from __future__ import annotations

import json
from typing import Any

import pytest

from routing.asking import asked_again, in_words, natively
from routing.shaping import Shape, instruction

JSON = Shape("json", b'{"type":"object"}')
WORDS = instruction(JSON)


def worded(dialect: str, **fields: Any) -> Any:
    return json.loads(in_words(json.dumps(fields).encode(), dialect, JSON))


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"role": "system", "content": "Be kind."}, f"Be kind.\n\n{WORDS}"),
        ({"role": "developer", "content": [{"type": "text", "text": "a"}]}, None),
        ({"role": "system", "content": ""}, WORDS),
        ({"role": "user", "content": "hi"}, WORDS),
    ],
)
def test_words_join_the_system_message(first: dict[str, Any], expected: str | None) -> None:
    messages = worded("openai-chat", messages=[first], response_format={"type": "text"})["messages"]
    assert sum(one["role"] in {"system", "developer"} for one in messages) == 1
    if expected is None:
        assert messages[0]["content"][-1] == {"type": "text", "text": WORDS}
    else:
        assert messages[0]["content"] == expected


def test_words_take_the_place_of_the_format() -> None:
    assert "response_format" not in worded("openai-chat", messages=[{}], response_format={"type": "json_object"})
    assert worded("anthropic-messages", output_config={"format": {}, "effort": "low"}, system="Be kind.") == {
        "output_config": {"effort": "low"},
        "system": f"Be kind.\n\n{WORDS}",
    }
    assert worded("anthropic-messages", output_config={"format": {}}, system=[{"type": "text", "text": "a"}]) == {
        "system": [{"type": "text", "text": "a"}, {"type": "text", "text": WORDS}]
    }
    assert worded("openai-responses", text={"format": {}}, input="hi") == {"input": "hi", "instructions": WORDS}
    assert worded("openai-responses", text=None, instructions="A", input="hi")["instructions"] == f"A\n\n{WORDS}"


def test_json_without_a_schema_is_asked_for_in_both_ways() -> None:
    asked = json.loads(natively(b'{"messages":[{"role":"user","content":"hi"}]}', "openai-chat", Shape("json")))
    assert asked["response_format"] == {"type": "json_object"}
    assert "JSON" in asked["messages"][0]["content"]


def test_a_text_as_input_becomes_a_turn() -> None:
    body = asked_again(b'{"input":"How old?"}', "openai-responses", "", "Wrong.")
    assert [one["content"] for one in json.loads(body)["input"]] == ["How old?", "(nothing)", "Wrong."]
    assert [one["content"] for one in json.loads(asked_again(b"{}", "openai-responses", "a", "b"))["input"]] == [
        "a",
        "b",
    ]
