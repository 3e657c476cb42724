"""Lists of models as services give them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.model_list import Kind, Listed, read

ROWS: dict[str, tuple[Any, Listed]] = {
    "openai": (
        {"id": "gpt-5.1", "object": "model", "created": 1, "owned_by": "system"},
        Listed("gpt-5.1", abilities=("documents", "reasoning", "structured_output", "tools", "vision")),
    ),
    "openai, an old one": (
        {"id": "gpt-3.5-turbo", "object": "model"},
        Listed("gpt-3.5-turbo", abilities=("structured_output", "tools")),
    ),
    "openai, speech": ({"id": "gpt-4o-mini-tts"}, Listed("gpt-4o-mini-tts", Kind.OTHER)),
    "openai, embeddings": (
        {"id": "text-embedding-3-small"},
        Listed("text-embedding-3-small", Kind.EMBEDDINGS, abilities=("embeddings",)),
    ),
    "anthropic": (
        {
            "type": "model", "id": "claude-sonnet-4-6", "display_name": "x", "max_input_tokens": 200_000,
            "max_tokens": 64_000, "capabilities": {
                "image_input": {"supported": True}, "pdf_input": {"supported": False}, "batch": {"supported": True},
                "structured_outputs": {"supported": True}, "thinking": {"supported": True, "types": {}},
            },
        },
        Listed(
            "claude-sonnet-4-6", Kind.CHAT, 200_000, 64_000, ("reasoning", "structured_output", "tools", "vision")
        ),
    ),
    "vllm": (
        {"id": "org/model", "object": "model", "max_model_len": 8192, "permission": []},
        Listed("org/model", Kind.CHAT, 8192),
    ),
    "openrouter": (
        {
            "id": "google/gemma", "context_length": 131_072, "top_provider": {"max_completion_tokens": 8_192},
            "architecture": {"input_modalities": ["text", "image", "file"], "output_modalities": ["text"]},
            "supported_parameters": ["tools", "max_tokens", "structured_outputs", "reasoning"],
        },
        Listed(
            "google/gemma", Kind.CHAT, 131_072, 8_192,
            ("documents", "reasoning", "structured_output", "tools", "vision"),
        ),
    ),
    "groq": (
        {"id": "llama-3.3-70b", "context_window": 131_072, "max_completion_tokens": 32_768, "active": True},
        Listed("llama-3.3-70b", Kind.CHAT, 131_072, 32_768),
    ),
    "mistral": (
        {
            "id": "mistral-large", "max_context_length": 131_072,
            "capabilities": {"completion_chat": True, "function_calling": True, "vision": False},
        },
        Listed("mistral-large", Kind.CHAT, 131_072, None, ("tools",)),
    ),
    "together, embeddings": (
        {"id": "some/retriever", "type": "embedding", "context_length": 512},
        Listed("some/retriever", Kind.EMBEDDINGS, 512, None, ("embeddings",)),
    ),
    "together, images": ({"id": "some/painter", "type": "image"}, Listed("some/painter", Kind.OTHER)),
    "ollama": (
        {"name": "qwen3:8b", "capabilities": ["completion", "tools", "thinking"]},
        Listed("qwen3:8b", abilities=("reasoning", "tools")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("service", ROWS)
def test_each_service_is_understood(service: str) -> None:
    row, expected = ROWS[service]
    for document in ({"object": "list", "data": [row]}, {"models": [row]}, [row]):
        assert read(document) == [expected]


@pytest.mark.parametrize("document", [None, 5, "text", {}, {"error": {}}, {"data": {}}, {"data": None}])
def test_what_is_no_list_is_none(document: Any) -> None:
    assert read(document) is None


def test_rows_without_a_usable_name_are_left_out_and_names_come_once() -> None:
    rows = [{}, {"id": ""}, {"id": 5}, {"id": "a\nb"}, {"id": "x" * 201}, None, "a", {"id": "a"}, {"id": "b"}]
    assert [one.id for one in read(rows) or []] == ["a", "b"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "data", "type", "capabilities", "architecture", "context_length", "top_provider"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_nothing_that_a_provider_says_breaks_it(document: Any) -> None:
    read(document)
