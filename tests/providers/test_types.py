"""The table of provider types and the rule that finds an API's root."""

from __future__ import annotations

import pytest

from providers.models import ProviderType
from providers.types import DIALECTS, TYPES, api_root, health_url, models_url, origin


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1"),
        ("https://api.openai.com/", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://api.anthropic.com", "https://api.anthropic.com/v1"),
        ("https://api.deepseek.com", "https://api.deepseek.com/v1"),
        ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
        ("https://openrouter.ai/api", "https://openrouter.ai/api/v1"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai/",
            "https://generativelanguage.googleapis.com/v1beta/openai",
        ),
        (
            "https://dashscope.aliyuncs.com/compatible-mode/v1",
            "https://dashscope.aliyuncs.com/compatible-mode/v1",
        ),
        ("https://api.z.ai/api/paas/v4", "https://api.z.ai/api/paas/v4"),
        ("https://one.openai.azure.com/openai/v1/", "https://one.openai.azure.com/openai/v1"),
        ("https://gateway.ai.cloudflare.com/v1/me/mine/openai", "https://gateway.ai.cloudflare.com/v1/me/mine/openai"),
        ("https://api.perplexity.ai", "https://api.perplexity.ai"),
        ("https://models.github.ai/inference", "https://models.github.ai/inference"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000/", "http://[::1]:8000/v1"),
        ("http://v1.internal", "http://v1.internal/v1"),
        ("http://host/v1x", "http://host/v1x/v1"),
        ("http://host/vllm", "http://host/vllm/v1"),
        ("  http://host  ", "http://host/v1"),
    ],
)
def test_a_version_segment_is_kept_and_anything_else_gets_one(base_url: str, root: str) -> None:
    assert api_root(base_url) == root
    assert api_root(root) == root


def test_paths_are_found_beside_the_root() -> None:
    assert models_url("openai", "https://api.openai.com") == "https://api.openai.com/v1/models"
    assert health_url("vllm", "http://gpu:8000/v1") == "http://gpu:8000/health"
    assert health_url("vllm", "http://gpu:8000/left") == "http://gpu:8000/left/health"


def test_every_type_has_a_row_and_knows_its_dialects() -> None:
    assert set(TYPES) == set(ProviderType.values)
    assert all(set(row.dialects) <= set(DIALECTS) and row.dialects for row in TYPES.values())


def test_the_credential_header_follows_the_type() -> None:
    assert TYPES["openai"].credential_header("k") == ("authorization", "Bearer k")
    assert TYPES["anthropic"].credential_header("k") == ("x-api-key", "k")


def test_an_origin_fills_in_the_port() -> None:
    assert origin("https://Host.example./v1") == ("https", "host.example", 443)
    assert origin("http://host:8000") == ("http", "host", 8000)
