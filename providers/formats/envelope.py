"""The outside of a request, read without looking into messages and tools: enough to route it, and to pass its bytes on
with another model name. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from providers.formats.errors import InvalidRequest
from providers.formats.media import Media, media_of

T = TypeVar("T")
MAX_DEPTH_MESSAGE = "The body is nested too deeply."
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_options_fields = msgspec.json.Decoder(dict[str, Raw] | None).decode
_EMPTY: Final = (b"", b"null", b"[]", b"{}")
_MEDIA: Final = re.compile(
    rb'"(?:(?:image|audio|video)_url|input_(?:image|file|audio))"|"type"\s*:\s*"(?:image|document|file|'
    rb'computer_screenshot|image_generation_call|item_reference|container_upload)"'
)
_IMAGES: Final = re.compile(rb'"(?:image_url|input_image)"|"type"\s*:\s*"image"')
_DOCUMENTS: Final = re.compile(rb'"input_file"|"type"\s*:\s*"(?:document|file)"')
_ESCAPED: Final = re.compile(rb"\\u00[2-7]")  # by which a name can be written so that nothing above finds it


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Known(msgspec.Struct):
    """What is read of a chat completion or a message. The raw ones count as input, and are not looked into."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: int | None = None
    messages: Raw = Raw()
    system: Raw = Raw()
    tools: Raw = Raw()
    functions: Raw = Raw()
    response_format: Raw = Raw()
    output_config: Raw = Raw()


class _KnownResponse(msgspec.Struct):
    """What is read of a Responses request."""

    model: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    input: Raw = Raw()


class _KnownEmbedding(msgspec.Struct):
    model: str | None = None
    input: Raw = Raw()


_known = msgspec.json.Decoder(_Known).decode
_known_response = msgspec.json.Decoder(_KnownResponse).decode
_known_embedding = msgspec.json.Decoder(_KnownEmbedding).decode
_EXPECTED: Final = {
    "model": "a string",
    "stream": "true or false",
    "stream_options": "an object",
    "max_completion_tokens": "a whole number",
    "max_tokens": "a whole number",
    "max_output_tokens": "a whole number",
    "n": "a whole number",
}


class Envelope:
    """A request body whose top-level fields are known. `messages_size` is in bytes, of all that counts as input. `n`:
    answers that are asked for; 0: none that has tokens. `has_media`: there may be some that only `media` can tell."""

    __slots__ = (
        "_media", "_turns", "body", "fields", "has_documents", "has_images", "has_json_schema", "has_media",
        "has_tools", "include_usage", "max_output_tokens", "messages_size", "model", "n", "stream",
    )  # fmt: skip

    def __init__(self, body: bytes, fields: dict[str, Raw], known: _Known | _KnownResponse | _KnownEmbedding) -> None:
        self.body = body
        self.fields = fields
        self._turns = known.messages if isinstance(known, _Known) else known.input
        self._media: Media | None = None
        self.model = known.model or ""
        self.stream = self.include_usage = self.has_tools = self.has_json_schema = False
        self.has_images = self.has_documents = self.has_media = False
        self.max_output_tokens: int | None = None
        self.n = 1
        self.messages_size = 0

    @classmethod
    def read(cls, body: bytes, *, least_output: int = 1) -> Envelope:
        """Of a chat completion or a message. Raises InvalidRequest, naming the field."""
        fields, known = _read(_known, body)
        self = cls(body, fields, known)
        start = bytes(memoryview(known.messages)[:64]).lstrip()
        if not start or start == b"null":
            raise InvalidRequest("messages is missing.", "messages")
        if start[:1] != b"[":
            raise InvalidRequest("messages must be an array.", "messages")
        if start[1:].lstrip()[:1] == b"]":
            raise InvalidRequest("messages must hold at least one message.", "messages")
        self.stream = bool(known.stream)
        self.include_usage = known.stream_options is not None and bool(known.stream_options.include_usage)
        limit = known.max_tokens if known.max_completion_tokens is None else known.max_completion_tokens
        self._limit_output(limit, "max_tokens", least_output)
        n = known.n
        if n is not None and not 1 <= n <= 128:
            raise InvalidRequest("n must be a whole number from 1 to 128.", "n")
        self.n = n or 1
        self.messages_size = len(memoryview(known.messages))
        if "system" in fields:
            self.messages_size += len(memoryview(known.system))
        self._count(("tools", "functions"), ("response_format", "output_config"))
        return self

    @classmethod
    def read_responses(cls, body: bytes) -> Envelope:
        """Of a Responses request. Raises InvalidRequest, naming the field."""
        fields, known = _read(_known_response, body)
        self = cls(body, fields, known)
        start = bytes(memoryview(known.input)[:64]).lstrip()
        stored = any(name in fields for name in ("previous_response_id", "conversation", "prompt"))
        if (not start or start == b"null") and not stored:
            raise InvalidRequest("input is missing.", "input")
        if start[:1] not in (b"[", b'"', b"", b"n"):
            raise InvalidRequest("input must be a string or an array.", "input")
        if start[:1] == b"[" and start[1:].lstrip()[:1] == b"]" and not stored:
            raise InvalidRequest("input must hold at least one item.", "input")
        self.stream = bool(known.stream)
        self._limit_output(known.max_output_tokens, "max_output_tokens")
        self.messages_size = len(memoryview(known.input))
        if "instructions" in fields:
            self.messages_size += len(memoryview(fields["instructions"]))
        self._count(("tools",), ("text",))
        return self

    @classmethod
    def read_embeddings(cls, body: bytes) -> Envelope:
        """Of a request for embeddings. Raises InvalidRequest, naming the field."""
        fields, known = _read(_known_embedding, body)
        self = cls(body, fields, known)
        start = bytes(memoryview(known.input)[:64]).lstrip()
        if not start or start == b"null":
            raise InvalidRequest("input is missing.", "input")
        if start[:1] not in (b"[", b'"'):
            raise InvalidRequest("input must be a string, or an array of strings or tokens.", "input")
        self.messages_size = len(memoryview(known.input))
        self.n = 0
        return self

    def _limit_output(self, limit: int | None, name: str, least: int = 1) -> None:
        if limit is not None and not least <= limit < 1 << 31:
            raise InvalidRequest(f"{name} must be a whole number from {least} on.", name)
        self.max_output_tokens = limit

    def _count(self, tools: tuple[str, ...], formats: tuple[str, ...]) -> None:
        """What else counts as input, and which abilities it takes."""
        fields = self.fields
        for name in tools:
            if name in fields and (text := bytes(fields[name])) not in _EMPTY:
                self.messages_size += len(text)
                self.has_tools = True
        for name in formats:
            if name in fields:
                text = bytes(fields[name])
                self.messages_size += len(text)
                self.has_json_schema = self.has_json_schema or b'"json_schema"' in text
        body = self.body
        if b"\\" in body and b"\\u00" in body and _ESCAPED.search(body) is not None:  # the cheapest look first
            self.has_media = True
        if (b'"type"' in body or b'_url"' in body) and _MEDIA.search(body) is not None:  # most have none
            self.has_media = True
            self.has_images = _IMAGES.search(body) is not None
            self.has_documents = _DOCUMENTS.search(body) is not None

    @property
    def turns(self) -> bytes:
        """The conversation so far, as it stands in the body."""
        return bytes(self._turns)

    @property
    def media(self) -> Media:
        """Read when it is asked for: this looks into the messages."""
        if self._media is None:
            self._media = media_of(memoryview(self._turns))
        return self._media

    def raw(self, name: str) -> bytes:
        """A field as it stands in the body; empty when it is not there."""
        return bytes(self.fields.get(name, b""))

    def has_any(self, names: frozenset[str]) -> bool:
        return not names.isdisjoint(self.fields)

    def with_model(self, upstream_model: str, *, ask_usage: bool = False) -> bytes:
        """The body for an upstream: itself where nothing has to change."""
        ask_usage = ask_usage and self.stream and not self.include_usage
        if self.model == upstream_model and not ask_usage:
            return self.body
        fields: dict[str, Any] = {"model": upstream_model}
        fields |= self.fields
        fields["model"] = upstream_model
        if ask_usage:
            options: dict[str, Any] = dict(_options_fields(self.fields.get("stream_options") or b"null") or {})
            options["include_usage"] = True
            fields["stream_options"] = options
        return _encode(fields)


