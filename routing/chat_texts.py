"""The texts in an OpenAI chat completion, whole or as chunks: which of them must have a form, and what is left of them
without the model's thoughts. Pure; takes whatever a provider writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from routing.think import ThinkFilter, without_thoughts

MAX_CHOICES: Final = 128
_THOUGHT_FIELDS: Final = ("reasoning_content", "reasoning", "reasoning_details", "reasoning_text", "thinking_blocks")
_THOUGHT_PARTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def messages_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each choice."""
    choices = answer.get("choices")
    messages = [one.get("message") for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    return [one for one in messages if isinstance(one, dict)]


def text_of(message: dict[str, Any]) -> str | None:
    """What must have the form that was asked for; None for a refusal or a tool call."""
    if any(message.get(name) for name in ("refusal", "tool_calls", "function_call")):
        return None
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if _is_text(part))
    return content if isinstance(content, str) else ""


def strip_thoughts(message: dict[str, Any], stripped: Callable[[str], str] = without_thoughts) -> None:
    """Of a message or a delta; also fields in which services show thoughts."""
    for name in _THOUGHT_FIELDS:
        message.pop(name, None)
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = stripped(content)
    elif isinstance(content, list):
        message["content"] = [
            {**part, "text": stripped(part["text"])} if _is_text(part) else part
            for part in content
            if not (isinstance(part, dict) and part.get("type") in _THOUGHT_PARTS)
        ]


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


class ChunkFilter:
    """Takes the thoughts out of the chunks of a stream."""

    def __init__(self) -> None:
        self._thoughts: dict[int, ThinkFilter] = {}

    def filtered(self, chunk: bytes) -> bytes:
        """An event's data, without the thoughts in it. A chunk that is none is passed on."""
        try:
            fields = _any(chunk)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return chunk
        choices = fields.get("choices") if isinstance(fields, dict) else None
        if not isinstance(choices, list):
            return chunk
        for choice in choices:
            if isinstance(choice, dict):
                self._filter(choice)
        return _encode(fields)

    def _filter(self, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        place = index if isinstance(index, int) and 0 <= index < MAX_CHOICES else 0
        thoughts = self._thoughts.setdefault(place, ThinkFilter())
        delta = choice.get("delta")
        if isinstance(delta, dict):
            strip_thoughts(delta, thoughts.feed)
        if choice.get("finish_reason") and (held := thoughts.close()):
            delta = choice["delta"] = delta if isinstance(delta, dict) else {}
            content = delta.get("content")
            delta["content"] = (
                [*content, {"type": "text", "text": held}]
                if isinstance(content, list)
                else ((content if isinstance(content, str) else "") + held)
            )
