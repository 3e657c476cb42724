"""What an Anthropic message may look like: the whole body, and every event of a stream in its place. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from tokenhub.conformance.rules import a_count, a_list, a_text, an_object, json_object, need, short
from tokenhub.conformance.sse import Event
from tokenhub.conformance.values import BrokenRule, Call, Said, Stop, Trouble, Usage

STOPS: Final = {
    "end_turn": Stop.END,
    "max_tokens": Stop.LENGTH,
    "tool_use": Stop.TOOLS,
    "stop_sequence": Stop.SEQUENCE,
    "refusal": Stop.REFUSAL,
    "pause_turn": Stop.END,
    "model_context_window_exceeded": Stop.LENGTH,
}
ERROR_TYPES: Final = frozenset(
    {
        "invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error",
        "request_too_large", "rate_limit_error", "timeout_error", "api_error", "overloaded_error",
    }
)  # fmt: skip
_DELTAS: Final = {
    "text_delta": ("text", "text"),
    "citations_delta": ("text", ""),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}


def read_whole(body: Any) -> Said:
    """Raises BrokenRule."""
    message = an_object(body, "the answer")
    _head(message)
    said = Said(usage=read_usage(an_object(message.get("usage"), "usage")))
    blocks = a_list(message.get("content"), "content")
    for number, block in enumerate(blocks):
        _add_block(said, an_object(block, f"content[{number}]"))
    said.history = [{"role": "assistant", "content": blocks}]
    _finish(said, message)
    return said


def read_usage(usage: dict[str, Any]) -> Usage:
    """What a dialect leaves out counts as 0 here, but for the two that every usage has."""
    fresh = a_count(usage.get("input_tokens"), "usage.input_tokens")
    output = a_count(usage.get("output_tokens"), "usage.output_tokens")
    written = a_count(usage.get("cache_creation_input_tokens") or 0, "usage.cache_creation_input_tokens")
    cached = a_count(usage.get("cache_read_input_tokens") or 0, "usage.cache_read_input_tokens")
    return Usage(fresh + written + cached, cached, written, output)


def read_error(body: Any) -> Trouble:
    """Raises BrokenRule."""
    need(an_object(body, "the error's body").get("type") == "error", f"type is {short(body.get('type'))}, not error")
    error = an_object(body.get("error"), "error")
    kind = a_text(error.get("type"), "error.type", filled=True)
    need(kind in ERROR_TYPES, f"error.type {kind!r} is none of Anthropic's")
    return Trouble(kind, a_text(error.get("message"), "error.message", filled=True))


def read_stream(events: Sequence[Event]) -> Said:
    """The whole stream. One that ends with an error event is an answer with `error`. Raises BrokenRule."""
    stream = _Stream()
    for number, event in enumerate(events):
        try:
            stream.take(event)
        except BrokenRule as problem:
            raise BrokenRule(f"event {number}: {problem}") from None
    return stream.end()


class _Stream:
    def __init__(self) -> None:
        self._said = Said()
        self._started = False
        self._blocks: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._json = ""
        self._usage: dict[str, Any] = {}
        self._delta: dict[str, Any] | None = None
        self._over = ""

    def take(self, event: Event) -> None:
        need(not self._over, f"something follows {self._over}: {event.data[:120]!r}")
        data = event.json()
        kind = data.get("type")
        need(event.name == kind, f"the event's name is {event.name!r}, its type {short(kind)}")
        if kind == "ping":
            return
        if kind == "error":
            self._said.error = read_error(data)
            self._over = "the error event"
            return
        need(self._started or kind == "message_start", f"{kind} comes before message_start")
        need(self._delta is None or kind == "message_stop", f"{kind} follows message_delta")
        match kind:
            case "message_start":
                self._start(an_object(data.get("message"), "message"))
            case "content_block_start":
                self._block_start(data)
            case "content_block_delta":
                self._block_delta(data)
            case "content_block_stop":
                self._block_stop(data)
            case "message_delta":
                self._message_delta(data)
            case "message_stop":
                need(self._delta is not None, "message_stop without message_delta")
                self._over = "message_stop"
            case _:
                raise BrokenRule(f"{short(kind)} is no event of a message")

    def _start(self, message: dict[str, Any]) -> None:
        need(not self._started, "a second message_start")
        self._started = True
        _head(message)
        need(message.get("content") == [], f"content of message_start is {short(message.get('content'))}")
        need(message.get("stop_reason") is None, "message_start has a stop_reason")
        self._usage = an_object(message.get("usage"), "usage")
        read_usage(self._usage)

    def _block_start(self, data: dict[str, Any]) -> None:
        need(self._open is None, "a block starts within another")
        index = a_count(data.get("index"), "index")
        need(index == len(self._blocks), f"a block's index is {index}, the next one is {len(self._blocks)}")
        block = dict(an_object(data.get("content_block"), "content_block"))
        match block.get("type"):
            case "text":
                a_text(block.get("text"), "a block's text")
            case "thinking":
                a_text(block.get("thinking"), "a block's thinking")
                a_text(block.get("signature"), "a block's signature")
            case "tool_use":
                need(block.get("input") == {}, f"a tool_use block starts with input {short(block.get('input'))}")
            case "redacted_thinking":
                a_text(block.get("data"), "a block's data", filled=True)
            case kind:
                raise BrokenRule(f"{short(kind)} is no type of a block")
        self._open, self._json = block, ""
        self._blocks.append(block)

    def _block_delta(self, data: dict[str, Any]) -> None:
        block = self._opened(data)
        delta = an_object(data.get("delta"), "delta")
        kind = delta.get("type")
        need(kind in _DELTAS, f"{short(kind)} is no type of a delta")
        wanted, name = _DELTAS[str(kind)]
        need(block["type"] == wanted, f"a {kind} stands in a block of type {block['type']}")
        if not name:
            return
        piece = a_text(delta.get(name), f"{kind}.{name}")
        if kind == "input_json_delta":
            self._json += piece
            return
        need(name != "thinking" or not block["signature"], "thinking goes on after its signature")
        block[name] += piece

    def _block_stop(self, data: dict[str, Any]) -> None:
        block = self._opened(data)
        if block["type"] == "tool_use" and self._json:
            try:
                block["input"] = json.loads(self._json)
            except ValueError:
                block["input"] = self._json  # cut by the limit, which message_delta has to say
        self._open = None

    def _opened(self, data: dict[str, Any]) -> dict[str, Any]:
        index = a_count(data.get("index"), "index")
        if self._open is None or index != len(self._blocks) - 1:
            raise BrokenRule(f"{data['type']} of block {index}, which is not open")
        return self._open

    def _message_delta(self, data: dict[str, Any]) -> None:
        need(self._open is None, "message_delta comes within a block")
        delta = an_object(data.get("delta"), "delta")
        need("stop_sequence" in delta, "message_delta says nothing of a stop_sequence")
        usage = an_object(data.get("usage"), "message_delta.usage")
        a_count(usage.get("output_tokens"), "message_delta.usage.output_tokens")
        self._usage = {**self._usage, **{name: value for name, value in usage.items() if value is not None}}
        self._delta = delta

    def end(self) -> Said:
        need(self._over, "the stream ends without message_stop and without an error event")
        said = self._said
        if said.error is None:
            need(self._delta is not None, "no message_delta came")
        for block in self._blocks:
            _add_block(
                said, block, is_cut=said.error is not None or (self._delta or {}).get("stop_reason") == "max_tokens"
            )
        if said.error is None:
            said.history = [{"role": "assistant", "content": self._blocks}]
            said.usage = read_usage(self._usage)
            _finish(said, self._delta or {})
        return said


def _head(message: dict[str, Any]) -> None:
    need(message.get("type") == "message", f"type is {short(message.get('type'))}, not message")
    need(message.get("role") == "assistant", f"role is {short(message.get('role'))}")
    a_text(message.get("id"), "id", filled=True)
    a_text(message.get("model"), "model", filled=True)
    need("stop_reason" in message, "stop_reason is missing")
    need("stop_sequence" in message, "stop_sequence is missing")


def _add_block(said: Said, block: dict[str, Any], *, is_cut: bool = False) -> None:
    match block.get("type"):
        case "text":
            said.text += a_text(block.get("text"), "a block's text")
        case "thinking":
            said.thinking += a_text(block.get("thinking"), "a block's thinking")
            if seal := a_text(block.get("signature"), "a block's signature"):
                said.seals.append(seal)
        case "redacted_thinking":
            said.seals.append(a_text(block.get("data"), "a block's data", filled=True))
        case "tool_use":
            identity = a_text(block.get("id"), "a tool_use block's id", filled=True)
            need(identity not in {one.id for one in said.calls}, f"two calls have the id {identity}")
            name = a_text(block.get("name"), "a tool_use block's name", filled=True)
            given = block.get("input")
            if isinstance(given, str) and not is_cut:
                json_object(given, "a tool_use block's input")
            elif not isinstance(given, str):
                an_object(given, "a tool_use block's input")
            arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            said.calls.append(Call(identity, name, arguments))
        case kind:
            raise BrokenRule(f"{short(kind)} is no type of a block")


def _finish(said: Said, told: dict[str, Any]) -> None:
    reason = told.get("stop_reason")
    need(reason in STOPS, f"stop_reason is {short(reason)}")
    need(reason != "tool_use" or said.calls, "stop_reason is tool_use, but there is no such block")
    need(reason != "end_turn" or not said.calls, "stop_reason is end_turn, but there are tool calls")
    said.stop = STOPS[str(reason)]
    said.stop_sequence = told.get("stop_sequence")
    need(reason != "stop_sequence" or said.stop_sequence, "stop_reason is stop_sequence, but it does not say which")
