"""What a service's list of models says, in one form: services agree on `id`, and on little else. Pure.

Read: OpenAI, Anthropic (`max_input_tokens`, `capabilities`), vLLM (`max_model_len`), OpenRouter (`context_length`,
`architecture`, `supported_parameters`), Groq (`context_window`), Mistral (`max_context_length`, `capabilities`),
Together (a bare list, `type`), LM Studio, Ollama (`models`, `name`). What a list leaves open is guessed from well-known
names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from providers.formats.reasoning import is_openai_model, is_openai_reasoner

MAX_MODELS: Final = 5_000
_MAX_TOKENS: Final = 2_147_483_647
_CONTEXT: Final = (
    "context_length", "max_context_length", "context_window", "max_model_len", "max_input_tokens", "input_token_limit",
)  # fmt: skip
_OUTPUT: Final = ("max_output_tokens", "max_completion_tokens", "output_token_limit")
# the words of the services for what a model can do, and ours
_WORDS: Final[Mapping[str, str]] = {
    "tools": "tools",
    "function_calling": "tools",
    "vision": "vision",
    "image": "vision",
    "image_input": "vision",
    "file": "documents",
    "pdf_input": "documents",
    "structured_outputs": "structured_output",
    "structured_output": "structured_output",
    "reasoning": "reasoning",
    "thinking": "reasoning",
}
_EMBEDS = re.compile(r"(?:^|[-_/.:])(?:embed|embedding|embeddings|bge|e5|gte|voyage)(?:[-_/.:]|$)|embed", re.IGNORECASE)
_NO_TEXT = re.compile(
    r"whisper|dall-?e|(?:^|[-_/])tts|transcribe|moderation|realtime|-audio|gpt-image|sora|rerank|stable-diffusion|flux"
    r"|(?:^|[-_/])imagen|(?:^|[-_/])veo|playai",
    re.IGNORECASE,
)
_CLAUDE = re.compile(r"(?:^|[/.])claude-")
_CLAUDE_OLD = re.compile(r"claude-(?:2|instant)|claude-3-(?:opus|sonnet|haiku|5)")
_GEMINI = re.compile(r"(?:^|/)gemini-(\d+(?:\.\d+)?)")
_OPENAI_BLIND = re.compile(r"gpt-3\.5|gpt-4(?:$|-\d{4}$|-32k)|o1-mini|o1-preview|o3-mini")


class Kind(StrEnum):
    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    OTHER = "other"
    """Speech, images and the like, which TokenHub does not route."""


@dataclass(frozen=True, slots=True)
class Listed:
    """None, and no ability: not known."""

    id: str
    kind: Kind = Kind.CHAT
    max_context_tokens: int | None = None
    max_output_tokens: int | None = None
    abilities: tuple[str, ...] = ()


def read(document: Any) -> list[Listed] | None:
    """In the service's order, each id once. None: this is no list of models."""
    rows = document
    if isinstance(document, dict):
        rows = document.get("data", document.get("models"))
    if not isinstance(rows, list):
        return None
    found: dict[str, Listed] = {}
    for row in rows[:MAX_MODELS]:
        if (one := _one(row)) is not None:
            found.setdefault(one.id, one)
    return list(found.values())


def _one(row: Any) -> Listed | None:
    if isinstance(row, str):
        row = {"id": row}
    if not isinstance(row, dict):
        return None
    name = row.get("id") or row.get("name") or row.get("model")
    if not isinstance(name, str) or not name.strip() or len(name) > 200 or not name.isprintable():
        return None
    kind = _kind(name, row)
    inner = row.get("top_provider")
    places = [row, inner] if isinstance(inner, dict) else [row]
    abilities = _abilities(row) or _guessed(name, kind)
    return Listed(
        id=name,
        kind=kind,
        max_context_tokens=_tokens(places, _CONTEXT),
        max_output_tokens=_tokens(places, _OUTPUT)
        or _tokens([row] if "max_input_tokens" in row else [], ("max_tokens",)),
        abilities=("embeddings",) if kind is Kind.EMBEDDINGS else abilities,
    )


def _kind(name: str, row: dict[str, Any]) -> Kind:
    architecture = row.get("architecture")
    told = [row.get("type"), row.get("task"), *_texts(architecture, "output_modalities")]
    words = {str(one).lower() for one in told if isinstance(one, str)}
    if words & {"embedding", "embeddings"}:
        return Kind.EMBEDDINGS
    if words & {"image", "audio", "video", "rerank", "moderation", "transcribe"} and "text" not in words:
        return Kind.OTHER
    if words & {"chat", "language", "text", "llm", "vlm"}:
        return Kind.CHAT
    if _NO_TEXT.search(name):
        return Kind.OTHER
    return Kind.EMBEDDINGS if _EMBEDS.search(name) else Kind.CHAT


def _texts(place: Any, name: str) -> list[str]:
    found = place.get(name) if isinstance(place, dict) else None
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _tokens(places: list[dict[str, Any]], names: tuple[str, ...]) -> int | None:
    for place in places:
        for name in names:
            value = place.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_TOKENS:
                return value
    return None


def _abilities(row: dict[str, Any]) -> tuple[str, ...]:
    """As the list tells them."""
    words = [*_texts(row, "supported_parameters"), *_texts(row.get("architecture"), "input_modalities")]
    capabilities = row.get("capabilities")
    if isinstance(capabilities, dict):
        for name, value in capabilities.items():
            if value is True or (isinstance(value, dict) and value.get("supported") is True):
                words.append(str(name))
    else:
        words += _texts(row, "capabilities")
    found = {_WORDS[one] for one in words if one in _WORDS}
    if isinstance(capabilities, dict) and "pdf_input" in capabilities:  # Anthropic's list: all its models take tools
        found.add("tools")
    return tuple(sorted(found))


def _guessed(name: str, kind: Kind) -> tuple[str, ...]:
    """Of families whose abilities are known; of others nothing is claimed."""
    if kind is not Kind.CHAT:
        return ()
    found: set[str] = set()
    if _CLAUDE.search(name):
        found = {"tools", "vision", "documents", "structured_output"}
        if not _CLAUDE_OLD.search(name):
            found.add("reasoning")
    elif match := _GEMINI.search(name):
        found = {"tools", "vision", "documents", "structured_output"}
        if float(match[1]) >= 2.5:
            found.add("reasoning")
    elif is_openai_model(name):
        found = {"tools", "structured_output"}
        if not _OPENAI_BLIND.search(name):
            found |= {"vision", "documents"}
        if is_openai_reasoner(name):
            found.add("reasoning")
    return tuple(sorted(found))
