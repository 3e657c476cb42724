from __future__ import annotations

import json
from typing import Any

import pytest

from routing.chat_texts import ChunkFilter, messages_of, strip_thoughts, text_of


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


def filtered(*deltas: Any) -> list[Any]:
    chunks = ChunkFilter()
    ends = [None] * (len(deltas) - 1) + ["stop"]
    sent = [
        {"choices": [{"index": 0, "delta": one, "finish_reason": end}]} for one, end in zip(deltas, ends, strict=True)
    ]
    return [json.loads(chunks.filtered(json.dumps(one).encode()))["choices"][0]["delta"] for one in sent]


def test_what_was_held_back_comes_with_the_end() -> None:
    assert filtered({"content": "1 <"}, {}) == [{"content": "1 "}, {"content": "<"}]
    assert filtered({"content": "1 <"}, None) == [{"content": "1 "}, {"content": "<"}]


def test_parts_are_looked_into() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "<think>hm</think>Yes <"}]
    assert filtered({"content": parts}, {"content": []}) == [
        {"content": [{"type": "text", "text": "Yes "}]},
        {"content": [{"type": "text", "text": "<"}]},
    ]
    message = {"content": [*parts, 7, {"type": "text"}], "reasoning": "hm"}
    strip_thoughts(message)
    assert message == {"content": [{"type": "text", "text": "Yes <"}, 7, {"type": "text"}]}
    assert text_of(message) == "Yes <"


@pytest.mark.parametrize("index", [[1], {"a": 1}, "x", -1, 10**9, 1.5, True])
def test_a_strange_index_is_the_firsts(index: Any) -> None:
    chunk = {"choices": [{"index": index, "delta": {"content": "<think>hm"}}]}
    assert b"hm" not in ChunkFilter().filtered(json.dumps(chunk).encode())


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "a"}, "a"),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": "a", "tool_calls": [{}]}, None),
        ({"content": None, "refusal": "No."}, None),
        ({"content": "a", "tool_calls": []}, "a"),
    ],
)
def test_refusals_and_calls_of_tools_need_no_form(message: dict[str, Any], text: str | None) -> None:
    assert text_of(message) == text


def test_an_answer_without_choices_has_no_messages() -> None:
    assert messages_of({"choices": {"a": 1}}) == messages_of({}) == messages_of({"choices": [1, {"message": 2}]}) == []
