"""Requests that say what form their answer must have, in each dialect that clients speak: by the dialect's own field,
or in words; and requests that say what was wrong with an answer. Pure; takes bodies that their dialect has read."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from routing.directives import with_output_schema
from routing.shaping import Shape, instruction

MAX_SHOWN: Final = 4_000  # characters of an answer that are repeated to its model
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def natively(body: bytes, dialect: str, shape: Shape) -> bytes:
    """By the dialect's own field, which only JSON has."""
    if shape.schema:
        return with_output_schema(body, dialect, Raw(shape.schema))
    asked = _fields(in_words(body, dialect, shape))  # without words, OpenAI refuses it
    return _encode(asked | {"response_format": {"type": "json_object"}})


def in_words(body: bytes, dialect: str, shape: Shape) -> bytes:
    """For models of which no form can be demanded."""
    fields: dict[str, Any] = dict(_fields(body))
    words = instruction(shape)
    match dialect:
        case "openai-responses":
            _remove(fields, "text", "format")
            given = _any(fields.get("instructions", b"null"))
            fields["instructions"] = f"{given}\n\n{words}" if given else words
        case "anthropic-messages":
            _remove(fields, "output_config", "format")
            fields["system"] = _joined(_any(fields.get("system", b"null")), words)
        case _:
            fields.pop("response_format", None)
            fields["messages"] = with_system(_list(fields["messages"]), words)
    return _encode(fields)


def _remove(fields: dict[str, Any], name: str, inner: str) -> None:
    held = _any(fields.get(name, b"null"))
    if isinstance(held, dict) and inner in held:
        rest = {key: value for key, value in held.items() if key != inner}
        fields |= {name: rest}
        if not rest:
            del fields[name]


def with_system(messages: list[Raw], words: str) -> list[Any]:
    """In the first system message, for some models take no second one."""
    first = _any(messages[0])
    if isinstance(first, dict) and first.get("role") in {"system", "developer"}:
        return [{**first, "content": _joined(first.get("content"), words)}, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]


def _joined(content: Any, words: str) -> Any:
    match content:
        case str() if content:
            return f"{content}\n\n{words}"
        case list():
            return [*content, {"type": "text", "text": words}]
        case _:
            return words


def asked_again(body: bytes, dialect: str, answer: str, objections: str) -> bytes:
    """The request with the model's answer and what is wrong with it."""
    fields: dict[str, Any] = dict(_fields(body))
    name = "input" if dialect == "openai-responses" else "messages"
    turns: Any = _any(fields.get(name, b"null"))
    if not isinstance(turns, list):
        turns = [{"role": "user", "content": turns}] if turns else []
    answer = answer[:MAX_SHOWN].strip() or "(nothing)"
    fields[name] = [*turns, {"role": "assistant", "content": answer}, {"role": "user", "content": objections}]
    return _encode(fields)
