"""OpenAI chat completions, and what so many compatible servers speak."""

from __future__ import annotations

from providers.formats import openai_chat, openai_chat_stream, openai_chat_wire
from providers.formats.base import Dialect
from providers.formats.canonical import ChatRequest, ChatResponse
from providers.formats.dialect import (
    Answer,
    ClientError,
    Relay,
    Rendered,
    StreamParser,
    StreamRenderer,
    UpstreamModel,
)
from providers.formats.envelope import Envelope
from providers.formats.reasoning import is_openai_model
from providers.formats.seal import has_seals, without_fields, without_seals


class OpenAIChat(Dialect):
    name = openai_chat.NAME
    path = "chat/completions"

    def parse_request(self, body: bytes) -> ChatRequest:
        return openai_chat.parse_request(body)

    def for_upstream(self, envelope: Envelope, upstream_model: str) -> Rendered:
        """OpenAI's own models give no thoughts in this dialect: those in the history are another's, and refused."""
        body = envelope.with_model(upstream_model, ask_usage=True)
        if has_seals(body):
            body = without_seals(body, "messages")
        if b'"reasoning_content"' in body and is_openai_model(upstream_model):
            body = without_fields(body, "messages", ("reasoning_content", "reasoning"))
        return Rendered(body)

    def render_request(self, request: ChatRequest, model: UpstreamModel) -> Rendered:
        return openai_chat.render_request(request, model)

    def parse_response(self, body: bytes, *, output_tool: str = "") -> ChatResponse:
        return openai_chat.parse_response(body)

    def render_response(self, response: ChatResponse, asked: ChatRequest | None = None) -> bytes:
        return openai_chat.render_response(response, asked)

    def inspect_response(self, body: bytes) -> Answer:
        return openai_chat_wire.inspect_response(body)

    def stream_parser(self, *, output_tool: str = "") -> StreamParser:
        return openai_chat_stream.Parser()

    def stream_renderer(self, *, show_usage: bool, asked: ChatRequest | None = None) -> StreamRenderer:
        return openai_chat_stream.Renderer(show_usage=show_usage, calls_functions=openai_chat.wants_functions(asked))

    def as_stream(self, body: bytes) -> bytes:
        return openai_chat_wire.as_stream(body)

    def stream_observer(self, *, show_usage: bool) -> Relay:
        return openai_chat_wire.Observer(show_usage=show_usage)

    def render_stream_error(self, error: ClientError) -> bytes:
        return openai_chat_wire.render_stream_error(error)


DIALECT = OpenAIChat()
