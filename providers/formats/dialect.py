"""The values that a wire dialect gives and takes. The dialect itself is in `base`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from providers.formats.canonical import StreamEvent


MOST_TOKENS: Final = 1_000_000_000
"""Of one kind, in one call: a hundred times the largest context. A provider that tells more is wrong."""
Told = Any
"""A count as a provider tells it: a whole number, nothing, or whatever else JSON has. To be read by `counted`."""


def counted(told: Told) -> int:
    """Never below zero, as nobody is paid for answering, nor above MOST_TOKENS: one wrong figure must not overflow what
    adds them up. Of a fraction the whole; what is no number is 0."""
    if type(told) is int:
        return told if 0 <= told <= MOST_TOKENS else 0 if told < 0 else MOST_TOKENS
    return int(min(told, MOST_TOKENS)) if type(told) is float and told > 0 else 0


def output_counted(given: int, produced: int, reasoning: int, cached: int, total: Told) -> tuple[int, int]:
    """Output with its reasoning, and the reasoning in it. xAI and Gemini leave it out of what was produced; only their
    `total` has it, and Gemini names it nowhere else."""
    unsaid = total - given - produced if type(total) is int and total < MOST_TOKENS else 0
    if unsaid <= 0 or unsaid < reasoning or unsaid == cached:
        return produced, reasoning
    return produced + unsaid, reasoning or unsaid


class Usage(msgspec.Struct, frozen=True):
    """What a call consumed. `input_tokens` holds cached and cache-written ones, `output_tokens` the reasoning.
    `hour_cache_write_tokens`: of those written, what is kept for an hour, which costs more at Anthropic."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    hour_cache_write_tokens: int = 0

    @property
    def is_unlikely(self) -> bool:
        """Its provider told more than can be true, and this is not what it told."""
        return self.input_tokens >= MOST_TOKENS or self.output_tokens >= MOST_TOKENS


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
    details: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """What a request is rendered for. `name` as the provider calls it; `abilities` as its operator declared them, empty
    where nobody did; `max_output_tokens` None where it is not known."""

    name: str
    provider_type: str = ""
    abilities: frozenset[str] = frozenset()
    max_output_tokens: int | None = None


class Rendered(NamedTuple):
    """A request's body for an upstream, the client's parameters that it has no word for, and further headers.
    `output_tool`: the tool by which the model was made to say its answer; its arguments are the answer's text.
    `long_names`: of tools that had to be shortened, by their short ones."""

    body: bytes
    dropped: tuple[str, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    output_tool: str = ""
    long_names: Mapping[str, str] = MappingProxyType({})


class Answer(NamedTuple):
    """A whole answer for the client. `produced_bytes` counts text, reasoning and tool arguments, for an estimate when
    `usage` is None."""

    body: bytes
    usage: Usage | None
    produced_bytes: int


class Relay(Protocol):
    """One stream on its way from an upstream to a client, in the same dialect or another."""

    @property
    def usage(self) -> Usage | None: ...

    @property
    def produced_bytes(self) -> int: ...

    @property
    def finished(self) -> bool:
        """The terminal event is among the bytes returned so far."""

    @property
    def error(self) -> WireError | None:
        """The upstream's error event; it is not among the bytes returned."""

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes: whole events, or nothing yet. Raises UnreadableAnswer."""

    def close(self) -> bytes:
        """The upstream ended. What is left to say, such as a terminal event that it forgot after a finish reason;
        `finished` stays False when the answer is not complete. Raises UnreadableAnswer."""

    def fail(self, error: ClientError) -> bytes:
        """The event that ends the stream in mid-answer."""


class StreamParser(Protocol):
    """Bytes of one dialect's stream to typed events."""

    def feed(self, data: bytes) -> list[StreamEvent]: ...

    def close(self) -> list[StreamEvent]: ...


class StreamRenderer(Protocol):
    """Typed events to bytes of one dialect's stream."""

    def render(self, events: list[StreamEvent]) -> bytes: ...

    def fail(self, error: ClientError) -> bytes: ...
