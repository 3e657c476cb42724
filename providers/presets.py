"""Well-known services, as what the set-up fills into a new provider's form. Pure data; a new service is a new row.

`dialects`: what the service is known to speak, where that is less than its type's; a client's dialect that it does not
speak is translated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PLACE_HOLDER: Final = "YOUR-RESOURCE"


@dataclass(frozen=True, slots=True)
class Preset:
    """`base_url`: empty for the type's own address. `keys_at`: where the service gives out its credentials."""

    id: str
    title: str
    type: str
    base_url: str = ""
    dialects: tuple[str, ...] = ()
    needs_credential: bool = True
    keys_at: str = ""
    note: str = ""


_CHAT: Final = ("openai-chat",)
_CHAT_AND_EMBEDDINGS: Final = ("openai-chat", "openai-embeddings")

PRESETS: Final[tuple[Preset, ...]] = (
    Preset("openai", "OpenAI", "openai", "https://api.openai.com", keys_at="platform.openai.com/api-keys"),
    Preset(
        "anthropic", "Anthropic", "anthropic", "https://api.anthropic.com",
        keys_at="console.anthropic.com/settings/keys",
    ),
    Preset(
        "vllm", "vLLM", "vllm", "http://127.0.0.1:8000", needs_credential=False,
        note="The address of the server. A key only if it was started with --api-key.",
    ),
    Preset(
        "ollama", "Ollama", "openai", "http://127.0.0.1:11434", _CHAT_AND_EMBEDDINGS, needs_credential=False,
        note="Ollama needs no key. From a container, its host is not 127.0.0.1.",
    ),
    Preset("groq", "Groq", "openai", "https://api.groq.com/openai/v1", _CHAT, keys_at="console.groq.com/keys"),
    Preset(
        "mistral", "Mistral", "openai", "https://api.mistral.ai", _CHAT_AND_EMBEDDINGS,
        keys_at="console.mistral.ai/api-keys",
    ),
    Preset(
        "deepseek", "DeepSeek", "openai", "https://api.deepseek.com", _CHAT, keys_at="platform.deepseek.com/api_keys"
    ),
    Preset(
        "together", "Together", "openai", "https://api.together.xyz", _CHAT_AND_EMBEDDINGS,
        keys_at="api.together.ai/settings/api-keys",
    ),
    Preset("openrouter", "OpenRouter", "openai", "https://openrouter.ai/api/v1", _CHAT, keys_at="openrouter.ai/keys"),
    Preset(
        "azure", "Azure OpenAI", "openai", f"https://{PLACE_HOLDER}.openai.azure.com/openai/v1",
        keys_at="the resource's page “Keys and Endpoint”",
        note=f"Put your resource's name in place of {PLACE_HOLDER}. Models are called by their deployments' names.",
    ),
    Preset(
        "custom", "Something else", "openai", "", _CHAT, needs_credential=False,
        note="Any service that speaks like OpenAI: the address of its API, with or without /v1 at its end.",
    ),
)  # fmt: skip
BY_ID: Final = {one.id: one for one in PRESETS}
