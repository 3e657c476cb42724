"""The outside of a chat request, read without looking into messages and tools: enough to route it, and to pass its
bytes on with another model name. Works for every chat dialect. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from providers.formats.errors import InvalidRequest

MAX_DEPTH_MESSAGE = "The body is nested too deeply."
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(str | None).decode
_flag = msgspec.json.Decoder(bool | None).decode
_count = msgspec.json.Decoder(int | None).decode
_EMPTY: Final = (b"null", b"[]", b"{}")
_INPUTS: Final = ("messages", "system", "tools", "functions", "response_format", "output_config", "documents")
_MEDIA: Final = re.compile(rb'"(?:image_url|input_image|input_file)"|"type": ?"(?:image|document|file)"')
_IMAGES: Final = re.compile(rb'"(?:image_url|input_image)"|"type": ?"image"')
_DOCUMENTS: Final = re.compile(rb'"input_file"|"type": ?"(?:document|file)"')


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_stream_options = msgspec.json.Decoder(_StreamOptions | None).decode
_options_fields = msgspec.json.Decoder(dict[str, Raw] | None).decode


class Envelope:
    """A request body whose top-level fields are known. `messages_size` is in bytes, of all that counts as input."""

    __slots__ = (
        "_fields", "body", "has_documents", "has_images", "has_json_schema", "has_tools", "include_usage",
        "max_output_tokens", "messages_size", "model", "n", "stream",
    )  # fmt: skip

    def __init__(self, body: bytes, fields: dict[str, Raw]) -> None:
        self.body = body
        self._fields = fields
        self.model: str = _read(fields, "model", _text, "a string") or ""
        self.stream: bool = bool(_read(fields, "stream", _flag, "true or false"))
        options = _read(fields, "stream_options", _stream_options, "an object")
        self.include_usage = bool(options and options.include_usage)
        limit = _read(fields, "max_completion_tokens", _count, "a whole number")
        if limit is None:
            limit = _read(fields, "max_tokens", _count, "a whole number")
        if limit is not None and not 0 < limit < 1 << 31:
            raise InvalidRequest("max_tokens must be a whole number above 0.", "max_tokens")
        self.max_output_tokens: int | None = limit
        n = _read(fields, "n", _count, "a whole number")
        if n is not None and not 1 <= n <= 128:
            raise InvalidRequest("n must be a whole number from 1 to 128.", "n")
        self.n: int = n or 1
        self.messages_size = sum(len(bytes(raw)) for name in _INPUTS if (raw := fields.get(name)) is not None)
        self.has_tools = any(bytes(fields[name]) not in _EMPTY for name in ("tools", "functions") if name in fields)
        has_media = _MEDIA.search(body) is not None  # one pass for the many that have none
        self.has_images = has_media and _IMAGES.search(body) is not None
        self.has_documents = has_media and _DOCUMENTS.search(body) is not None
        self.has_json_schema = any(
            b'"json_schema"' in bytes(fields[name]) for name in ("response_format", "output_config") if name in fields
        )

    @classmethod
    def read(cls, body: bytes) -> Envelope:
        """Raises InvalidRequest, naming the field."""
        try:
            fields = _fields(body)
        except msgspec.ValidationError:
            raise InvalidRequest("The body must be a JSON object.", code="invalid_json") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise InvalidRequest(f"The body is not JSON: {problem}.", code="invalid_json") from None
        except RecursionError:
            raise InvalidRequest(MAX_DEPTH_MESSAGE, code="invalid_json") from None
        _refuse_duplicates(body, fields)
        messages = fields.get("messages")
        if messages is None:
            raise InvalidRequest("messages is missing.", "messages")
        start = bytes(messages)[:64].lstrip()
        if start[:1] != b"[":
            raise InvalidRequest("messages must be an array.", "messages")
        if start[1:].lstrip()[:1] == b"]":
            raise InvalidRequest("messages must hold at least one message.", "messages")
        return cls(body, fields)

    def with_model(self, upstream_model: str, *, ask_usage: bool) -> bytes:
        """The body for an upstream: itself where nothing has to change."""
        ask_usage = ask_usage and self.stream and not self.include_usage
        if self.model == upstream_model and not ask_usage:
            return self.body
        fields: dict[str, Any] = {"model": upstream_model}
        fields |= self._fields
        fields["model"] = upstream_model
        if ask_usage:
            options: dict[str, Any] = dict(_options_fields(self._fields.get("stream_options") or b"null") or {})
            options["include_usage"] = True
            fields["stream_options"] = options
        return _encode(fields)


def _read(fields: dict[str, Raw], name: str, decode: Any, expected: str) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(f"{name} must be {expected}.", name) from None


def _refuse_duplicates(body: bytes, fields: dict[str, Raw]) -> None:
    """A second value under one name would let two readers see two requests. Most bodies are written in one of two ways
    and are compared with themselves written again; any other is read pair by pair."""
    names = [_encode(name) for name in fields]
    values = [bytes(raw) for raw in fields.values()]
    size, count = sum(map(len, names)) + sum(map(len, values)), len(names)
    for between, after, length in ((b",", b":", 2 * count + 1), (b", ", b": ", 4 * count)):
        if len(body) == size + length:
            again = between.join([name + after + value for name, value in zip(names, values, strict=True)])
            if body == b"{" + again + b"}":
                return
    _read_pairs(body)


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
