"""OpenAI chat completion streams to and from the canonical events. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Raw

from providers.formats import openai_chat_types as wire
from providers.formats.canonical import (
    Ended,
    Failed,
    Finished,
    PartEnded,
    RefusalDelta,
    Started,
    StopReason,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolDelta,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import ClientError, Usage
from providers.formats.openai_chat import (
    NAME,
    chat_id,
    extra_of,
    finish_reason,
    rendered_usage,
    said_parts,
    stop_reason,
    thinking,
    thinking_block,
)
from providers.formats.openai_chat_wire import (
    DONE,
    DONE_EVENT,
    WireUsage,
    arguments_text,
    read_error,
    render_stream_error,
)
from providers.formats.reading import filled_list, given, read_answer
from providers.formats.sse import Framer

_encode = msgspec.json.Encoder().encode


class _Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    created: float | None = None
    choices: list[wire.Choice] | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None
    error: Raw = Raw()


_chunk = msgspec.json.Decoder(_Chunk).decode


class _Call(msgspec.Struct):
    """A tool call on its way. It starts with its name, which some servers tell late; what comes of its arguments before
    that is `held`."""

    id: str
    number: int
    has_started: bool = False
    held: str = ""


class Parser:
    """Of the first choice. Tool calls are told apart by index, as far as ids do not contradict: some servers leave out
    the index, repeat one, or go on with a call under another."""

    def __init__(self) -> None:
        self._framer = Framer()
        self._started = self._ended = self._refused = False
        self._finish: str | None = None
        self._identity = ""
        self._calls: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._last: _Call | None = None
        self._count = 0

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Raises UnreadableAnswer."""
        events: list[StreamEvent] = []
        for frame in self._framer.feed(data):
            self._read(frame.data, events)
        return events

    def close(self) -> list[StreamEvent]:
        """Raises UnreadableAnswer."""
        events: list[StreamEvent] = []
        for frame in self._framer.close():
            self._read(frame.data, events)
        if self._finish is not None and not self._ended:
            self._end(events)
        return events

    def _end(self, events: list[StreamEvent]) -> None:
        self._ended = True
        for one in self._calls.values():
            if not one.has_started:
                self._start_call(one, "", events)
        events.append(Finished(stop_reason(self._finish, has_calls=self._count > 0, refused=self._refused)))
        events.append(Ended())

    def _read(self, data: bytes, events: list[StreamEvent]) -> None:
        if self._ended or not data:
            return
        if data == DONE:
            self._end(events)
            return
        chunk = read_answer(_chunk, data, "an event of its stream is no chunk of a chat completion")
        if given(chunk.error) is not None:
            self._ended = True
            events.append(Failed(read_error(data)))
            return
        if not self._started:
            self._started = True
            self._identity = chunk.id or ""
            tier = chunk.service_tier or ""
            events.append(Started(self._identity, chunk.model or "", int(chunk.created or 0), service_tier=tier))
        for choice in chunk.choices or ():
            if not choice.index:
                logprobs = filled_list(choice.logprobs.content) if choice.logprobs is not None else None
                self._read_delta(choice.delta, logprobs, events)
                self._finish = choice.finish_reason or self._finish
        if chunk.usage is not None:
            events.append(UsageSeen(chunk.usage.read()))

    def _read_delta(self, delta: wire.Said | None, logprobs: Raw | None, events: list[StreamEvent]) -> None:
        if delta is None:
            return
        if reasoning := delta.reasoning_content or delta.reasoning:
            events.append(ThinkingDelta(reasoning, source=NAME))
        if delta.thinking_blocks:
            for part in thinking(delta.thinking_blocks, None):
                events.append(ThinkingDelta("", part.signature, part.redacted, part.source, part.id))
                events.append(PartEnded())
        if isinstance(delta.content, str) and (delta.content or logprobs is not None):  # half a letter has no text yet
            events.append(TextDelta(delta.content, logprobs))
        elif isinstance(delta.content, list):
            for said in said_parts(delta.content):
                match said:
                    case Text() if said.text:
                        events.append(TextDelta(said.text))
                    case Thinking() if said.text:
                        events.append(ThinkingDelta(said.text, source=NAME))
        if delta.refusal:
            self._refused = True
            events.append(RefusalDelta(delta.refusal))
        for call in delta.tool_calls or ():
            self._read_call(call, events)
        if delta.function_call is not None:
            self._read_call(wire.ToolCall(delta.function_call, index=0), events)

    def _read_call(self, call: wire.ToolCall, events: list[StreamEvent]) -> None:
        function = call.function or wire.Function()
        one = self._call_of(call, function.name or "")
        if not one.has_started and function.name:
            if one.number == 0 and (extra := extra_of(call)) is not None:  # Gemini signs the first of several only
                events.append(ThinkingDelta(redacted=extra.redacted, source=extra.source))
            self._start_call(one, function.name, events)
        if arguments := arguments_text(function.arguments):
            if one.has_started:
                events.append(ToolDelta(one.number, arguments))
            else:
                one.held += arguments

    def _call_of(self, call: wire.ToolCall, name: str) -> _Call:
        place = call.index
        known = self._calls.get(place) if place is not None else None
        if known is not None and not (call.id and known.id and call.id != known.id):
            one = known
        elif call.id in self._by_id and not (name and place is not None):
            one = self._by_id[call.id]
        elif not call.id and not name and known is None and self._last is not None:
            one = self._last
        else:
            one = _Call(call.id or "", self._count)
            self._count += 1
            if place is None:
                place = max(self._calls, default=-1) + 1
            self._calls[place] = one
            if call.id:
                self._by_id[call.id] = one
        self._last = one
        return one

    def _start_call(self, one: _Call, name: str, events: list[StreamEvent]) -> None:
        one.has_started = True
        events.append(ToolStarted(one.number, one.id or f"call_{self._identity}_{one.number}", name))
        if one.held:
            events.append(ToolDelta(one.number, one.held))


