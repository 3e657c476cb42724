"""OpenAI Responses as they pass through: what is read from answers and streams that go on unchanged, and the event that
ends a broken stream. Nothing is translated here."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from providers.formats import openai_responses_types as wire
from providers.formats.dialect import Answer, ClientError, Told, Usage, WireError, counted, output_counted
from providers.formats.errors import UnreadableAnswer
from providers.formats.openai_chat_wire import DONE, UNREADABLE
from providers.formats.reading import read_mended
from providers.formats.sse import Frame, Framer

_encode = msgspec.json.Encoder().encode
TERMINAL: Final = frozenset({"response.completed", "response.incomplete"})


class WireUsage(msgspec.Struct):
    input_tokens: Told = None
    output_tokens: Told = None
    total_tokens: Told = None
    input_tokens_details: wire.InputDetails | None = None
    output_tokens_details: wire.OutputDetails | None = None

    def read(self) -> Usage:
        read, made = self.input_tokens_details, self.output_tokens_details
        given, cached = counted(self.input_tokens), counted(read.cached_tokens) if read else 0
        thought = counted(made.reasoning_tokens) if made else 0
        produced, thought = output_counted(given, counted(self.output_tokens), thought, cached, self.total_tokens)
        return Usage(
            input_tokens=given,
            cached_input_tokens=cached,
            cache_write_tokens=counted(read.cache_write_tokens) if read else 0,
            output_tokens=produced,
            reasoning_tokens=thought,
        )


class _Part(msgspec.Struct):
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    arguments: str | None = None
    input: str | None = None

    def size(self) -> int:
        parts = [*(self.content or ()), *(self.summary or ())]
        produced = sum(len(part.text or part.refusal or "") for part in parts)
        return produced + len(self.arguments or "") + len(self.input or "")


class _Answered(msgspec.Struct):
    output: list[Raw]
    usage: WireUsage | None = None


class _Response(msgspec.Struct):
    id: str = ""
    model: str = ""
    created_at: float | None = None
    usage: WireUsage | None = None
    error: wire.Error | None = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    sequence_number: int | None = None
    response: _Response | None = None
    message: str | None = None
    code: str | int | None = None
    error: wire.Error | None = None


_answered = msgspec.json.Decoder(_Answered).decode
_item = msgspec.json.Decoder(_Item).decode
_event = msgspec.json.Decoder(_Event).decode


def inspect_response(body: bytes) -> Answer:
    """Raises UnreadableAnswer."""
    try:
        answer = _answered(body)
    except UNREADABLE:
        answer = read_mended(_answered, body, "it is no response")
    if answer.usage is not None:
        return Answer(body, answer.usage.read(), 0)
    return Answer(body, None, sum(map(_size, answer.output)))


def _size(raw: Raw) -> int:
    """Of any item: servers add kinds of their own."""
    try:
        return _item(raw).size()
    except UNREADABLE:
        return len(memoryview(raw))


def failure_of(event: _Event) -> WireError:
    """Of a `response.failed` or an `error` event, in OpenAI's shape or in that of a plain error body."""
    error = event.response.error if event.response is not None else event.error
    message = (error.message if error is not None else event.message) or ""
    code = (error.code if error is not None else event.code) or ""
    return WireError(message, code=str(code))


class Observer:
    """A Relay that passes the stream's bytes on."""

    __slots__ = ("_framer", "_number", "_response", "error", "finished", "produced_bytes", "usage")

    def __init__(self) -> None:
        self._framer = Framer()
        self._number = -1
        self._response = _Response()
        self.usage: Usage | None = None
        self.produced_bytes = 0
        self.finished = False
        self.error: WireError | None = None

    def feed(self, data: bytes) -> bytes:
        return b"".join([frame.raw for frame in self._framer.feed(data) if self._look_at(frame)])

    def close(self) -> bytes:
        return b"".join([frame.raw for frame in self._framer.close() if self._look_at(frame)])

    def fail(self, error: ClientError) -> bytes:
        response = self._response
        head = {"id": response.id, "created_at": response.created_at or 0, "model": response.model}
        return failed_event(error, head, self._number + 1)

    def _look_at(self, frame: Frame) -> bool:
        if self.finished or self.error is not None:
            return False
        if not frame.data or frame.data == DONE:
            return True
        try:
            event = _event(frame.data)
        except UNREADABLE:
            event = read_mended(_event, frame.data, "an event of its stream is none of a response")
        if not event.type and event.error is None:
            raise UnreadableAnswer("an event of its stream is none of a response")
        if event.type in {"response.failed", "error", ""}:
            self.error = failure_of(event)
            return False
        if event.sequence_number is not None:
            self._number = event.sequence_number
        if isinstance(event.delta, str):
            self.produced_bytes += len(event.delta)
            return True
        if event.response is not None:
            self._response = event.response
            if event.response.usage is not None:
                self.usage = event.response.usage.read()
            self.finished = event.type in TERMINAL
        return True


def failed_event(error: ClientError, head: dict[str, Any], number: int) -> bytes:
    """The event that ends a stream in mid-answer; `head`: id, created_at and model of the response, if known."""
    code = "server_error" if error.code in {"upstream_error", "upstream_timeout", "internal_error"} else error.code
    message = f"{error.message} {error.hint}".rstrip()
    response = {
        "id": "", "created_at": 0, "model": "", **head, "object": "response", "status": "failed",
        "error": {"code": code, "message": message}, "incomplete_details": None, "output": [],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": None, "metadata": {},
    }  # fmt: skip
    return say("response.failed", number, response=response)


def say(kind: str, number: int, **fields: Any) -> bytes:
    event = {"type": kind, "sequence_number": number, **fields}
    return b"event: " + kind.encode("ascii") + b"\ndata: " + _encode(event) + b"\n\n"
