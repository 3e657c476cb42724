"""What a provider tells of tokens, however wrong: in every dialect a number that can be added up, and never a reason to
lose an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.formats import anthropic_wire, openai_chat_wire, openai_responses_wire
from providers.formats.dialect import MOST_TOKENS, Answer, Usage, counted
from providers.formats.dialects import ollama_chat, openai_embeddings

FIGURES: list[tuple[Any, int]] = [
    (7, 7), (0, 0), (-9, 0), (None, 0), (MOST_TOKENS, MOST_TOKENS), (MOST_TOKENS + 1, MOST_TOKENS),
    (9 * 10**15, MOST_TOKENS), (2**63, MOST_TOKENS), (10**40, MOST_TOKENS), (12.0, 12), (12.9, 12),
    (1e300, MOST_TOKENS), (-0.5, 0),
    ("12", 0), (True, 0), ([], 0), ({"a": 1}, 0),
]  # fmt: skip


def chat(told: Any) -> Answer:
    usage = {"prompt_tokens": told, "completion_tokens": told, "completion_tokens_details": {"reasoning_tokens": told}}
    return openai_chat_wire.inspect_response(json.dumps({"choices": [], "usage": usage}).encode())


def responses(told: Any) -> Answer:
    usage = {"input_tokens": told, "output_tokens": told, "output_tokens_details": {"reasoning_tokens": told}}
    return openai_responses_wire.inspect_response(json.dumps({"output": [], "usage": usage}).encode())


def messages(told: Any) -> Answer:
    usage = {"input_tokens": told, "output_tokens": told, "output_tokens_details": {"thinking_tokens": told}}
    return anthropic_wire.inspect_response(json.dumps({"content": [], "usage": usage}).encode())


@pytest.mark.parametrize(("told", "read"), FIGURES)
@pytest.mark.parametrize("dialect", [chat, responses, messages])
def test_a_figure_that_cannot_be_true_is_the_nearest_that_can(dialect: Any, told: Any, read: int) -> None:
    usage = dialect(told).usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (read, read, read)
    assert usage.is_unlikely == (read == MOST_TOKENS)


@pytest.mark.parametrize(("told", "read"), FIGURES)
def test_embeddings_and_ollama_read_figures_alike(told: Any, read: int) -> None:
    embedded = json.dumps({"data": [], "usage": {"prompt_tokens": told}}).encode()
    answer = openai_embeddings.DIALECT.inspect_response(embedded)
    assert answer.usage == (Usage(read) if told else None)  # then it is estimated
    line = json.dumps({"message": {"content": "Hi"}, "done": True, "prompt_eval_count": told, "eval_count": told})
    answered = ollama_chat.DIALECT.parse_response(line.encode())
    assert answered.usage == Usage(input_tokens=read, output_tokens=read)


def test_a_cache_that_was_read_and_written_adds_up() -> None:
    usage = {"input_tokens": 10**18, "cache_read_input_tokens": 10**18, "cache_creation_input_tokens": "x"}
    read = anthropic_wire.inspect_response(json.dumps({"content": [], "usage": usage}).encode()).usage
    assert read == Usage(input_tokens=2 * MOST_TOKENS, cached_input_tokens=MOST_TOKENS)


def test_what_anthropics_cache_keeps_for_an_hour_is_told_apart_to_the_streams_end() -> None:
    begun = {
        "input_tokens": 5, "cache_creation_input_tokens": 300, "output_tokens": 1,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    }  # fmt: skip
    whole = anthropic_wire.inspect_response(json.dumps({"content": [], "usage": begun}).encode()).usage
    assert whole == Usage(input_tokens=305, cache_write_tokens=300, output_tokens=1, hour_cache_write_tokens=200)
    ended = anthropic_wire.WireUsage(cache_creation_input_tokens=300, input_tokens=5, output_tokens=40).over(whole)
    assert (ended.output_tokens, ended.hour_cache_write_tokens) == (40, 200)


SEPARATE: list[tuple[str, dict[str, Any], Usage]] = [
    (
        "xAI's reasoning stands beside the rest",
        {"prompt_tokens": 10120, "completion_tokens": 1499, "total_tokens": 14428,
         "prompt_tokens_details": {"cached_tokens": 128}, "completion_tokens_details": {"reasoning_tokens": 2809}},
        Usage(input_tokens=10120, cached_input_tokens=128, output_tokens=4308, reasoning_tokens=2809),
    ),
    (
        "Gemini's is in the total only",
        {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623},
        Usage(input_tokens=20, output_tokens=603, reasoning_tokens=405),
    ),
    (
        "OpenAI's is part of the rest",
        {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 218,
         "completion_tokens_details": {"reasoning_tokens": 128}},
        Usage(input_tokens=20, output_tokens=198, reasoning_tokens=128),
    ),
    (
        "a cache beside the prompt is no output",
        {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 125,
         "prompt_tokens_details": {"cached_tokens": 100}},
        Usage(input_tokens=20, cached_input_tokens=100, output_tokens=5),
    ),
    (
        "a total that nobody can believe",
        {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 10**15},
        Usage(input_tokens=20, output_tokens=5),
    ),
    (
        "a total that is none",
        {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": "25"},
        Usage(input_tokens=20, output_tokens=5),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("told", "read"), [case[1:] for case in SEPARATE], ids=[case[0] for case in SEPARATE])
def test_reasoning_that_is_told_beside_the_output_is_part_of_it(told: dict[str, Any], read: Usage) -> None:
    whole = json.dumps({"choices": [], "usage": told}).encode()
    assert openai_chat_wire.inspect_response(whole).usage == read
    observer = openai_chat_wire.Observer(show_usage=True)
    observer.feed(b"data: " + whole + b"\n\n")
    assert observer.usage == read
    names = {"prompt": "input", "completion": "output"}
    alike = {name.replace(old, new): value for name, value in told.items() for old, new in names.items() if old in name}
    answer = {"output": [], "usage": {**alike, "total_tokens": told["total_tokens"]}}
    assert openai_responses_wire.inspect_response(json.dumps(answer).encode()).usage == read


@pytest.mark.parametrize(
    ("later", "read"),
    [
        ({"input_tokens": 0, "output_tokens": 9}, Usage(input_tokens=30, cached_input_tokens=10, output_tokens=9)),
        ({"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 9},
         Usage(input_tokens=30, cached_input_tokens=10, output_tokens=9)),
        ({"input_tokens": 0, "cache_read_input_tokens": 30, "output_tokens": 9},
         Usage(input_tokens=30, cached_input_tokens=30, output_tokens=9)),
        ({"input_tokens": 50, "output_tokens": 9}, Usage(input_tokens=60, cached_input_tokens=10, output_tokens=9)),
    ],
)  # fmt: skip
def test_zeros_at_a_streams_end_take_back_no_input(later: dict[str, Any], read: Usage) -> None:
    observer = anthropic_wire.Observer()
    began = {"input_tokens": 20, "cache_read_input_tokens": 10, "output_tokens": 1}
    for event in (
        {"type": "message_start", "message": {"usage": began}},
        {"type": "message_delta", "delta": {}, "usage": later},
    ):
        observer.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert observer.usage == read


@pytest.mark.parametrize("name", ["cached_tokens", "prompt_cache_hit_tokens"])
def test_a_cache_that_is_told_beside_the_details_is_one(name: str) -> None:
    told = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25, name: 12}
    body = json.dumps({"choices": [], "usage": told}).encode()
    expected = Usage(input_tokens=20, cached_input_tokens=12, output_tokens=5)
    assert openai_chat_wire.inspect_response(body).usage == expected
    body = json.dumps({"choices": [], "usage": {**told, "prompt_tokens_details": {"cached_tokens": 7}}}).encode()
    read = openai_chat_wire.inspect_response(body).usage
    assert read is not None
    assert read.cached_input_tokens == 7


def test_what_a_compaction_took_counts_besides_what_the_message_took() -> None:
    message = {"type": "message", "input_tokens": 23_000, "output_tokens": 1000}
    compaction = {"type": "compaction", "input_tokens": 180_000, "cache_read_input_tokens": 7, "output_tokens": 3500}
    told: dict[str, Any] = {"input_tokens": 23_000, "cache_read_input_tokens": 0, "output_tokens": 1000}
    told |= {"iterations": [compaction, message, "x", None]}
    expected = Usage(input_tokens=203_007, cached_input_tokens=7, output_tokens=4500)
    assert anthropic_wire.inspect_response(json.dumps({"content": [], "usage": told}).encode()).usage == expected
    observer = anthropic_wire.Observer()
    for event in (
        {"type": "message_start", "message": {"usage": {"input_tokens": 23_000, "output_tokens": 1}}},
        {"type": "message_delta", "delta": {}, "usage": told},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 1000, "iterations": [compaction]}},
    ):
        observer.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert observer.usage == expected


@given(st.integers() | st.floats() | st.text() | st.none() | st.booleans())
def test_whatever_is_told_a_count_is_a_whole_number_within_bounds(told: Any) -> None:
    read = counted(told)
    assert type(read) is int
    assert 0 <= read <= MOST_TOKENS
