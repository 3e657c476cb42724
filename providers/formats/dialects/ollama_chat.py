"""Ollama's own `/api/chat`: JSON lines instead of server-sent events, tool arguments as objects. For providers only: no
client speaks it here. After https://github.com/ollama/ollama/blob/main/docs/api.md."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from providers.formats.base import Dialect
from providers.formats.canonical import (
    ChatRequest,
    ChatResponse,
    Ended,
    Failed,
    Finished,
    Image,
    Message,
    Part,
    Refusal,
    Started,
    StopReason,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolResult,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import Answer, Rendered, StreamParser, Told, UpstreamModel, Usage, WireError, counted
from providers.formats.errors import InvalidRequest
from providers.formats.reading import is_json_object, read_answer
from providers.formats.repair import repaired

_encode = msgspec.json.Encoder().encode
_OPTIONS = {"seed", "top_k", "min_p", "presence_penalty", "frequency_penalty"}
_LEVELS = {"low", "medium", "high"}


# -- what Ollama says ------------------------------------------------------------------------------------------------
class _Function(msgspec.Struct):
    name: str = ""
    arguments: Raw = Raw(b"{}")


class _Call(msgspec.Struct):
    function: _Function


class _Said(msgspec.Struct):
    content: str = ""
    thinking: str = ""
    tool_calls: list[_Call] | None = None


class _Line(msgspec.Struct):
    """A whole answer, or one line of a stream. The last line has `done` and the counts."""

    model: str = ""
    created_at: str = ""
    message: _Said | None = None
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: Told = None
    eval_count: Told = None
    error: str = ""

    def call_id(self, number: int) -> str:
        """Calls have none here. Those of two answers must differ."""
        return f"call_{''.join(filter(str.isalnum, self.created_at))}_{number}"

    def usage(self) -> Usage:
        return Usage(input_tokens=counted(self.prompt_eval_count), output_tokens=counted(self.eval_count))

    def reason(self, *, has_calls: bool) -> StopReason:
        if has_calls:
            return StopReason.TOOL_CALLS
        return StopReason.LENGTH if self.done_reason == "length" else StopReason.END


_line = msgspec.json.Decoder(_Line).decode


class _Parser:
    """JSON lines to events. A call comes whole."""

    def __init__(self) -> None:
        self._tail = b""
        self._calls = 0
        self._started = self._ended = False

    def feed(self, data: bytes) -> list[StreamEvent]:
        *lines, self._tail = (self._tail + data).split(b"\n")
        events: list[StreamEvent] = []
        for line in lines:
            self._read(line, events)
        return events

    def close(self) -> list[StreamEvent]:
        return self.feed(b"\n")

    def _read(self, line: bytes, events: list[StreamEvent]) -> None:
        if self._ended or not line.strip():
            return
        read = read_answer(_line, line, "a line of its stream is no chat message")
        if read.error:
            self._ended = True
            events.append(Failed(WireError(read.error)))
            return
        if not self._started:
            self._started = True
            events.append(Started(f"ollama-{read.created_at}", read.model))
        if (said := read.message) is not None:
            if said.thinking:
                events.append(ThinkingDelta(said.thinking, source=OllamaChat.name))
            if said.content:
                events.append(TextDelta(said.content))
            for call in said.tool_calls or ():
                events.append(ToolStarted(self._calls, read.call_id(self._calls), call.function.name))
                events.append(ToolDelta(self._calls, bytes(call.function.arguments).decode()))
                self._calls += 1
        if read.done:
            self._ended = True
            events += [UsageSeen(read.usage()), Finished(read.reason(has_calls=self._calls > 0)), Ended()]


# -- what Ollama is told ---------------------------------------------------------------------------------------------
def _message(message: Message, names: dict[str, str], dropped: list[str]) -> list[dict[str, Any]]:
    """One message may become several: each tool result is one of its own. `names`: of the tools, by their calls."""
    results: list[dict[str, Any]] = []
    shown: dict[str, Any] = {"role": message.role, "content": ""}
    for number, part in enumerate(message.parts):
        match part:
            case Text() | Refusal():
                shown["content"] += part.text
            case Thinking(source="ollama-chat"):
                shown["thinking"] = shown.get("thinking", "") + part.text
            case Thinking():
                dropped.append("messages.thinking")
            case Image(data=data) if data:
                shown.setdefault("images", []).append(data)
            case ToolCall():
                names[part.id] = part.name
                arguments = Raw((part.arguments if is_json_object(part.arguments) else "{}").encode())
                shown.setdefault("tool_calls", []).append({"function": {"name": part.name, "arguments": arguments}})
            case ToolResult():
                text = "\n".join(one.text for one in part.parts if isinstance(one, Text))
                if part.is_error:
                    text = f"Error: {text}"
                results.append({"role": "tool", "tool_name": names.get(part.call_id, ""), "content": text})
            case _:
                param = f"messages.content[{number}]"
                raise InvalidRequest(f"{param}: Ollama takes images in base64 only, and no files.", param)
    return [*results, shown] if len(shown) > 2 or shown["content"] or not results else results


class OllamaChat(Dialect):
    name = "ollama-chat"
    path = "../api/chat"

    def render_request(self, request: ChatRequest, model: UpstreamModel) -> Rendered:
        dropped = list(request.dropped)
        names: dict[str, str] = {}
        messages = [one for message in repaired(request.messages) for one in _message(message, names, dropped)]
        body: dict[str, Any] = {"model": model.name, "messages": messages, "stream": request.stream}
        if request.tools and (request.tool_choice is None or request.tool_choice.mode != "none"):
            functions = [
                {"name": tool.name, "description": tool.description, "parameters": tool.schema or {"type": "object"}}
                for tool in request.tools
            ]
            body["tools"] = [{"type": "function", "function": function} for function in functions]
        if request.tool_choice is not None and request.tool_choice.mode in {"required", "named"}:
            dropped.append("tool_choice")
        if request.output_schema is not None:
            body["format"] = request.output_schema.schema or "json"
        if (wanted := request.reasoning) is not None:
            body["think"] = wanted.effort if wanted.effort in _LEVELS else wanted.effort != "none"
        if request.logprobs is not None:
            dropped.append("logprobs")
        options = {
            "num_predict": request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": request.stop or None,
            **{name: value for name, value in request.others.items() if name in _OPTIONS},
        }
        body["options"] = {name: value for name, value in options.items() if value is not None}
        dropped += [name for name in request.others if name not in _OPTIONS]
        return Rendered(_encode(body), tuple(dict.fromkeys(dropped)))

    def parse_response(self, body: bytes, *, output_tool: str = "") -> ChatResponse:
        read = read_answer(_line, body, "it is no chat message")
        said = read.message or _Said()
        parts: list[Part] = []
        if said.thinking:
            parts.append(Thinking(said.thinking, source=self.name))
        if said.content:
            parts.append(Text(said.content))
        for number, call in enumerate(said.tool_calls or ()):
            parts.append(ToolCall(read.call_id(number), call.function.name, bytes(call.function.arguments).decode()))
        reason = read.reason(has_calls=bool(said.tool_calls))
        return ChatResponse(f"ollama-{read.created_at}", read.model, tuple(parts), reason, read.usage())

    def inspect_response(self, body: bytes) -> Answer:
        read = read_answer(_line, body, "it is no chat message")
        said = read.message or _Said()
        return Answer(body, read.usage(), len(said.content) + len(said.thinking))

    def stream_parser(self, *, output_tool: str = "") -> StreamParser:
        return _Parser()


DIALECT = OllamaChat()
