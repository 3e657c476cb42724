"""Anthropic Messages."""

from __future__ import annotations

from providers.formats import anthropic_messages, anthropic_stream, anthropic_wire
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
from providers.formats.seal import has_seals, without_seals


class AnthropicMessages(Dialect):
    name = anthropic_messages.NAME
    path = "messages"

    def read_envelope(self, body: bytes) -> Envelope:
        """A limit of 0 fills the cache, and asks for no answer."""
        return Envelope.read(body, least_output=0)

    def parse_request(self, body: bytes) -> ChatRequest:
        return anthropic_messages.parse_request(body)

    def for_upstream(self, envelope: Envelope, upstream_model: str) -> Rendered:
        body = envelope.with_model(upstream_model)
        if not has_seals(body):
            return Rendered(body)
        return anthropic_messages.without_unthought_turn(without_seals(body, "messages"))

    def render_request(self, request: ChatRequest, model: UpstreamModel) -> Rendered:
        return anthropic_messages.render_request(request, model)

    def parse_response(self, body: bytes, *, output_tool: str = "") -> ChatResponse:
        return anthropic_messages.parse_response(body, output_tool=output_tool)

    def render_response(self, response: ChatResponse, asked: ChatRequest | None = None) -> bytes:
        return anthropic_messages.render_response(response)

    def inspect_response(self, body: bytes) -> Answer:
        return anthropic_wire.inspect_response(body)

    def stream_parser(self, *, output_tool: str = "") -> StreamParser:
        return anthropic_stream.Parser(output_tool=output_tool)

    def stream_renderer(self, *, show_usage: bool, asked: ChatRequest | None = None) -> StreamRenderer:
        return anthropic_stream.Renderer()

    def stream_observer(self, *, show_usage: bool) -> Relay:
        return anthropic_wire.Observer()

    def render_error(self, error: ClientError) -> bytes:
        return anthropic_wire.render_error(error)

    def render_stream_error(self, error: ClientError) -> bytes:
        return anthropic_wire.render_stream_error(error)


DIALECT = AnthropicMessages()