class Renderer:
    """`calls_functions`: for a client of `functions`, who hears of the first call only, as `function_call`."""

    def __init__(self, *, show_usage: bool, calls_functions: bool = False) -> None:
        self._show_usage = show_usage
        self._calls_functions = calls_functions
        self._head: dict[str, Any] = {}
        self._usage: Usage | None = None
        self._reason = StopReason.END
        self._refused = False
        self._thinking: list[str] = []
        self._bound = Thinking()
        self._blocks = 0

    def render(self, events: list[StreamEvent]) -> bytes:
        return b"".join([self._one(event) for event in events])

    def fail(self, error: ClientError) -> bytes:
        return render_stream_error(error)

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, logprobs: Raw | None = None) -> bytes:
        shown = None if logprobs is None else {"content": logprobs, "refusal": None}
        choice = {"index": 0, "delta": delta, "logprobs": shown, "finish_reason": finish_reason}
        return self._event([choice], None)

    def _event(self, choices: list[Any], usage: Any) -> bytes:
        shown = {**self._head, "choices": choices}
        if self._show_usage:
            shown["usage"] = usage
        return b"data: " + _encode(shown) + b"\n\n"

    def _one(self, event: StreamEvent) -> bytes:
        match event:
            case Started():
                self._head = {
                    "id": chat_id(event.id),
                    "object": "chat.completion.chunk",
                    "created": event.created,
                    "model": event.model,
                }
                if event.service_tier:
                    self._head["service_tier"] = event.service_tier
                self._usage = event.usage
                return self._chunk({"role": "assistant", "content": "", "refusal": None})
            case TextDelta():
                return self._end_of_thought() + self._chunk({"content": event.text}, logprobs=event.logprobs)
            case RefusalDelta():
                self._refused = self._refused or bool(event.text)
                return self._chunk({"refusal": event.text})
            case ThinkingDelta():
                return self._thought(event)
            case ToolStarted() if self._calls_functions:
                return self._end_of_thought() + self._function(event.index, {"name": event.name, "arguments": ""})
            case ToolDelta() if self._calls_functions:
                return self._function(event.index, {"arguments": event.arguments})
            case ToolStarted():
                function = {"name": event.name, "arguments": ""}
                call = {"index": event.index, "id": event.id, "type": "function", "function": function}
                return self._end_of_thought() + self._chunk({"tool_calls": [call]})
            case ToolDelta():
                return self._chunk({"tool_calls": [{"index": event.index, "function": {"arguments": event.arguments}}]})
            case PartEnded():
                return self._end_of_thought()
            case Finished():
                self._reason = event.reason
            case UsageSeen():
                self._usage = event.usage
            case Ended():
                return self._end()
            case Failed():
                pass
        return b""

    def _function(self, index: int, call: dict[str, str]) -> bytes:
        return b"" if index else self._chunk({"function_call": call})

    def _thought(self, event: ThinkingDelta) -> bytes:
        """The text goes out as it comes; what its provider wants back follows at its end."""
        if event.redacted:
            part = Thinking(redacted=event.redacted, source=event.source, id=event.id)
            return self._end_of_thought() + self._block(part)
        if event.signature or event.id:
            signature = self._bound.signature + event.signature
            self._bound = Thinking("", signature, source=event.source, id=event.id or self._bound.id)
        if not event.text:
            return b""
        self._thinking.append(event.text)
        return self._chunk({"reasoning_content": event.text})

    def _end_of_thought(self) -> bytes:
        if not self._bound.signature:
            self._thinking.clear()
            return b""
        part = replace(self._bound, text="".join(self._thinking))
        self._thinking, self._bound = [], Thinking()
        return self._block(part)

    def _block(self, part: Thinking) -> bytes:
        """The `openai` package joins lists of two chunks by the `index` of their entries, and fails without one."""
        self._blocks += 1
        return self._chunk({"thinking_blocks": [{"index": self._blocks - 1, **thinking_block(part)}]})

    def _end(self) -> bytes:
        ended = finish_reason(self._reason, refused=self._refused)
        if self._calls_functions and ended == "tool_calls":
            ended = "function_call"
        out = self._end_of_thought() + self._chunk({}, ended)
        if self._show_usage and self._usage is not None:
            out += self._event([], rendered_usage(self._usage))
        return out + DONE_EVENT
