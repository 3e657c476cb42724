"""Reasoning that one provider signed or encrypted, on its way through a client that speaks another dialect. There it
travels in that dialect's own field for such things, under a prefix that names where it belongs, and comes back with the
next turn. Whoever else would get it, does not. Pure.

    tokenhub.seal.DIALECT.KIND.ID.PAYLOAD      KIND: s signature, r redacted, p plain (nothing was signed)"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import msgspec
from msgspec import Raw

from providers.formats.canonical import Thinking

PREFIX: Final = "tokenhub.seal."
_MARK: Final = b'"tokenhub.seal.'
_SEAL = re.compile(r"tokenhub\.seal\.([a-z0-9-]+)\.([srp])\.([A-Za-z0-9_-]*)\.(.*)", re.DOTALL)
_FIELDS: Final = ("signature", "data", "encrypted_content")
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def sealed(part: Thinking) -> str:
    """What is signed or redacted in it, and whose it is, as one text."""
    kind, payload = ("r", part.redacted) if part.redacted else ("s" if part.signature else "p", part.signature)
    return f"{PREFIX}{part.source}.{kind}.{part.id if re.fullmatch('[A-Za-z0-9_-]*', part.id) else ''}.{payload}"


def unsealed(part: Thinking, seal: str) -> Thinking | None:
    """The part with what the text says; None when it is no such text."""
    match = _SEAL.fullmatch(seal)
    if match is None:
        return None
    source, kind, identity, payload = match.groups()
    if kind == "r":
        return replace(part, source=source, id=identity, signature="", redacted=payload)
    return replace(part, source=source, id=identity, signature=payload, redacted="")


def has_seals(body: bytes) -> bool:
    return _MARK in body


def without_seals(body: bytes, field: str) -> bytes:
    """The request body without the reasoning of others in its list `field`: its own provider refuses such parts."""
    fields = _fields(body)
    turns = _decode(fields.get(field, b"null"))
    if isinstance(turns, list):
        kept = [_cleared(turn) for turn in turns if not _is_foreign(turn)]
        fields[field] = Raw(_encode([turn for turn in kept if turn is not None]))
    return _encode(fields)


def without_fields(body: bytes, field: str, names: Iterable[str]) -> bytes:
    """The request body without those fields of the turns in its list `field`."""
    fields = _fields(body)
    turns = _decode(fields.get(field, b"null"))
    if isinstance(turns, list):
        drop = frozenset(names)
        kept = [{k: v for k, v in turn.items() if k not in drop} if isinstance(turn, dict) else turn for turn in turns]
        fields[field] = Raw(_encode(kept))
    return _encode(fields)


def _cleared(turn: Any) -> Any:
    """None when nothing is left that was said."""
    if not isinstance(turn, dict):
        return turn
    for name in ("content", "thinking_blocks"):
        parts = turn.get(name)
        if isinstance(parts, list) and any(map(_is_foreign, parts)):
            turn[name] = [part for part in parts if not _is_foreign(part)]
            if turn[name]:
                continue
            if name == "content":
                return None
            del turn[name]
    return turn


def _is_foreign(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    values = [part.get(name) for name in _FIELDS]
    return any(isinstance(value, str) and value.startswith(PREFIX) for value in values)
