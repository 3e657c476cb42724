"""OpenAI Responses."""

from __future__ import annotations

from providers.formats import (
    openai_responses,
    openai_responses_stream,
    openai_responses_wire,
)
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


class OpenAIResponses(Dialect):
    name = openai_responses.NAME
    path = "responses"

    def read_envelope(self, body: bytes) -> Envelope:
        return Envelope.read_responses(body)

    def parse_request(self, body: bytes) -> ChatRequest:
        return openai_responses.parse_request(body)

    def for_upstream(self, envelope: Envelope, upstream_model: str) -> Rendered:
        body = envelope.with_model(upstream_model)
        return Rendered(without_seals(body, "input") if has_seals(body) else body)

    def render_request(self, request: ChatRequest, model: UpstreamModel) -> Rendered:
        return openai_responses.render_request(request, model)

    def parse_response(self, body: bytes, *, output_tool: str = "") -> ChatResponse:
        return openai_responses.parse_response(body)

    def render_response(self, response: ChatResponse, asked: ChatRequest | None = None) -> bytes:
        return openai_responses.render_response(response, asked)

    def inspect_response(self, body: bytes) -> Answer:
        return openai_responses_wire.inspect_response(body)

    def stream_parser(self, *, output_tool: str = "") -> StreamParser:
        return openai_responses_stream.Parser()

    def stream_renderer(self, *, show_usage: bool, asked: ChatRequest | None = None) -> StreamRenderer:
        return openai_responses_stream.Renderer(asked)

    def stream_observer(self, *, show_usage: bool) -> Relay:
        return openai_responses_wire.Observer()

    def render_stream_error(self, error: ClientError) -> bytes:
        return openai_responses_wire.failed_event(error, {}, 0)


DIALECT = OpenAIResponses()