def model_named(body: bytes, *path: str) -> str:
    """By a body that was refused, as far as it can be read; else nothing. `path`: where else than in `model`."""
    try:
        for name in path[:-1]:
            body = bytes(_fields(body).get(name, b""))
        found = msgspec.json.decode(_fields(body).get(path[-1] if path else "model", b'""'))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


def _read(decode: Callable[[bytes], T], body: bytes) -> tuple[dict[str, Raw], T]:
    try:
        if not body.isascii():
            body.decode()  # strings inside values are looked into by nobody else
        fields = _fields(body)
        known = decode(body)
    except msgspec.ValidationError as problem:
        raise _wrong_type(problem) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise InvalidRequest(f"The body is not JSON: {problem}.", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest(MAX_DEPTH_MESSAGE, code="invalid_json") from None
    _refuse_duplicates(body, fields)
    return fields, known


def _wrong_type(problem: msgspec.ValidationError) -> InvalidRequest:
    _, _, path = str(problem).partition(" - at `$.")
    name = path.rstrip("`").partition(".")[0]
    if name not in _EXPECTED:
        return InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return InvalidRequest(f"{name} must be {_EXPECTED[name]}.", name)


def _refuse_duplicates(body: bytes, fields: dict[str, Raw]) -> None:
    """A second value under one name would let two readers see two requests. No JSON that says all of the fields is
    shorter than their plain encoding; so a body of that length, as it came or without its white space, holds nothing
    else. Any other is read pair by pair."""
    plain = _encode(fields)
    if len(plain) == len(body):
        return
    try:
        if len(_compact(plain)) == len(_compact(body)):
            return
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    _read_pairs(body)


def _compact(text: bytes) -> bytes:
    return msgspec.json.format(text, indent=-1)


def _read_pairs(body: bytes) -> None:
    duplicates: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        """Called from the inside out: the last call is for the body itself."""
        seen: set[str] = set()
        duplicates.clear()
        for name, _ in pairs:
            if name in seen:
                duplicates.append(name)
            seen.add(name)

    try:
        json.loads(body, object_pairs_hook=check)
    except RecursionError:
        raise InvalidRequest(MAX_DEPTH_MESSAGE, code="invalid_json") from None
    except ValueError as problem:
        raise InvalidRequest(f"The body is not JSON: {problem}.", code="invalid_json") from None
    if duplicates:
        name = duplicates[0]
        raise InvalidRequest(f"{name[:100]!r} stands twice in the body; say it once.", name[:100])
