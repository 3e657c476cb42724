"""Every chat dialect by its name, and the way of an answer from one to another. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from providers.formats import (
    anthropic_messages,
    anthropic_stream,
    anthropic_wire,
    openai_chat,
    openai_chat_stream,
    openai_chat_wire,
)
from providers.formats.canonical import (
    ChatRequest,
    ChatResponse,
    Ended,
    Failed,
    Refusal,
    RefusalDelta,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    UsageSeen,
)
from providers.formats.dialect import (
    Answer,
    ClientError,
    Dialect,
    Relay,
    Rendered,
    StreamParser,
    StreamRenderer,
    Usage,
    WireError,
)


class OpenAIChat:
    name = "openai-chat"
    path = "/chat/completions"

    def parse_request(self, body: bytes) -> ChatRequest:
        return openai_chat.parse_request(body)

    def render_request(self, request: ChatRequest, *, upstream_model: str, max_output_tokens_default: int) -> Rendered:
        return openai_chat.render_request(
            request, upstream_model=upstream_model, max_output_tokens_default=max_output_tokens_default
        )

    def parse_response(self, body: bytes) -> ChatResponse:
        return openai_chat.parse_response(body)

    def render_response(self, response: ChatResponse) -> bytes:
        return openai_chat.render_response(response)

    def inspect_response(self, body: bytes) -> Answer:
        return openai_chat_wire.inspect_response(body)

    def stream_parser(self) -> StreamParser:
        return openai_chat_stream.Parser()

    def stream_renderer(self, *, show_usage: bool) -> StreamRenderer:
        return openai_chat_stream.Renderer(show_usage=show_usage)

    def stream_observer(self, *, show_usage: bool) -> Relay:
        return openai_chat_wire.Observer(show_usage=show_usage)

    def read_error(self, body: bytes) -> WireError:
        return openai_chat_wire.read_error(body)

    def render_error(self, error: ClientError) -> bytes:
        return openai_chat_wire.render_error(error)

    def render_stream_error(self, error: ClientError) -> bytes:
        return openai_chat_wire.render_stream_error(error)


class AnthropicMessages:
    name = "anthropic-messages"
    path = "/messages"

    def parse_request(self, body: bytes) -> ChatRequest:
        return anthropic_messages.parse_request(body)

    def render_request(self, request: ChatRequest, *, upstream_model: str, max_output_tokens_default: int) -> Rendered:
        return anthropic_messages.render_request(
            request, upstream_model=upstream_model, max_output_tokens_default=max_output_tokens_default
        )

    def parse_response(self, body: bytes) -> ChatResponse:
        return anthropic_messages.parse_response(body)

    def render_response(self, response: ChatResponse) -> bytes:
        return anthropic_messages.render_response(response)

    def inspect_response(self, body: bytes) -> Answer:
        return anthropic_wire.inspect_response(body)

    def stream_parser(self) -> StreamParser:
        return anthropic_stream.Parser()

    def stream_renderer(self, *, show_usage: bool) -> StreamRenderer:
        return anthropic_stream.Renderer()

    def stream_observer(self, *, show_usage: bool) -> Relay:
        return anthropic_wire.Observer()

    def read_error(self, body: bytes) -> WireError:
        return anthropic_wire.read_error(body)

    def render_error(self, error: ClientError) -> bytes:
        return anthropic_wire.render_error(error)

    def render_stream_error(self, error: ClientError) -> bytes:
        return anthropic_wire.render_stream_error(error)


DIALECTS: Final[dict[str, Dialect]] = {one.name: one for one in (OpenAIChat(), AnthropicMessages())}


def translate_answer(upstream: Dialect, client: Dialect, body: bytes, *, now: float) -> Answer:
    """A whole answer for the client: the same bytes where both speak alike. `now` in Unix seconds. Raises
    UnreadableAnswer."""
    if upstream is client:
        return upstream.inspect_response(body)
    response = upstream.parse_response(body)
    if not response.created:
        response = replace(response, created=int(now))
    return Answer(client.render_response(response), response.usage, _size(response))


def _size(response: ChatResponse) -> int:
    total = 0
    for part in response.parts:
        match part:
            case Text() | Refusal() | Thinking():
                total += len(part.text)
            case ToolCall():
                total += len(part.arguments)
    return total


def relay(upstream: Dialect, client: Dialect, *, show_usage: bool, now: float) -> Relay:
    """One stream's way to the client. `now` in Unix seconds."""
    if upstream is client:
        return upstream.stream_observer(show_usage=show_usage)
    return Translation(upstream.stream_parser(), client.stream_renderer(show_usage=show_usage), now=now)


class Translation:
    """A Relay from one dialect to another: a parser, a renderer, and a look at the events between."""

    def __init__(self, parser: StreamParser, renderer: StreamRenderer, *, now: float) -> None:
        self._parser = parser
        self._renderer = renderer
        self._created = int(now)
        self.usage: Usage | None = None
        self.produced_bytes = 0
        self.finished = False
        self.error: WireError | None = None

    def feed(self, data: bytes) -> bytes:
        return self._pass_on(self._parser.feed(data))

    def close(self) -> bytes:
        return self._pass_on(self._parser.close())

    def _pass_on(self, events: list[StreamEvent]) -> bytes:
        for number, event in enumerate(events):
            match event:
                case TextDelta() | RefusalDelta() | ThinkingDelta():
                    self.produced_bytes += len(event.text)
                case ToolDelta():
                    self.produced_bytes += len(event.arguments)
                case Started(created=0):
                    events[number] = Started(event.id, event.model, self._created, event.usage)
                case UsageSeen():
                    self.usage = event.usage
                case Ended():
                    self.finished = True
                case Failed():
                    self.error = event.error
        return self._renderer.render(events)
