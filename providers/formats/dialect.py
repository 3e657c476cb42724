"""What a wire dialect offers. The data plane knows dialects through these types only; each dialect is one module here,
named by DIALECTS. Pure: bytes in, bytes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from providers.formats.canonical import ChatRequest, ChatResponse, StreamEvent


class Usage(msgspec.Struct, frozen=True):
    """What a call consumed. `input_tokens` holds cached and cache-written ones, `output_tokens` the reasoning."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class WireError:
    """An upstream's error, in its own words. Empty where it gave none."""

    message: str
    type: str = ""
    code: str = ""
    param: str = ""


@dataclass(frozen=True, slots=True)
class ClientError:
    """An error for the client; `message` is a plain sentence, `hint` the next step."""

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    hint: str = ""
    request_id: str = ""


class Rendered(NamedTuple):
    """A request's body for an upstream, the client's parameters that it has no word for, and further headers."""

    body: bytes
    dropped: tuple[str, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Answer(NamedTuple):
    """A whole answer for the client. `produced_bytes` counts text, reasoning and tool arguments, for an estimate when
    `usage` is None."""

    body: bytes
    usage: Usage | None
    produced_bytes: int


class Relay(Protocol):
    """One stream on its way from an upstream to a client, in the same dialect or another."""

    usage: Usage | None
    produced_bytes: int
    finished: bool
    """The terminal event is among the bytes returned so far."""
    error: WireError | None
    """The upstream's error event; it is not among the bytes returned."""

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes: whole events, or nothing yet. Raises UnreadableAnswer."""

    def close(self) -> bytes:
        """The upstream ended. What is left to say, such as a terminal event that it forgot after a finish reason;
        `finished` stays False when the answer is not complete. Raises UnreadableAnswer."""


class StreamParser(Protocol):
    """Bytes of one dialect's stream to typed events."""

    def feed(self, data: bytes) -> list[StreamEvent]: ...

    def close(self) -> list[StreamEvent]: ...


class StreamRenderer(Protocol):
    """Typed events to bytes of one dialect's stream."""

    def render(self, events: list[StreamEvent]) -> bytes: ...


class Dialect(Protocol):
    name: str
    """As in a provider's `dialects`."""
    path: str
    """Appended to a provider's API root."""

    def parse_request(self, body: bytes) -> ChatRequest:
        """Raises InvalidRequest, naming the field."""

    def render_request(self, request: ChatRequest, *, upstream_model: str, max_output_tokens_default: int) -> Rendered:
        """The default stands in where the dialect needs a limit and the client gave none. Raises InvalidRequest for
        what cannot be said in this dialect at all."""

    def parse_response(self, body: bytes) -> ChatResponse:
        """Raises UnreadableAnswer."""

    def render_response(self, response: ChatResponse) -> bytes: ...

    def inspect_response(self, body: bytes) -> Answer:
        """The answer as it is, with its usage. Raises UnreadableAnswer when it is no answer of this dialect."""

    def stream_parser(self) -> StreamParser: ...

    def stream_renderer(self, *, show_usage: bool) -> StreamRenderer: ...

    def stream_observer(self, *, show_usage: bool) -> Relay:
        """Passes the stream's bytes on as they are, short of a usage chunk that the client did not ask for."""

    def read_error(self, body: bytes) -> WireError:
        """Of an answer that is not 2xx; any bytes are taken, HTML too."""

    def render_error(self, error: ClientError) -> bytes:
        """The body of an error answer."""

    def render_stream_error(self, error: ClientError) -> bytes:
        """The event that ends a stream which had begun."""
