"""Reading a client's body into wire types, with errors that name the field. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from providers.formats.errors import InvalidRequest, UnreadableAnswer

T = TypeVar("T")
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_EMPTY_SCHEMA: Final = Raw(b'{"type":"object","properties":{}}')
_any = msgspec.json.Decoder().decode
_HALF: Final = len(b"\\ud83d")
_SURROGATES: Final = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_NOTHING = (b"null", b"false", b"[]", b"{}", b'""')


def read_body(decode: Callable[[bytes], T], body: bytes) -> T:
    """Raises InvalidRequest, naming the field as a path like `messages[...].content`."""
    try:
        return decode(body)
    except msgspec.ValidationError as problem:
        text, _, path = str(problem).partition(" - at ")
        param = path.strip("`").removeprefix("$").removeprefix(".") or None
        raise InvalidRequest(f"{param or 'The body'}: {text}.", param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InvalidRequest(f"The body is not JSON: {problem}.", code="invalid_json") from None


def given(raw: Raw) -> Raw | None:
    """None for what was left out or is null."""
    text = bytes(raw)
    return raw if text and text != b"null" else None


def filled_list(raw: Raw) -> Raw | None:
    """What can be written again as a list that holds something; None for all else, for nothing depends on it."""
    text = bytes(raw)
    if not text.startswith(b"[") or text == b"[]":
        return None
    try:
        return raw if isinstance(_any(text), list) else None
    except UNREADABLE:
        return None


def read_answer(decode: Callable[[bytes], T], data: bytes, what: str) -> T:
    """Raises UnreadableAnswer."""
    try:
        return decode(data)
    except UNREADABLE:
        return read_mended(decode, data, what)


def read_mended(decode: Callable[[bytes], T], data: bytes, what: str) -> T:
    """Of what could not be read: halves of surrogate pairs, as of an emoji that was cut by a server that counts in
    UTF-16, are read as U+FFFD. Raises UnreadableAnswer."""
    if b"\\u" in data:
        try:
            return decode(_SURROGATES.sub(_without_halves, data))
        except UNREADABLE:
            pass
    raise UnreadableAnswer(what) from None


def _without_halves(found: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if len(found[0]) == _HALF else found[0]


def further_fields(body: bytes, known: Iterable[str]) -> dict[str, Any]:
    """The top-level fields that no wire type reads, short of those that ask for nothing. Raises InvalidRequest."""
    found = {}
    for name, raw in _fields(body).items():
        if name not in known and bytes(raw) not in _NOTHING:
            try:
                found[name] = _any(raw)
            except UNREADABLE as problem:
                raise InvalidRequest(f"{name[:100]}: {problem}.", name[:100]) from None
    return found


def object_schema(schema: Raw | None) -> Raw:
    """Of a tool's arguments, which every provider wants to be an object; clients leave that out."""
    if schema is None:
        return _EMPTY_SCHEMA
    try:
        fields = _fields(schema)
    except UNREADABLE:
        return schema  # its provider says what is wrong with it
    return schema if "type" in fields else Raw(_encode({"type": "object", "properties": {}, **fields}))


def is_json_object(text: str) -> bool:
    try:
        return isinstance(_any(text), dict)
    except UNREADABLE:
        return False
