"""A whole answer told as a stream, for clients that asked for one of a provider that makes none. Pure."""

from __future__ import annotations

from providers.formats.base import Dialect
from providers.formats.canonical import (
    ChatResponse,
    Ended,
    Finished,
    PartEnded,
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
    ToolStarted,
    UsageSeen,
)


class WholeParser:
    """A StreamParser of an answer's body, which says all of it once that has ended."""

    def __init__(self, dialect: Dialect, *, output_tool: str = "") -> None:
        self._dialect = dialect
        self._output_tool = output_tool
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[StreamEvent]:
        self._parts.append(data)
        return []

    def close(self) -> list[StreamEvent]:
        """Raises UnreadableAnswer."""
        return events_of(self._dialect.parse_response(b"".join(self._parts), output_tool=self._output_tool))


def events_of(response: ChatResponse) -> list[StreamEvent]:
    """One event for each part, or two; the others around them as in any stream."""
    usage = response.usage
    tier = response.service_tier
    events: list[StreamEvent] = [Started(response.id, response.model, response.created, usage, tier)]
    calls = 0
    for part in response.parts:
        match part:
            case Text():
                events.append(TextDelta(part.text, part.logprobs))
            case Refusal():
                events.append(RefusalDelta(part.text))
            case Thinking():
                events.append(ThinkingDelta(part.text, part.signature, part.redacted, part.source, part.id))
            case ToolCall():
                events += [ToolStarted(calls, part.id, part.name), ToolDelta(calls, part.arguments)]
                calls += 1
            case _:  # no answer has it
                continue
        events.append(PartEnded())
    if usage is not None:
        events.append(UsageSeen(usage))
    return [*events, Finished(response.stop_reason, response.stop_sequence), Ended()]
