"""Reasoning that one provider signed or encrypted, on its way through a client that speaks another dialect. There it
travels in that dialect's own field for such things, under a prefix that names where it belongs, and comes back with the
next turn. Whoever else would get it, does not. Pure.

    tokenhub.seal.DIALECT.KIND.ID.PAYLOAD      KIND: s signature, r redacted, p plain (nothing was signed)"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

from providers.formats.canonical import Thinking

T = TypeVar("T")
PREFIX: Final = "tokenhub.seal."
_MARK: Final = b'"tokenhub.seal.'
_SEAL = re.compile(r"tokenhub\.seal\.([a-z0-9-]+)\.([srp])\.([A-Za-z0-9_-]*)\.(.*)", re.DOTALL)
_FIELDS: Final = ("signature", "data", "encrypted_content")
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[Raw]).decode
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
    """The request body without the reasoning of others in its list `field`: its own provider refuses such parts. All
    else stays as it was written."""
    return _with_turns(body, field, lambda turn: _cleared(turn) if _MARK in bytes(turn) else turn)


def without_fields(body: bytes, field: str, names: Iterable[str]) -> bytes:
    """The request body without those fields of the turns in its list `field`."""
    drop = frozenset(names)

    def clear(turn: Raw) -> Raw:
        known = _read(_fields, turn)
        if known is None or drop.isdisjoint(known):
            return turn
        return Raw(_encode({name: value for name, value in known.items() if name not in drop}))

    return _with_turns(body, field, clear)


def _with_turns(body: bytes, field: str, change: Callable[[Raw], Raw | None]) -> bytes:
    fields = _fields(body)
    turns = _read(_list, fields.get(field, Raw(b"null")))
    if turns is None:
        return body
    kept = [change(turn) for turn in turns]
    fields[field] = Raw(_encode([turn for turn in kept if turn is not None]))
    return _encode(fields)


def _read(decode: Callable[[Raw], T], raw: Raw) -> T | None:
    """None for what is of another type: its provider says what is wrong with it."""
    try:
        return decode(raw)
    except msgspec.ValidationError:
        return None


def _cleared(turn: Raw) -> Raw | None:
    """None when nothing is left that was said."""
    known = _read(_fields, turn)
    if known is None:
        return turn
    if _is_foreign(known):
        return None
    for name in ("content", "thinking_blocks"):
        parts = _read(_list, known.get(name, Raw(b"null")))
        if parts is None:
            continue
        kept = [part for part in parts if not _is_foreign(_read(_fields, part) or {})]
        if len(kept) == len(parts):
            continue
        if kept:
            known[name] = Raw(_encode(kept))
        elif name == "content":
            return None
        else:
            del known[name]
    return Raw(_encode(known))


def _is_foreign(part: Mapping[str, Raw]) -> bool:
    return any(bytes(part.get(name, b"")).startswith(_MARK) for name in _FIELDS)
