"""An answer in one piece, told as a stream, says what it says as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
CHAT = DIALECTS["openai-chat"]
USAGE = Usage(input_tokens=20, cached_input_tokens=5, output_tokens=9)
PAIRS = [(one, other) for one in CHATS for other in CHATS if one != other]
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


@pytest.mark.parametrize(("upstream", "client"), PAIRS)
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


@pytest.mark.parametrize("client", ["openai-chat", "openai-responses"])
def test_thoughts_come_back_with_what_their_provider_wants_of_them(client: str) -> None:
    thought = Thinking("Hm.", "c2lnbmVk", source="anthropic-messages")
    response = ChatResponse("r1", "m1", (thought, Text("Yes.")), StopReason.END, USAGE)
    _, events = told("anthropic-messages", client, response)
    thoughts = [one for one in events if isinstance(one, ThinkingDelta)]
    assert "".join(one.text for one in thoughts if not one.redacted) == "Hm."
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == "Yes."


def test_refusals_arrive() -> None:
    _, events = told(
        "openai-chat", "openai-responses", ChatResponse("r", "m", (Refusal("I cannot."),), StopReason.REFUSAL, None)
    )
    assert "".join(one.text for one in events if isinstance(one, RefusalDelta)) == "I cannot."


def test_nothing_of_a_chat_completion_is_lost_in_its_own_dialect() -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"n": 1.50}'},
        "extra_content": {"a": 1},
    }
    choices = [
        {"index": 0, "finish_reason": "tool_calls", "logprobs": {"content": [{"token": "x", "logprob": -1.250}]},
         "message": {"role": "assistant", "content": "A\nb", "reasoning_content": "Hm", "tool_calls": [call, call]}},
        {"index": 1, "finish_reason": "function_call",
         "message": {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}},
    ]  # fmt: skip
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    whole = {
        "id": "x1",
        "created": 5,
        "model": "m",
        "citations": ["a"],
        "error": None,
        "choices": choices,
        "usage": usage,
    }
    body = json.dumps(whole, indent=2).encode()
    for show_usage in (True, False):
        stream = relay(CHAT, CHAT, show_usage=show_usage, now=0.0)
        said = stream.feed(CHAT.as_stream(body)) + stream.close()
        chunks = [json.loads(line[6:]) for line in said.split(b"\n\n") if line.startswith(b"data: {")]
        assert said.endswith(b"data: [DONE]\n\n")
        assert {(one["id"], one["object"], tuple(one["citations"])) for one in chunks} == {
            ("x1", "chat.completion.chunk", ("a",))
        }
        assert [one.get("usage") for one in chunks] == [None] * 4 + [usage] * show_usage
        told = [one["choices"][0] for one in chunks[:4]]
        assert [one["index"] for one in told] == [0, 0, 1, 1]
        calls = [{"index": number, **call} for number in (0, 1)]
        assert told[0]["delta"] == {**choices[0]["message"], "tool_calls": calls}  # type: ignore[dict-item]
        assert told[0]["logprobs"] == choices[0]["logprobs"]
        assert told[2]["delta"] == choices[1]["message"]
        assert [one["finish_reason"] for one in told] == [None, "tool_calls", None, "function_call"]
        assert (stream.usage, stream.finished) == (Usage(input_tokens=5, output_tokens=7), True)
        assert b"1.50" in said


@pytest.mark.parametrize("client", CHATS)
@pytest.mark.parametrize("upstream", CHATS)
@pytest.mark.parametrize("body", [b"{", b"{}", b'{"error":{"message":"no"},"choices":[]}', b'{"content":3}'])
def test_what_is_no_answer_is_none_here_either(upstream: str, client: str, body: bytes) -> None:
    one = DIALECTS[upstream]
    stream = relay(one, DIALECTS[client], show_usage=True, now=0.0, is_whole=True)
    with pytest.raises(UnreadableAnswer):
        stream.feed(one.as_stream(body) if upstream == client else body) + stream.close()
