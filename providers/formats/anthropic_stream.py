"""Anthropic message streams to and from the canonical events. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from providers.formats import anthropic_types as wire
from providers.formats.anthropic_messages import (
    NAME,
    STOP_REASONS,
    WORDS,
    message_id,
    rendered_usage,
    service_tier,
    thinking,
    thinking_block,
)
from providers.formats.anthropic_wire import WireUsage, render_stream_error
from providers.formats.canonical import (
    Ended,
    Failed,
    Finished,
    PartEnded,
    RefusalDelta,
    Started,
    StopReason,
    StreamEvent,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolDelta,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import ClientError, Usage
from providers.formats.openai_chat_wire import read_error
from providers.formats.reading import given, is_json_object, read_answer
from providers.formats.seal import sealed
from providers.formats.sse import Framer

_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    usage: WireUsage | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: wire.StartedBlock | None = None
    delta: wire.Delta | None = None
    usage: WireUsage | None = None


_event = msgspec.json.Decoder(_Event).decode


class Parser:
    """Blocks of kinds that have no counterpart elsewhere (tools that Anthropic runs itself) are passed over."""

    def __init__(self, *, output_tool: str = "") -> None:
        """What `output_tool` is called with is the answer's text; what is said besides it is not."""
        self._framer = Framer()
        self._output_tool = output_tool
        self._output_index = -1
        self._held: list[str] = []
        self._ended = False
        self._finish: Finished | None = None
        self._usage: Usage | None = None
        self._tools: dict[int, int] = {}
        self._known: set[int] = set()
        self._silent: set[int] = set()

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
            self._ended = True
            self._let_go(events)
            events.append(Ended())
        return events

    def _let_go(self, events: list[StreamEvent]) -> None:
        if self._held:
            events.append(TextDelta("".join(self._held)))
            self._held.clear()

    def _read(self, data: bytes, events: list[StreamEvent]) -> None:
        if self._ended or not data:
            return
        read = read_answer(_event, data, "an event of its stream is none of a message")
        match read.type:
            case "message_start" if read.message is not None:
                if read.message.usage is not None:
                    self._usage = read.message.usage.over(self._usage)
                tier = service_tier(read.message.usage)
                events.append(Started(read.message.id, read.message.model, usage=self._usage, service_tier=tier))
                self._say_usage(events)
            case "content_block_start" if read.content_block is not None:
                self._start_block(read.index, read.content_block, events)
            case "content_block_delta" if read.delta is not None and read.index in self._known:
                self._read_delta(read.index, read.delta, events)
            case "content_block_stop" if read.index in self._known:
                if read.index in self._silent:  # a call without arguments: elsewhere that is an empty object
                    self._say_arguments(read.index, "{}", events)
                events.append(PartEnded())
            case "message_delta":
                if read.usage is not None:
                    self._usage = read.usage.over(self._usage)
                if read.delta is not None and read.delta.stop_reason:
                    reason = STOP_REASONS.get(read.delta.stop_reason, StopReason.END)
                    if reason is StopReason.TOOL_CALLS and self._output_index >= 0 and not self._tools:
                        reason = StopReason.END
                    self._let_go(events)
                    self._finish = Finished(reason, read.delta.stop_sequence)
                    events.append(self._finish)
                self._say_usage(events)
            case "message_stop":
                self._ended = True
                events.append(Ended())
            case "error":
                self._ended = True
                events.append(Failed(read_error(data)))

    def _say_usage(self, events: list[StreamEvent]) -> None:
        if self._usage is not None:
            events.append(UsageSeen(self._usage))

    def _start_block(self, index: int, block: wire.StartedBlock, events: list[StreamEvent]) -> None:
        match block.type:
            case "text":
                if block.text:
                    self._say_text(block.text, events)
            case "thinking":
                if block.thinking or block.signature:
                    events.append(_thought(block.thinking, block.signature))
            case "redacted_thinking":
                events.append(_thought("", redacted=block.data))
            case "tool_use" if self._output_tool and block.name == self._output_tool:
                self._held.clear()
                self._output_index = index
                self._silent.add(index)
            case "tool_use":
                self._let_go(events)
                number = self._tools[index] = len(self._tools)
                events.append(ToolStarted(number, block.id, block.name))
                if len(bytes(block.input).strip()) > 2 and given(block.input) is not None:
                    events.append(ToolDelta(number, bytes(block.input).decode("utf-8", "replace")))
                else:
                    self._silent.add(index)
            case _:
                return
        self._known.add(index)

    def _read_delta(self, index: int, delta: wire.Delta, events: list[StreamEvent]) -> None:
        if delta.text:
            self._say_text(delta.text, events)
        if delta.thinking or delta.signature:
            events.append(_thought(delta.thinking, delta.signature))
        if delta.partial_json:
            self._silent.discard(index)
            self._say_arguments(index, delta.partial_json, events)

    def _say_text(self, text: str, events: list[StreamEvent]) -> None:
        if self._output_tool:
            self._held.append(text)
        else:
            events.append(TextDelta(text))

    def _say_arguments(self, index: int, arguments: str, events: list[StreamEvent]) -> None:
        if index == self._output_index:
            events.append(TextDelta(arguments))
        elif index in self._tools:
            events.append(ToolDelta(self._tools[index], arguments))


