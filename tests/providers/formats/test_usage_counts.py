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


@given(st.integers() | st.floats() | st.text() | st.none() | st.booleans())
def test_whatever_is_told_a_count_is_a_whole_number_within_bounds(told: Any) -> None:
    read = counted(told)
    assert type(read) is int
    assert 0 <= read <= MOST_TOKENS
