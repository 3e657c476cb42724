"""An answer in one piece, told as a stream, says what it says as it is."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from providers.formats.canonical import (
    ChatRequest,
    ChatResponse,
    Ended,
    Finished,
    Message,
    Refusal,
    RefusalDelta,
    StopReason,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import Usage
from providers.formats.errors import UnreadableAnswer
from providers.formats.registry import DIALECTS, relay

CHATS = [name for name, one in DIALECTS.items() if one.family == "chat" and name != "ollama-chat"]
USAGE = Usage(input_tokens=20, cached_input_tokens=5, output_tokens=9)
CALLS = (ToolCall("call_1", "look", '{"at":"a"}'), ToolCall("call_2", "look", "{}"))
ASKED = ChatRequest(messages=[Message("user", (Text("Hi"),))], stream=True)


def told(upstream: str, client: str, response: ChatResponse) -> tuple[Any, list[Any]]:
    """The relay, and the events that its client reads."""
    body = DIALECTS[upstream].render_response(response, ASKED)
    stream = relay(
        DIALECTS[upstream], DIALECTS[client], show_usage=True, now=1_700_000_000.0, asked=ASKED, is_whole=True
    )
    assert not stream.feed(body[:50]) + stream.feed(body[50:])
    parser = DIALECTS[client].stream_parser()
    return stream, parser.feed(stream.close()) + parser.close()


@pytest.mark.parametrize("client", CHATS)
@pytest.mark.parametrize("upstream", CHATS)
def test_texts_calls_usage_and_end_arrive(upstream: str, client: str) -> None:
    response = ChatResponse("r1", "m1", (Text("Let me look."), *CALLS), StopReason.TOOL_CALLS, USAGE, created=1)
    stream, events = told(upstream, client, response)
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == "Let me look."
    calls = [(one.id, one.name) for one in events if isinstance(one, ToolStarted)]
    assert calls == [(one.id, one.name) for one in CALLS]
    for number, call in enumerate(CALLS):
        deltas = [one.arguments for one in events if isinstance(one, ToolDelta) and one.index == number]
        assert "".join(deltas) == call.arguments
    (finished,) = [one for one in events if isinstance(one, Finished)]
    assert finished.reason is StopReason.TOOL_CALLS
    assert [one.usage for one in events if isinstance(one, UsageSeen)][-1] == USAGE
    assert events[-1] == Ended()
    assert (stream.usage, stream.finished) == (USAGE, True)
    assert stream.produced_bytes == len("Let me look.") + sum(len(one.arguments) for one in CALLS)


@pytest.mark.parametrize("client", CHATS)
def test_thoughts_come_back_with_what_their_provider_wants_of_them(client: str) -> None:
    thought = Thinking("Hm.", "c2lnbmVk", source="anthropic-messages")
    response = ChatResponse("r1", "m1", (thought, Text("Yes.")), StopReason.END, USAGE)
    _, events = told("anthropic-messages", client, response)
    thoughts = [one for one in events if isinstance(one, ThinkingDelta)]
    assert "".join(one.text for one in thoughts if not one.redacted) == "Hm."
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == "Yes."


def test_refusals_and_probabilities_arrive() -> None:
    shown = Raw(b'[{"token":"No","logprob":-0.1}]')
    _, events = told(
        "openai-chat", "openai-chat", ChatResponse("r", "m", (Text("No", logprobs=shown),), StopReason.END, None)
    )
    assert [one.logprobs for one in events if isinstance(one, TextDelta) and one.text] == [shown]
    _, events = told(
        "openai-chat", "openai-chat", ChatResponse("r", "m", (Refusal("I cannot."),), StopReason.REFUSAL, None)
    )
    assert [one.text for one in events if isinstance(one, RefusalDelta) and one.text] == ["I cannot."]


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("body", [b"{", b"{}", b'{"choices":[]}', b'{"content":3}'])
def test_what_is_no_answer_is_none_here_either(name: str, body: bytes) -> None:
    stream = relay(DIALECTS[name], DIALECTS[name], show_usage=True, now=0.0, is_whole=True)
    stream.feed(body)
    with pytest.raises(UnreadableAnswer):
        stream.close()
