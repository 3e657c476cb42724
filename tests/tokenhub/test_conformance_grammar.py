"""The grammars of the conformance suite: they take what the providers recorded and what the scripted upstream says, and
refuse each way in which a stream can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.support import cassettes
from tests.support.cassettes import Cassette, names
from tokenhub.conformance import (
    grammar_chat,
    grammar_messages,
    grammar_responses,
    reads,
    says_chat,
    says_messages,
    says_responses,
    sse,
)
from tokenhub.conformance.scripts import SCRIPTS, Script
from tokenhub.conformance.speaks import CLIENTS
from tokenhub.conformance.sse import Event
from tokenhub.conformance.values import CHAT, DIALECTS, MESSAGES, RESPONSES, Ask, BrokenRule, Result, Said, Stop, Tool

SAYS: dict[str, Any] = {CHAT: says_chat, MESSAGES: says_messages, RESPONSES: says_responses}
REQUEST: dict[str, Any] = {
    "model": "m",
    "stream_options": {"include_usage": True},
    "include": ["reasoning.encrypted_content"],
    "output_config": {"format": {}},
    "tool_choice": {"type": "tool", "name": "answer"},
    "text": {"format": {"type": "json_schema"}},
}
VARIED = ("plain", "thinking-tools", "refusal")
SPOKEN = [name for name, script in SCRIPTS.items() if script.status == 200]


def stream(dialect: str, script: str = "tools-parallel") -> list[Event]:
    return sse.read(b"".join(SAYS[dialect].events(SCRIPTS[script], REQUEST, 7)))


def read(dialect: str, events: list[Event]) -> Said:
    return CLIENTS[dialect].stream(events, Ask())


def edited(event: Event, change: Callable[[dict[str, Any]], object]) -> Event:
    data = event.json()
    change(data)
    return event._replace(data=json.dumps(data))


def _say(data: dict[str, Any], delta: dict[str, Any]) -> None:
    data["choices"][0]["delta"] = delta


def _renumber(data: dict[str, Any], number: int) -> None:
    data["sequence_number"] = number


def place(events: list[Event], kind: str, number: int = 0) -> int:
    """Of the event of that type, or of the chunk with that key in its delta."""
    found = []
    for index, event in enumerate(events):
        data = event.json() if event.data != "[DONE]" else {}
        delta = (data.get("choices") or [{}])[0].get("delta", {})
        if data.get("type") == kind or delta.get(kind):
            found.append(index)
    return found[number]


# -- what is right -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("script", SPOKEN)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_the_scripted_upstream_says_is_read_alike_whole_and_streamed(dialect: str, script: str) -> None:
    whole = CLIENTS[dialect].whole(SAYS[dialect].whole(SCRIPTS[script], REQUEST, 7))
    streamed = read(dialect, stream(dialect, script))
    for field in ("text", "thinking", "refusal", "seals", "stop", "stop_sequence", "usage"):
        assert getattr(streamed, field) == getattr(whole, field), field
    if not SCRIPTS[script].is_cut_in_call:
        said = [[json.loads(call.arguments) for call in one.calls] for one in (streamed, whole)]
        assert said[0] == said[1]


def test_recorded_streams_are_taken() -> None:
    for cassette in cassettes.STREAMS:
        if b"event: response." in cassette.body:
            continue  # recorded before its events were numbered
        events = sse.read(cassette.body)
        said = read(MESSAGES if cassette.is_anthropic else CHAT, events)
        assert said.text or said.calls, cassette.name


@pytest.mark.parametrize("cassette", cassettes.WHOLE, ids=names(cassettes.WHOLE))
def test_recorded_answers_are_taken(cassette: Cassette) -> None:
    if "choices" in cassette.json or cassette.is_anthropic:
        said = CLIENTS[MESSAGES if cassette.is_anthropic else CHAT].whole(cassette.json)
        assert said.stop is not None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_event_ends_a_stream(dialect: str) -> None:
    events = stream(dialect, "long")[:30]
    error = {
        CHAT: says_chat.error_event(),
        MESSAGES: says_messages.error_event(),
        RESPONSES: says_responses.error_event(REQUEST, 7, 30),
    }[dialect]
    said = read(dialect, [*events, *sse.read(error)])
    assert said.error is not None
    assert SCRIPTS["long"].text.startswith(said.text)


def test_pings_may_stand_anywhere_in_a_message() -> None:
    ping = Event("ping", '{"type": "ping"}')
    events = [one for event in stream(MESSAGES) for one in (event, ping)]
    assert read(MESSAGES, events[:-1]).stop is Stop.TOOLS


def test_thinking_blocks_in_pieces_are_joined() -> None:
    events = stream(CHAT, "plain")
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "a", "signature": None},
        {"type": "thinking", "thinking": "b", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    ]
    for block in reversed(blocks):
        events.insert(1, edited(events[1], partial(_say, delta={"thinking_blocks": [block]})))
    said = read(CHAT, events)
    assert said.seals == ["s", "d"]
    assert said.history[0]["thinking_blocks"][0]["thinking"] == "ab"


# -- what is wrong in every dialect ----------------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_without_its_end_is_refused(dialect: str) -> None:
    with pytest.raises(BrokenRule, match="ends without"):
        read(dialect, stream(dialect)[:-1])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_follows_the_end(dialect: str) -> None:
    events = stream(dialect)
    with pytest.raises(BrokenRule, match=r"follows|sequence_number"):
        read(dialect, [*events, events[-1]])


@pytest.mark.parametrize(
    ("dialect", "number"),
    [(CHAT, 0), *[(MESSAGES, number) for number in (0, 1)], *[(RESPONSES, number) for number in range(4)]],
)
def test_a_stream_without_one_of_its_first_events_is_refused(dialect: str, number: int) -> None:
    events = stream(dialect, "plain")
    del events[number]
    with pytest.raises(BrokenRule):
        read(dialect, events)


# -- chat ------------------------------------------------------------------------------------------------------------
def _delta(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["choices"][0]["delta"].update(fields)


def _call(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["choices"][0]["delta"]["tool_calls"][0].update(fields)


@pytest.mark.parametrize(
    ("where", "number", "change", "problem"),
    [
        ("role", 0, _delta(role=None), "first delta's role"),
        ("tool_calls", 1, _delta(role="assistant"), "a role stands"),
        ("tool_calls", 0, _call(index=1), "the next one is 0"),
        ("tool_calls", 0, _call(id=None), "id is no filled text"),
        ("tool_calls", 0, _call(type=None), "type is null"),
        ("tool_calls", 1, _call(id="again"), "its id again"),
        ("tool_calls", 1, _call(function={"name": "again", "arguments": ""}), "its name again"),
        ("tool_calls", 1, _call(function={"arguments": "{{{"}), "no JSON"),
        ("tool_calls", 1, lambda data: data.update(id="other"), "changed"),
        ("tool_calls", 1, lambda data: data.update(usage={}), "usage stands"),
        ("tool_calls", 1, lambda data: data.update(object="chunk"), "object is"),
        ("tool_calls", 1, lambda data: data["choices"][0].update(index=1), "choice's index"),
        ("tool_calls", 1, lambda data: data["choices"][0].update(finish_reason="end_turn"), "finish_reason is"),
        ("tool_calls", 1, lambda data: data["choices"][0].update(finish_reason="stop"), "follows finish_reason"),
    ],
)
def test_a_chat_stream_is_held_to_its_rules(
    where: str, number: int, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    events = stream(CHAT)
    index = place(events, where, number)
    events[index] = edited(events[index], change)
    with pytest.raises(BrokenRule, match=problem):
        read(CHAT, events)


def test_a_chat_stream_tells_its_usage_to_who_asked_and_to_nobody_else() -> None:
    events = stream(CHAT)
    with pytest.raises(BrokenRule, match="not asked for"):
        grammar_chat.read_stream(events, usage_asked=False)
    with pytest.raises(BrokenRule, match="without the usage"):
        grammar_chat.read_stream([*events[:-2], events[-1]], usage_asked=True)
    with pytest.raises(BrokenRule, match="before the finish_reason"):
        grammar_chat.read_stream([events[0], events[-2], *events[1:]], usage_asked=True)


def test_a_chat_stream_has_one_finish_reason_and_no_names() -> None:
    events = stream(CHAT)
    with pytest.raises(BrokenRule, match="before a finish_reason"):
        grammar_chat.read_stream([*events[:-3], events[-1]], usage_asked=False)
    with pytest.raises(BrokenRule, match="no names"):
        read(CHAT, [events[0]._replace(name="message"), *events[1:]])
    with pytest.raises(BrokenRule, match="follows"):
        read(CHAT, [*events[:-2], events[-3], *events[-2:]])


def test_a_chat_stream_that_says_tool_calls_has_some() -> None:
    events = stream(CHAT, "plain")
    events[-3] = edited(events[-3], lambda data: data["choices"][0].update(finish_reason="tool_calls"))
    with pytest.raises(BrokenRule, match="there are none"):
        read(CHAT, events)


# -- messages --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "number", "change", "problem"),
    [
        ("message_start", 0, lambda data: data["message"].update(content=[{}]), "content of message_start"),
        ("message_start", 0, lambda data: data["message"].pop("usage"), "usage is no object"),
        ("message_start", 0, lambda data: data["message"].update(stop_reason="end_turn"), "has a stop_reason"),
        ("content_block_start", 0, lambda data: data.update(index=1), "the next one is 0"),
        ("content_block_start", 0, lambda data: data["content_block"].update(type="call"), "no type of a block"),
        ("content_block_start", 0, lambda data: data["content_block"].update(input={"a": 1}), "starts with input"),
        ("content_block_delta", 0, lambda data: data.update(index=1), "not open"),
        ("content_block_delta", 0, lambda data: data.update(delta={"type": "text_delta", "text": ""}), "stands in"),
        ("content_block_delta", 0, lambda data: data.update(delta={"type": "delta"}), "no type of a delta"),
        ("content_block_delta", 1, lambda data: data["delta"].update(partial_json="]"), "no JSON"),
        ("content_block_stop", 0, lambda data: data.update(index=1), "not open"),
        ("message_delta", 0, lambda data: data["delta"].update(stop_reason="stop"), "stop_reason is"),
        ("message_delta", 0, lambda data: data["delta"].update(stop_reason="end_turn"), "there are tool calls"),
        ("message_delta", 0, lambda data: data["delta"].pop("stop_sequence"), "nothing of a stop_sequence"),
        ("message_delta", 0, lambda data: data.pop("usage"), "usage is no object"),
        ("message_stop", 0, lambda data: data.update(type="message_end"), "the event's name"),
    ],
)
def test_a_messages_stream_is_held_to_its_rules(
    kind: str, number: int, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    events = stream(MESSAGES)
    index = place(events, kind, number)
    events[index] = edited(events[index], change)
    with pytest.raises(BrokenRule, match=problem):
        read(MESSAGES, events)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("content_block_start", "not open"),
        ("content_block_stop", "within another|within a block"),
        ("message_delta", "without message_delta"),
    ],
)
def test_a_messages_stream_opens_and_closes(kind: str, problem: str) -> None:
    events = stream(MESSAGES)
    del events[place(events, kind)]
    with pytest.raises(BrokenRule, match=problem):
        read(MESSAGES, events)


def test_thinking_ends_with_its_signature() -> None:
    events = stream(MESSAGES, "thinking")
    last = place(events, "content_block_stop") - 1
    events[last - 1], events[last] = events[last], events[last - 1]
    with pytest.raises(BrokenRule, match="after its signature"):
        read(MESSAGES, events)


# -- responses -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("script", "kind", "change", "problem"),
    [
        ("plain", "response.created", lambda data: data["response"].update(output=[{}]), "output is"),
        ("plain", "response.created", lambda data: data["response"].pop("tools"), "tools is missing"),
        ("plain", "response.in_progress", lambda data: data["response"].update(id="resp_2"), "changed"),
        ("plain", "response.output_item.added", lambda data: data.update(output_index=1), "the next one is 0"),
        ("plain", "response.output_item.added", lambda data: data["item"].update(status="completed"), "item.status"),
        ("plain", "response.content_part.added", lambda data: data.update(content_index=1), "the next one is 0"),
        ("plain", "response.content_part.added", lambda data: data["part"].pop("annotations"), "annotations"),
        ("plain", "response.content_part.added", lambda data: data.update(item_id="msg_2"), "item_id is"),
        ("plain", "response.output_text.delta", lambda data: data.update(delta="?"), "the deltas said"),
        ("plain", "response.output_text.delta", lambda data: data.update(content_index=1), "was not added"),
        ("plain", "response.output_text.delta", lambda data: data.update(output_index=1), "was not added"),
        ("plain", "response.output_text.delta", lambda data: data.update(sequence_number=9), "sequence_number"),
        ("plain", "response.output_text.done", lambda data: data.update(text="?"), "the deltas said"),
        ("plain", "response.content_part.done", lambda data: data["part"].update(text="?"), "part.text is"),
        ("plain", "response.output_item.done", lambda data: data["item"].update(content=[]), "item.content is"),
        ("plain", "response.output_item.done", lambda data: data["item"].update(id="msg_2"), "item.id changed"),
        ("plain", "response.completed", lambda data: data["response"].update(output=[]), "not what was streamed"),
        ("plain", "response.completed", lambda data: data["response"].update(status="failed"), "status is"),
        ("plain", "response.completed", lambda data: data["response"].update(usage=None), "usage is no object"),
        ("refusal", "response.refusal.done", lambda data: data.update(refusal="?"), "the deltas said"),
        ("tools-one", "response.function_call_arguments.delta", lambda data: data.update(delta="?"), "deltas said"),
        ("tools-one", "response.function_call_arguments.done", lambda data: data.update(arguments=""), "deltas said"),
        ("thinking", "response.reasoning_summary_part.done", lambda data: data["part"].update(text="?"), "part.text"),
        ("thinking", "response.reasoning_summary_text.delta", lambda data: data.update(summary_index=1), "not added"),
        ("length", "response.incomplete", lambda data: data["response"].update(incomplete_details=None), "incomplete"),
    ],
)
def test_a_responses_stream_is_held_to_its_rules(
    script: str, kind: str, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    events = stream(RESPONSES, script)
    index = place(events, kind)
    events[index] = edited(events[index], change)
    with pytest.raises(BrokenRule, match=problem):
        read(RESPONSES, events)


@pytest.mark.parametrize("kind", sorted({event.name for script in VARIED for event in stream(RESPONSES, script)}))
def test_a_responses_stream_misses_none_of_its_events(kind: str) -> None:
    script = next(one for one in VARIED if kind in {event.name for event in stream(RESPONSES, one)})
    events = stream(RESPONSES, script)
    del events[place(events, kind)]
    for number, event in enumerate(events):
        events[number] = edited(event, partial(_renumber, number=number))
    with pytest.raises(BrokenRule):
        read(RESPONSES, events)


def test_a_failure_may_follow_an_error() -> None:
    error = {"type": "error", "sequence_number": 2, "code": None, "message": "m", "param": None}
    failed = sse.read(says_responses.error_event(REQUEST, 7, 3))
    events = [*stream(RESPONSES)[:2], Event("error", json.dumps(error)), *failed]
    assert grammar_responses.read_stream(events).error is not None
    assert grammar_responses.read_stream(events[:-1]).error is not None


# -- event streams -----------------------------------------------------------------------------------------------------
def test_events_are_read_however_they_are_cut() -> None:
    data = ': c\r\n\r\nevent: a\r\ndata: {"x":\r\ndata: "ü"}\r\n\r\ndata: b\n\n'.encode()
    reader = sse.Reader()
    events = [event for number in range(len(data)) for event in reader.feed(data[number : number + 1])]
    reader.close()
    assert [(one.name, one.data) for one in events] == [("a", '{"x":\n"ü"}'), ("", "b")]


@pytest.mark.parametrize("data", [b"data: a\n", b"data: \xff\n\n", b"event: a\n\n", b"dta: a\n\n", b"{}\n\n"])
def test_no_event_stream_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenRule):
        sse.read(data)


# -- what the upstream receives ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_a_client_says_is_what_the_upstream_reads(dialect: str, streamed: bool) -> None:
    client, tools = CLIENTS[dialect], (Tool("weather", "d", {"type": "object"}), Tool("clock", "d", {"type": "object"}))
    first = Ask("Hello", system="S", tools=tools, tool_choice="required", reasoning=dialect == RESPONSES)
    body = client.body(first, model="m", stream=streamed)
    says = SAYS[dialect]
    said = (
        client.stream(sse.read(b"".join(says.events(SCRIPTS["tools-parallel"], body, 7))), first)
        if streamed
        else client.whole(says.whole(SCRIPTS["tools-parallel"], body, 7))
    )
    history = (*client.turns(first), *said.history)
    results = tuple(Result(one.id, f"r{number}") for number, one in enumerate(said.calls))
    second = Ask("Thanks", system="S", tools=tools, history=history, results=results)
    received = reads.READERS[dialect](client.body(second, model="m", stream=streamed))
    assert received.system == "S"
    assert received.stream == streamed
    assert [part.kind for part in received.parts] == ["text", *["call"] * 3, *["result"] * 3, "text"]
    assert [part.id for part in received.of("call")] == [part.id for part in received.of("result")]


def _chat_request(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages)}


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (CHAT, _chat_request({"role": "tool", "tool_call_id": "c", "content": "r"})),
        (CHAT, _chat_request({"role": "human", "content": "r"})),
        (MESSAGES, {"max_tokens": 5, "messages": [{"role": "assistant", "content": "a"}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": "a"}]}),
        (MESSAGES, {"max_tokens": 5, "seed": 1, "messages": [{"role": "user", "content": "a"}]}),
        (MESSAGES, {"max_tokens": 5, "messages": [{"role": "user", "content": " "}]}),
        (
            MESSAGES,
            {
                "max_tokens": 1024,
                "thinking": {"type": "enabled", "budget_tokens": 1024},
                "messages": [{"role": "user", "content": "a"}],
            },
        ),
        (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": "r"}]}),
        (RESPONSES, {"input": "a", "max_tokens": 5}),
        (RESPONSES, {"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "a"}]}]}),
    ],
)
def test_the_upstream_refuses_what_its_provider_would(dialect: str, body: dict[str, Any]) -> None:
    with pytest.raises(BrokenRule):
        reads.READERS[dialect](body)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (CHAT, {"error": "broken"}),
        (CHAT, {"message": "broken"}),
        (RESPONSES, {"error": {"message": "m", "type": "", "code": None}}),
        (MESSAGES, {"error": {"message": "m", "type": "api_error"}}),
        (MESSAGES, {"type": "error", "error": {"message": "m", "type": "server_error"}}),
    ],
)
def test_errors_of_another_shape_are_refused(dialect: str, body: dict[str, Any]) -> None:
    with pytest.raises(BrokenRule):
        CLIENTS[dialect].error(body)


def test_a_whole_message_needs_its_fields() -> None:
    answer = says_messages.whole(Script(), REQUEST, 7)
    for name in ("type", "role", "id", "model", "content", "stop_reason", "stop_sequence", "usage"):
        with pytest.raises(BrokenRule):
            grammar_messages.read_whole({key: value for key, value in answer.items() if key != name})
