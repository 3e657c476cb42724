"""Anthropic messages as they pass through: what is read from answers and streams that go on unchanged, and the
dialect's errors. Nothing is translated here."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from providers.formats.dialect import Answer, ClientError, Told, Usage, WireError, counted
from providers.formats.openai_chat_wire import UNREADABLE, read_error
from providers.formats.reading import read_mended
from providers.formats.sse import Frame, Framer

_encode = msgspec.json.Encoder().encode
TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


_COUNTS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Told = None


class _Written(msgspec.Struct):
    ephemeral_1h_input_tokens: Told = None


class WireUsage(msgspec.Struct):
    input_tokens: Told = None
    cache_read_input_tokens: Told = None
    cache_creation_input_tokens: Told = None
    output_tokens: Told = None
    output_tokens_details: _OutputDetails | None = None
    service_tier: str | None = None
    iterations: Any = None
    cache_creation: _Written | None = None

    def over(self, earlier: Usage | None) -> Usage:
        """Together with what an earlier event said: a later one repeats counts or leaves them out. What a compaction
        took is billed, and stands in its own entry only."""
        if self.iterations:
            return self._with_compactions().over(earlier)
        seen = earlier or Usage()
        before = seen.input_tokens - seen.cached_input_tokens - seen.cache_write_tokens
        given, read, made = self.input_tokens, self.cache_read_input_tokens, self.cache_creation_input_tokens
        if not (given or read or made):  # zeros after counts leave them out, too
            given = read = made = None
        fresh = before if given is None else counted(given)
        cached = seen.cached_input_tokens if read is None else counted(read)
        written = seen.cache_write_tokens if made is None else counted(made)
        details, kept = self.output_tokens_details, self.cache_creation
        return Usage(
            input_tokens=fresh + cached + written,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            output_tokens=seen.output_tokens if self.output_tokens is None else counted(self.output_tokens),
            reasoning_tokens=(counted(details.thinking_tokens) if details else 0) or seen.reasoning_tokens,
            hour_cache_write_tokens=(counted(kept.ephemeral_1h_input_tokens) if kept else 0)
            or seen.hour_cache_write_tokens,
        )

    def _with_compactions(self) -> WireUsage:
        entries = self.iterations if isinstance(self.iterations, list) else []
        apart = [one for one in entries if isinstance(one, dict) and one.get("type") == "compaction"]
        told = {name: getattr(self, name) for name in _COUNTS}
        more = {
            name: counted(value) + sum(counted(one.get(name)) for one in apart)
            for name, value in told.items()
            if value is not None
        }
        return replace(self, iterations=None, **more)


class _Block(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    input: Any = None

    def size(self) -> int:
        total = len(self.text or "") + len(self.thinking or "")
        return total + (len(_encode(self.input)) if self.input else 0)


class _Answered(msgspec.Struct):
    content: list[_Block]
    usage: WireUsage | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Message(msgspec.Struct):
    usage: WireUsage | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    delta: _Delta | None = None
    usage: WireUsage | None = None


_answered = msgspec.json.Decoder(_Answered).decode
_event = msgspec.json.Decoder(_Event).decode


def inspect_response(body: bytes) -> Answer:
    """Raises UnreadableAnswer."""
    try:
        answer = _answered(body)
    except UNREADABLE:
        answer = read_mended(_answered, body, "it is no message")
    usage = answer.usage.over(None) if answer.usage else None
    return Answer(body, usage, sum(block.size() for block in answer.content))


class Observer:
    """A Relay that passes the stream's bytes on."""

    __slots__ = ("_framer", "error", "finished", "produced_bytes", "usage")

    def __init__(self) -> None:
        self._framer = Framer()
        self.usage: Usage | None = None
        self.produced_bytes = 0
        self.finished = False
        self.error: WireError | None = None

    def feed(self, data: bytes) -> bytes:
        return b"".join([frame.raw for frame in self._framer.feed(data) if self._look_at(frame)])

    def close(self) -> bytes:
        return b"".join([frame.raw for frame in self._framer.close() if self._look_at(frame)])

    def fail(self, error: ClientError) -> bytes:
        return render_stream_error(error)

    def _look_at(self, frame: Frame) -> bool:
        if self.finished or self.error is not None:
            return False
        if not frame.data:
            return True
        try:
            event = _event(frame.data)
        except UNREADABLE:
            event = read_mended(_event, frame.data, "an event of its stream is none of a message")
        match event.type:
            case "content_block_delta":
                if (delta := event.delta) is not None:
                    self.produced_bytes += (
                        len(delta.text or "") + len(delta.thinking or "") + len(delta.partial_json or "")
                    )
            case "message_start":
                if event.message is not None and event.message.usage is not None:
                    self.usage = event.message.usage.over(self.usage)
            case "message_delta":
                if event.usage is not None:
                    self.usage = event.usage.over(self.usage)
            case "message_stop":
                self.finished = True
            case "error":
                self.error = read_error(frame.data)
                return False
        return True


def _shape(error: ClientError) -> bytes:
    message = f"{error.message} {error.hint}".rstrip()
    kind = TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    shown: dict[str, Any] = {"type": kind, "message": message}
    if error.details is not None:
        shown["details"] = error.details
    return _encode({"type": "error", "error": shown, "request_id": error.request_id or None})


def render_error(error: ClientError) -> bytes:
    return _shape(error)


def render_stream_error(error: ClientError) -> bytes:
    return b"event: error\ndata: " + _shape(error) + b"\n\n"


__all__ = ["Observer", "WireUsage", "inspect_response", "read_error", "render_error", "render_stream_error"]
