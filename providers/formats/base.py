"""What a wire dialect offers. The data plane knows dialects through this type only; each is one module of
`providers.formats.dialects`. Pure: bytes in, bytes out."""

from __future__ import annotations

from typing import Literal

from providers.formats.canonical import ChatRequest, ChatResponse
from providers.formats.dialect import (
    Answer,
    ClientError,
    Relay,
    Rendered,
    StreamParser,
    StreamRenderer,
    UpstreamModel,
    WireError,
)
from providers.formats.envelope import Envelope
from providers.formats.errors import UnreadableAnswer
from providers.formats.openai_chat_wire import read_error, render_error, told_error


class Dialect:
    """One wire format. The first group of methods is what a provider's dialect needs; a dialect that clients speak too
    has the second group. `family`: what can be translated into each other; one that is no chat passes through only.
    `implied_by`: the dialect whose providers speak this one as well, instead of an entry in their `dialects`."""

    name: str
    """As in a provider's `dialects`."""
    path: str
    """Relative to a provider's API root, which ends in its version: `../api/chat` lies beside that."""
    family: Literal["chat", "embeddings", "count_tokens"] = "chat"
    implied_by: str = ""

    # -- towards a provider --------------------------------------------------------------------------------------------
    def render_request(self, request: ChatRequest, model: UpstreamModel) -> Rendered:
        """Raises InvalidRequest for what cannot be said in this dialect at all."""
        raise NotImplementedError

    def parse_response(self, body: bytes, *, output_tool: str = "") -> ChatResponse:
        """`output_tool` as in Rendered. Raises UnreadableAnswer."""
        raise NotImplementedError

    def stream_parser(self, *, output_tool: str = "") -> StreamParser:
        raise NotImplementedError

    def read_error(self, body: bytes) -> WireError:
        """Of an answer that is not 2xx; any bytes are taken, HTML too."""
        return read_error(body)

    def told_error(self, body: bytes) -> WireError | None:
        """That a 2xx answer holds in place of what was asked for, if it does."""
        return told_error(body)

    # -- towards a client ----------------------------------------------------------------------------------------------
    def read_envelope(self, body: bytes) -> Envelope:
        """Raises InvalidRequest, naming the field."""
        return Envelope.read(body)

    def parse_request(self, body: bytes) -> ChatRequest:
        """Raises InvalidRequest, naming the field."""
        raise NotImplementedError

    def for_upstream(self, envelope: Envelope, upstream_model: str) -> Rendered:
        """The client's own body for a provider that speaks this dialect."""
        return Rendered(envelope.with_model(upstream_model))

    def render_response(self, response: ChatResponse, asked: ChatRequest | None = None) -> bytes:
        """`asked`: the request, as far as the dialect's answers repeat it."""
        raise NotImplementedError

    def inspect_response(self, body: bytes) -> Answer:
        """The answer as it is, with its usage. Raises UnreadableAnswer when it is no answer of this dialect."""
        raise NotImplementedError

    def stream_renderer(self, *, show_usage: bool, asked: ChatRequest | None = None) -> StreamRenderer:
        raise NotImplementedError

    def as_stream(self, body: bytes) -> bytes:
        """A whole answer, which came where a stream was asked for, as the stream that it would have been, for an
        observer. Raises UnreadableAnswer, also in dialects that cannot tell all of it so."""
        raise UnreadableAnswer("it is a whole answer, and no stream")

    def stream_observer(self, *, show_usage: bool) -> Relay:
        """Passes the stream's bytes on as they are, short of a usage chunk that the client did not ask for."""
        raise NotImplementedError

    def render_error(self, error: ClientError) -> bytes:
        """The body of an error answer."""
        return render_error(error)

    def render_stream_error(self, error: ClientError) -> bytes:
        """The event that ends a stream which had begun."""
        raise NotImplementedError
