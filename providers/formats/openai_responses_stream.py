"""OpenAI Responses streams to and from the canonical events. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from providers.formats import openai_responses_types as wire
from providers.formats.canonical import (
    ChatRequest,
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
from providers.formats.dialect import ClientError, Usage, WireError
from providers.formats.errors import UnreadableAnswer
from providers.formats.openai_chat_wire import DONE, arguments_text
from providers.formats.openai_responses import (
    NAME,
    NamedTool,
    call_item,
    free_text,
    item_id,
    message_item,
    named_tool,
    reasoning_item,
    response_end,
    response_head,
    stop_reason,
    thinking,
)
from providers.formats.openai_responses_wire import TERMINAL, WireUsage, failed_event, say
from providers.formats.reading import filled_list, read_answer
from providers.formats.sse import Framer

_decode_list = msgspec.json.Decoder(list[Any]).decode


class _Response(msgspec.Struct):
    id: str = ""
    model: str = ""
    status: str | None = None
    created_at: float | None = None
    service_tier: str | None = None
    incomplete_details: wire.IncompleteDetails | None = None
    usage: WireUsage | None = None
    error: wire.Error | None = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    output_index: int = 0
    summary_index: int = 0
    item: wire.Item | None = None
    response: _Response | None = None
    logprobs: Raw = Raw()
    message: str | None = None
    code: str | int | None = None
    error: wire.Error | None = None


_event = msgspec.json.Decoder(_Event).decode


class Parser:
    """Items of kinds that have no counterpart elsewhere (tools that OpenAI runs itself) are passed over."""

    def __init__(self) -> None:
        self._framer = Framer()
        self._started = self._ended = self._refused = False
        self._calls: dict[int, int] = {}
        self._written: set[int] = set()
        self._thought: set[int] = set()

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
        return events

    def _read(self, data: bytes, events: list[StreamEvent]) -> None:
        if self._ended or not data or data == DONE:
            return
        read = read_answer(_event, data, "an event of its stream is none of a response")
        delta = read.delta if isinstance(read.delta, str) else ""
        match read.type:
            case "response.output_text.delta":
                events.append(TextDelta(delta, filled_list(read.logprobs)))
            case "response.function_call_arguments.delta" if read.output_index in self._calls:
                self._written.add(read.output_index)
                events.append(ToolDelta(self._calls[read.output_index], delta))
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                self._thought.add(read.output_index)
                events.append(ThinkingDelta(delta, source=NAME))
            case "response.reasoning_summary_part.added" if read.summary_index and read.output_index in self._thought:
                events.append(ThinkingDelta("\n\n", source=NAME))
            case "response.refusal.delta":
                self._refused = True
                events.append(RefusalDelta(delta))
            case "response.output_item.added" if read.item is not None:
                self._start_item(read.output_index, read.item, events)
            case "response.output_item.done" if read.item is not None:
                self._end_item(read.output_index, read.item, events)
            case "response.created" | "response.in_progress" if read.response is not None:
                self._start(read.response, events)
            case "response.failed" | "error" | "":
                if not read.type and read.error is None:
                    raise UnreadableAnswer("an event of its stream is none of a response")
                self._ended = True
                events.append(Failed(_failure(read)))
            case kind if kind in TERMINAL and read.response is not None:
                self._start(read.response, events)
                self._end(read.response, events)

    def _start(self, response: _Response, events: list[StreamEvent]) -> None:
        if not self._started:
            self._started = True
            created, tier = int(response.created_at or 0), response.service_tier or ""
            tier = "" if tier == "auto" else tier  # what was asked for; what was served comes at the end
            events.append(Started(response.id, response.model, created, service_tier=tier))

    def _start_item(self, index: int, item: wire.Item, events: list[StreamEvent]) -> None:
        if item.type == "function_call" and index not in self._calls:
            number = self._calls[index] = len(self._calls)
            events.append(ToolStarted(number, item.call_id or item.id or "", item.name or ""))

    def _end_item(self, index: int, item: wire.Item, events: list[StreamEvent]) -> None:
        match item.type:
            case "function_call":
                self._start_item(index, item, events)
                if index not in self._written and (arguments := arguments_text(item.arguments)):
                    events.append(ToolDelta(self._calls[index], arguments))
            case "reasoning":
                part = thinking(item)
                text = "" if index in self._thought else part.text
                events.append(ThinkingDelta(text, part.signature, part.redacted, part.source, part.id))
            case "message":
                pass
            case _:
                return
        events.append(PartEnded())

    def _end(self, response: _Response, events: list[StreamEvent]) -> None:
        self._ended = True
        if response.usage is not None:
            events.append(UsageSeen(response.usage.read()))
        reason = stop_reason(
            response.status, response.incomplete_details, has_calls=bool(self._calls), refused=self._refused
        )
        events += [Finished(reason), Ended()]


def _failure(event: _Event) -> WireError:
    error = event.response.error if event.response is not None else event.error
    message = (error.message if error is not None else event.message) or ""
    code = (error.code if error is not None else event.code) or ""
    return WireError(message, code=str(code))


class _Open(msgspec.Struct):
    """An item that is being written."""

    kind: str
    index: int
    id: str
    text: list[str] = []
    content: list[dict[str, Any]] = []
    logprobs: list[Any] = []
    tool: NamedTool = NamedTool("")
    call_id: str = ""
    bound: Thinking = Thinking()


class Renderer:
    """A message and reasoning end where something else begins; calls may stay open beside each other."""

    def __init__(self, asked: ChatRequest | None) -> None:
        self._asked = asked
        self._head: dict[str, Any] = {}
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._current: _Open | None = None
        self._calls: dict[int, _Open] = {}
        self._usage: Usage | None = None
        self._reason = StopReason.END
        self._refused = False

    def render(self, events: list[StreamEvent]) -> bytes:
        return b"".join([self._one(event) for event in events])

    def fail(self, error: ClientError) -> bytes:
        head: dict[str, Any] = {name: self._head[name] for name in ("id", "created_at", "model") if name in self._head}
        return failed_event(error, head, self._number)

    def _say(self, kind: str, **fields: Any) -> bytes:
        number = self._number
        self._number += 1
        return say(kind, number, **fields)

    def _one(self, event: StreamEvent) -> bytes:
        match event:
            case TextDelta():
                return self._text(event)
            case ToolDelta():
                return self._arguments(event)
            case ThinkingDelta():
                return self._thought(event)
            case Started():
                self._head = response_head(event.id, event.model, event.created, event.service_tier, self._asked)
                self._usage = event.usage
                return self._say("response.created", response=self._head) + self._say(
                    "response.in_progress", response=self._head
                )
            case RefusalDelta():
                return self._refusal(event)
            case ToolStarted():
                return self._start_call(event)
            case PartEnded():
                return self._close_current() or self._close_last_call()
            case Finished():
                self._reason = event.reason
            case UsageSeen():
                self._usage = event.usage
            case Ended():
                return self._end()
            case Failed():
                pass
        return b""

    # -- items -----------------------------------------------------------------------------------------------------
    def _open(self, kind: str, prefix: str, item: dict[str, Any]) -> tuple[_Open, bytes]:
        index = len(self._items)
        one = _Open(kind, index, item.get("id") or item_id(prefix, self._head.get("id", ""), index))
        item = {**item, "id": one.id}
        self._items.append(item)
        return one, self._say("response.output_item.added", output_index=index, item=item)

    def _message(self) -> tuple[_Open, bytes]:
        if self._current is not None and self._current.kind == "message":
            return self._current, b""
        out = self._close_current()
        item = {**message_item("", [], "in_progress")}
        self._current, added = self._open("message", "msg", item)
        return self._current, out + added

    def _text(self, event: TextDelta) -> bytes:
        one, out = self._message()
        if not one.text or not one.content or one.content[-1]["type"] != "output_text":
            out += self._begin_part(one, {"type": "output_text", "text": "", "annotations": [], "logprobs": []})
        logprobs = _decode_list(event.logprobs) if event.logprobs is not None else []
        one.logprobs += logprobs
        one.text.append(event.text)
        return out + self._say(
            "response.output_text.delta",
            item_id=one.id, output_index=one.index, content_index=len(one.content) - 1, delta=event.text,
            logprobs=logprobs,
        )  # fmt: skip

    def _refusal(self, event: RefusalDelta) -> bytes:
        self._refused = True
        one, out = self._message()
        if not one.text or not one.content or one.content[-1]["type"] != "refusal":
            out += self._begin_part(one, {"type": "refusal", "refusal": ""})
        one.text.append(event.text)
        return out + self._say(
            "response.refusal.delta",
            item_id=one.id, output_index=one.index, content_index=len(one.content) - 1, delta=event.text,
        )  # fmt: skip

    def _begin_part(self, one: _Open, part: dict[str, Any]) -> bytes:
        out = self._end_part(one)
        one.content.append(part)
        place = len(one.content) - 1
        return out + self._say(
            "response.content_part.added", item_id=one.id, output_index=one.index, content_index=place, part=part
        )

    def _end_part(self, one: _Open) -> bytes:
        if not one.text:
            return b""
        whole, place = "".join(one.text), len(one.content) - 1
        where: dict[str, Any] = {"item_id": one.id, "output_index": one.index, "content_index": place}
        if one.content[-1]["type"] == "refusal":
            one.content[-1] = {"type": "refusal", "refusal": whole}
            out = self._say("response.refusal.done", **where, refusal=whole)
        else:
            one.content[-1] = {"type": "output_text", "text": whole, "annotations": [], "logprobs": one.logprobs}
            out = self._say("response.output_text.done", **where, text=whole, logprobs=one.logprobs)
        one.text, one.logprobs = [], []
        return out + self._say("response.content_part.done", **where, part=one.content[-1])

    def _thought(self, event: ThinkingDelta) -> bytes:
        out = b""
        if event.redacted:
            out = self._close_current()
        if self._current is None or self._current.kind != "reasoning":
            out += self._close_current()
            item = {"type": "reasoning", "id": event.id, "summary": []}
            self._current, added = self._open("reasoning", "rs", item)
            out += added
        one = self._current
        known = one.bound
        if event.signature or event.redacted or not known.source:
            one.bound = Thinking(
                "",
                known.signature + event.signature,
                event.redacted,
                event.source or known.source,
                event.id or known.id,
            )
        if event.text:
            where: dict[str, Any] = {"item_id": one.id, "output_index": one.index, "summary_index": 0}
            if not one.text:
                part = {"type": "summary_text", "text": ""}
                out += self._say("response.reasoning_summary_part.added", **where, part=part)
            one.text.append(event.text)
            out += self._say("response.reasoning_summary_text.delta", **where, delta=event.text)
        return out + self._close_current() if event.redacted else out

    def _start_call(self, event: ToolStarted) -> bytes:
        out = self._close_current()
        tool = named_tool(self._asked, event.name)
        item = call_item(tool, "", event.id, "", "in_progress")
        one, added = self._open("call", "fc", item)
        one.tool, one.call_id = tool, event.id
        self._calls[event.index] = one
        return out + added

    def _arguments(self, event: ToolDelta) -> bytes:
        one = self._calls.get(event.index)
        if one is None:
            return b""
        one.text.append(event.arguments)
        if one.tool.is_free_text:  # it stands inside JSON, and is known with its end only
            return b""
        return self._say(
            "response.function_call_arguments.delta", item_id=one.id, output_index=one.index, delta=event.arguments
        )

    # -- ends ------------------------------------------------------------------------------------------------------
    def _close_current(self) -> bytes:
        one, self._current = self._current, None
        if one is None:
            return b""
        if one.kind == "message":
            return self._end_part(one) + self._done(one, message_item(one.id, one.content))
        out = b""
        text = "".join(one.text)
        if text:
            where: dict[str, Any] = {"item_id": one.id, "output_index": one.index, "summary_index": 0}
            part = {"type": "summary_text", "text": text}
            out = self._say("response.reasoning_summary_text.done", **where, text=text)
            out += self._say("response.reasoning_summary_part.done", **where, part=part)
        bound = one.bound
        whole = Thinking(text, bound.signature, bound.redacted, bound.source, bound.id)
        return out + self._done(one, reasoning_item(whole, one.id))

    def _close_last_call(self) -> bytes:
        return self._close_call(max(self._calls)) if self._calls else b""

    def _close_call(self, index: int) -> bytes:
        one = self._calls.pop(index)
        arguments = "".join(one.text) or "{}"
        where: dict[str, Any] = {"item_id": one.id, "output_index": one.index}
        if one.tool.is_free_text:
            text = free_text(arguments)
            out = self._say("response.custom_tool_call_input.delta", **where, delta=text)
            out += self._say("response.custom_tool_call_input.done", **where, input=text)
        else:
            out = b"" if one.text else self._say("response.function_call_arguments.delta", **where, delta=arguments)
            out += self._say("response.function_call_arguments.done", **where, name=one.tool.name, arguments=arguments)
        return out + self._done(one, call_item(one.tool, one.id, one.call_id, arguments))

    def _done(self, one: _Open, item: dict[str, Any]) -> bytes:
        self._items[one.index] = item
        return self._say("response.output_item.done", output_index=one.index, item=item)

    def _end(self) -> bytes:
        out = self._close_current()
        for index in sorted(self._calls):
            out += self._close_call(index)
        ending = response_end(self._reason, self._usage, refused=self._refused)
        response = {**self._head, **ending, "output": self._items}
        return out + self._say(f"response.{ending['status']}", response=response)