def _thought(text: str, signature: str = "", redacted: str = "") -> ThinkingDelta:
    part = thinking(text, signature, redacted)
    return ThinkingDelta(part.text, part.signature, part.redacted, part.source, part.id)


class _Waiting(msgspec.Struct):
    """A call whose block is not open yet, and what came of its arguments."""

    call: ToolStarted
    arguments: str = ""


class Renderer:
    """Blocks go out one after the other: a call whose predecessor is not whole yet waits for it."""

    def __init__(self) -> None:
        self._kind = ""
        self._index = -1
        self._tool = -1
        self._written: list[str] = []
        self._waiting: list[_Waiting] = []
        self._usage: Usage | None = None
        self._tier = ""
        self._foreign = Thinking()
        self._finish = Finished(StopReason.END)

    def render(self, events: list[StreamEvent]) -> bytes:
        return b"".join([self._one(event) for event in events])

    def fail(self, error: ClientError) -> bytes:
        return render_stream_error(error)

    def _one(self, event: StreamEvent) -> bytes:
        match event:
            case Started():
                return self._start(event)
            case TextDelta(text="") | RefusalDelta(text=""):
                return b""
            case TextDelta() | RefusalDelta():
                block = {"type": "text", "text": ""}
                return self._open("text", block) + self._delta({"type": "text_delta", "text": event.text})
            case ThinkingDelta():
                return self._thought(event)
            case ToolStarted():
                self._waiting.append(_Waiting(event))
                return self._next_calls()
            case ToolDelta():
                return self._arguments(event)
            case PartEnded():
                return self._next_calls() if self._kind == "tool_use" else self._close()
            case Finished():
                self._finish = event
            case UsageSeen():
                self._usage = event.usage
            case Ended():
                return self._next_calls(force=True) + self._close() + self._end()
            case Failed():
                pass
        return b""

    def _start(self, event: Started) -> bytes:
        self._usage, self._tier = event.usage, event.service_tier
        message: dict[str, Any] = {
            "id": message_id(event.id),
            "type": "message",
            "role": "assistant",
            "model": event.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": rendered_usage(event.usage or Usage(), event.service_tier),
        }
        return _say("message_start", message=message)

    def _thought(self, event: ThinkingDelta) -> bytes:
        if event.redacted:
            block = thinking_block(Thinking(redacted=event.redacted, source=event.source, id=event.id))
            return self._open("redacted_thinking", block) + self._close()
        out = b""
        if event.text:
            out += self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            out += self._delta({"type": "thinking_delta", "thinking": event.text})
        if event.source not in {"", NAME}:  # its signature is whole with the part's end only
            self._foreign = Thinking(
                "", self._foreign.signature + event.signature, source=event.source, id=event.id or self._foreign.id
            )
        elif event.signature:
            self._foreign = Thinking()
            out += self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            out += self._delta({"type": "signature_delta", "signature": event.signature})
        return out

    def _seal(self) -> bytes:
        """What another dialect's provider wants back."""
        part, self._foreign = self._foreign, Thinking()
        if not part.source:
            return b""
        if self._kind == "thinking":
            return self._delta({"type": "signature_delta", "signature": sealed(part)})
        if part.signature:
            return self._open("redacted_thinking", thinking_block(part)) + self._close()
        return b""

    def _arguments(self, event: ToolDelta) -> bytes:
        if event.index == self._tool and self._kind == "tool_use":
            self._written.append(event.arguments)
            return self._delta({"type": "input_json_delta", "partial_json": event.arguments}) + self._next_calls()
        for one in self._waiting:
            if one.call.index == event.index:
                one.arguments += event.arguments
        return b""

    def _next_calls(self, *, force: bool = False) -> bytes:
        """Opens the calls that wait, as far as the open one is whole; all of them with `force`."""
        out = b""
        while self._waiting and (force or self._kind != "tool_use" or self._is_whole()):
            one = self._waiting.pop(0)
            out += self._close()
            out += self._begin("tool_use", {"type": "tool_use", "id": one.call.id, "name": one.call.name, "input": {}})
            self._tool, self._written = one.call.index, [one.arguments]
            if one.arguments:
                out += self._delta({"type": "input_json_delta", "partial_json": one.arguments})
        return out

    def _is_whole(self) -> bool:
        """Whether the open call's arguments are. Looked into only where they may end, for they can be long."""
        return (
            bool(self._written) and self._written[-1].rstrip().endswith("}") and is_json_object("".join(self._written))
        )

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        """A block of that kind, unless one is open already."""
        if self._kind == kind:
            return b""
        return self._next_calls(force=True) + self._close() + self._begin(kind, block)

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        self._kind = kind
        self._index += 1
        return _say("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _say("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> bytes:
        sealed_part = self._seal() if self._foreign.source else b""
        if not self._kind:
            return sealed_part
        self._kind = ""
        return sealed_part + _say("content_block_stop", index=self._index)

    def _end(self) -> bytes:
        delta = {"stop_reason": WORDS[self._finish.reason], "stop_sequence": self._finish.stop_sequence}
        usage = rendered_usage(self._usage or Usage(), self._tier)
        return _say("message_delta", delta=delta, usage=usage) + _say("message_stop")


def _say(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode("ascii") + b"\ndata: " + _encode({"type": kind, **fields}) + b"\n\n"
