"""What answers say, whole and in streams, and whether their calls of tools can be made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.formats.dialect import Usage
from providers.formats.registry import DIALECTS
from routing.heard import Heard, HeardStream, calls_are_valid, heard_in, tool_names

CHAT = DIALECTS["openai-chat"]


def whole(*, text: str | None = None, calls: list[tuple[str, str]] = []) -> bytes:  # noqa: B006  never written to
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": f"c{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for at, (name, arguments) in enumerate(calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice]}).encode()


def test_a_whole_answer_is_heard() -> None:
    assert heard_in(CHAT, whole(text="Good day.")) == Heard("Good day.")
    assert heard_in(CHAT, whole(calls=[("look", '{"at": 1}')])) == Heard("", [("look", '{"at": 1}')])
    assert heard_in(CHAT, b"<html>") is None


class Passing:
    """A relay that changes nothing."""

    usage: Usage | None = None
    produced_bytes = 0
    finished = False
    error = None

    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> bytes:
        return b""

    def fail(self, error: object) -> bytes:
        return b"failed"


def event(**delta: Any) -> bytes:
    chunk = {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": delta}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def test_a_stream_is_heard_as_it_passes_however_it_is_cut() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"at": 1}'}}
    data = event(role="assistant", content="I ") + event(content="look.") + event(tool_calls=[call])
    data += event(tool_calls=[more]) + b"data: [DONE]\n\n"
    for size in (1, 7, 100, len(data)):
        stream = HeardStream(Passing(), CHAT)
        passed = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size))
        assert passed == data
        assert stream.heard == Heard("I look.", [("look", '{"at": 1}')])


def test_a_stream_that_cannot_be_read_passes_unheard() -> None:
    stream = HeardStream(Passing(), CHAT)
    assert stream.feed(b"data: {broken\n\n") == b"data: {broken\n\n"
    assert stream.heard is None
    assert stream.feed(event(content="x")) == event(content="x")


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([], None),
        ([("look", "{}")], True),
        ([("look", "")], True),
        ([("look", '{"at": 1}'), ("leap", "{}")], False),
        ([("look", '{"at": ')], False),
        ([("look", "[1]")], False),
        ([("look", "\ud800")], False),
    ],
)
def test_calls_name_an_offered_tool_and_bring_an_object(calls: list[tuple[str, str]], expected: bool | None) -> None:
    assert calls_are_valid(Heard("", calls), frozenset({"look"})) is expected


def test_tools_are_named_in_every_dialect() -> None:
    offered = json.dumps(
        [
            {"type": "function", "function": {"name": "chat"}},
            {"name": "anthropic", "input_schema": {}},
            {"type": "function", "name": "responses"},
            {"type": "custom", "custom": {"name": "custom"}},
            "nonsense",
        ]
    ).encode()
    old = b'[{"name": "old"}]'
    assert tool_names(offered, old) == {"chat", "anthropic", "responses", "custom", "old"}
    assert tool_names(b"{broken", b"") == frozenset()
