"""All pairs of the three dialects over recorded traffic: what comes out is taken by the official packages, says what
was said, and costs what it cost. Where both sides speak alike, the very bytes come out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import MessageCreateParams, RawMessageStreamEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk, CompletionCreateParams
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParams
from pydantic import TypeAdapter

from providers.formats.canonical import (
    ChatResponse,
    Document,
    Image,
    Message,
    Part,
    Refusal,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from providers.formats.dialect import UpstreamModel, Usage
from providers.formats.registry import DIALECTS, relay, translate_answer
from providers.formats.sse import Framer
from routing.pricing import Prices, cost_nano
from tests.support import cassettes
from tests.support.canonical import CHAT, MESSAGES, NAMES, RESPONSES, Said, answers, said, said_whole, streams
from tests.support.cassettes import AgentRequest, Cassette

REQUEST: Final[dict[str, TypeAdapter[Any]]] = {
    CHAT: TypeAdapter(CompletionCreateParams),
    RESPONSES: TypeAdapter(ResponseCreateParams),
    MESSAGES: TypeAdapter(MessageCreateParams),
}
ANSWER: Final[dict[str, TypeAdapter[Any]]] = {
    CHAT: TypeAdapter(ChatCompletion),
    RESPONSES: TypeAdapter(Response),
    MESSAGES: TypeAdapter(AnthropicMessage),
}
EVENT: Final[dict[str, TypeAdapter[Any]]] = {
    CHAT: TypeAdapter(ChatCompletionChunk),
    RESPONSES: TypeAdapter(ResponseStreamEvent),
    MESSAGES: TypeAdapter(RawMessageStreamEvent),
}
PRICES: Final = Prices(input=1000, output=7000, cached_input=110, cache_write=1250, reasoning=13_000)
PAIRS: Final = [(source, target) for source in NAMES for target in NAMES]
CROSS: Final = [(source, target) for source, target in PAIRS if source != target]
MODELS: Final = ("some-model", "gpt-5.5", "gpt-4o", "claude-opus-4-6", "claude-haiku-4-5", "claude-3-5-sonnet-latest")
MANY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def named(one: Any) -> str:
    return one.name if isinstance(one, Cassette | AgentRequest) else str(one)


def events_of(dialect: str, stream: bytes) -> list[StreamEvent]:
    parser = DIALECTS[dialect].stream_parser()
    return parser.feed(stream) + parser.close()


def in_steps(stream: bytes, step: int) -> list[bytes]:
    return [stream[at : at + step] for at in range(0, len(stream), step)]


def check_events(dialect: str, stream: bytes) -> None:
    """Each event is one of the official package's."""
    for frame in Framer().feed(stream):
        if dialect == CHAT and frame.data == b"[DONE]":
            continue
        event = EVENT[dialect].validate_json(frame.data)
        if dialect != CHAT:
            assert frame.event.decode() == event.type


def heard(one: Said) -> tuple[Any, ...]:
    """What every dialect keeps: a refusal is text to Anthropic, arguments are compared as what they mean."""
    return (
        one.model,
        one.spoken,
        one.thinking,
        [(identity, name, json.loads(arguments or "{}")) for identity, name, arguments in one.calls],
        one.usage,
    )


# -- requests ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("cassette", cassettes.CHATS, ids=named)
def test_a_recorded_request_becomes_one_that_the_official_package_takes(
    cassette: Cassette, target: str, model: str
) -> None:
    source = DIALECTS[cassette.dialect]
    source.read_envelope(cassette.request_bytes)
    rendered = DIALECTS[target].render_request(source.parse_request(cassette.request_bytes), UpstreamModel(model))
    body = json.loads(rendered.body)
    REQUEST[target].validate_python(body)
    assert body["model"] == model


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("agent", cassettes.AGENT_REQUESTS, ids=named)
def test_what_an_agent_sends_becomes_a_request_that_the_official_package_takes(
    agent: AgentRequest, target: str, model: str
) -> None:
    source = DIALECTS[agent.dialect]
    source.read_envelope(agent.body)
    request = source.parse_request(agent.body)
    rendered = DIALECTS[target].render_request(request, UpstreamModel(model))
    body = json.loads(rendered.body)
    REQUEST[target].validate_python(body)
    again = DIALECTS[target].parse_request(rendered.body)
    assert missing(texts_in(request.messages), texts_in(again.messages)) == []
    assert calls_in(again.messages) == calls_in(request.messages)
    assert results_in(again.messages).keys() == results_in(request.messages).keys()
    assert media_in(again.messages) == media_in(request.messages)
    assert [tool.name for tool in again.tools] == [tool.name for tool in request.tools]


def parts_in(messages: list[Message]) -> list[Part]:
    """Those within tool results too."""
    parts: list[Part] = []
    for message in messages:
        for part in message.parts:
            parts += [part, *(part.parts if isinstance(part, ToolResult) else ())]
    return parts


def texts_in(messages: list[Message]) -> list[str]:
    return [part.text for part in parts_in(messages) if isinstance(part, Text | Refusal) and part.text.strip()]


def missing(wanted: list[str], found: list[str]) -> list[str]:
    """Texts may be joined with others, never lost."""
    return [text for text in wanted if not any(text in one for one in found)]


def calls_in(messages: list[Message]) -> list[tuple[str, str, Any]]:
    return [
        (part.id, part.name, json.loads(part.arguments)) for part in parts_in(messages) if isinstance(part, ToolCall)
    ]


def results_in(messages: list[Message]) -> dict[str, ToolResult]:
    return {part.call_id: part for part in parts_in(messages) if isinstance(part, ToolResult)}


def media_in(messages: list[Message]) -> list[str]:
    return [part.data or part.url for part in parts_in(messages) if isinstance(part, Image | Document)]


@pytest.mark.parametrize("target", [CHAT, RESPONSES])
def test_an_image_that_a_tool_returned_reaches_the_model_beside_its_result(target: str) -> None:
    (agent,) = [one for one in cassettes.AGENT_REQUESTS if one.name == "claude_code_tool_turn"]
    request = DIALECTS[agent.dialect].parse_request(agent.body)
    body = DIALECTS[target].render_request(request, UpstreamModel("some-model")).body
    assert body.count(b"data:image/png;base64,") == 1


def test_a_tool_that_a_search_found_is_named_to_the_model() -> None:
    (agent,) = [one for one in cassettes.AGENT_REQUESTS if one.name == "claude_code_tool_search_turn"]
    body = json.loads(
        DIALECTS[CHAT].render_request(DIALECTS[MESSAGES].parse_request(agent.body), UpstreamModel("m")).body
    )
    assert "WebFetch" in body["messages"][-1]["content"]
    assert "WebFetch" in [tool["function"]["name"] for tool in body["tools"]]


# -- whole answers ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("cassette", cassettes.CHATS_WHOLE, ids=named)
def test_a_recorded_answer_says_and_costs_the_same_in_every_dialect(cassette: Cassette, target: str) -> None:
    source, client = DIALECTS[cassette.dialect], DIALECTS[target]
    direct = source.inspect_response(cassette.body)
    answer = translate_answer(source, client, cassette.body, now=1.0)
    if source is client:
        assert answer.body == cassette.body
    else:
        assert ANSWER[target].validate_json(answer.body).model == cassette.json["model"]
    first, there = source.parse_response(cassette.body), client.parse_response(answer.body)
    assert heard(said_whole(there)) == heard(said_whole(first))
    assert there.stop_reason == first.stop_reason
    assert direct.usage is not None
    assert answer.usage == there.usage == direct.usage
    assert cost_nano(PRICES, answer.usage) == cost_nano(PRICES, direct.usage) > 0


# -- streams -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", [1, 7, 1 << 30])
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("cassette", cassettes.CHATS_STREAMS, ids=named)
def test_a_recorded_stream_says_and_costs_the_same_in_every_dialect(cassette: Cassette, target: str, step: int) -> None:
    source, client = DIALECTS[cassette.dialect], DIALECTS[target]
    direct, way = source.stream_observer(show_usage=True), relay(source, client, show_usage=True, now=1.0)
    direct.feed(cassette.body)
    there = b"".join(map(way.feed, in_steps(cassette.body, step))) + way.close()
    assert way.finished
    assert way.error is None
    if source is client:
        assert there == cassette.body
    else:
        check_events(target, there)
    first, again = said(events_of(cassette.dialect, cassette.body)), said(events_of(target, there))
    assert heard(again) == heard(first)
    assert again.reason == first.reason
    assert again.has_ended
    assert direct.usage is not None
    assert way.usage == direct.usage == again.usage
    assert cost_nano(PRICES, direct.usage) == cost_nano(PRICES, way.usage) > 0


@pytest.mark.parametrize(("source", "target"), CROSS)
@pytest.mark.parametrize("cassette", cassettes.CHATS_STREAMS, ids=named)
def test_a_recorded_stream_survives_two_translations(cassette: Cassette, source: str, target: str) -> None:
    """Of what was translated to `source` before, as another proxy would send it."""
    first = relay(DIALECTS[cassette.dialect], DIALECTS[source], show_usage=True, now=1.0)
    second = relay(DIALECTS[source], DIALECTS[target], show_usage=True, now=1.0)
    there = second.feed(first.feed(cassette.body) + first.close()) + second.close()
    assert heard(said(events_of(target, there))) == heard(said(events_of(cassette.dialect, cassette.body)))


# -- anything that an upstream could say -----------------------------------------------------------------------------
@pytest.mark.parametrize(("source", "target"), CROSS)
@given(data=st.data())
@MANY
def test_any_answer_says_and_costs_the_same(source: str, target: str, data: st.DataObject) -> None:
    answer = data.draw(answers(MESSAGES).map(_without_what_is_not_everywhere))
    body = DIALECTS[source].render_response(answer)
    there = translate_answer(DIALECTS[source], DIALECTS[target], body, now=1.0)
    ANSWER[target].validate_json(there.body)
    direct = DIALECTS[source].inspect_response(body).usage
    assert there.usage == direct == answer.usage
    assert cost_nano(PRICES, there.usage or Usage()) == cost_nano(PRICES, direct or Usage())
    assert heard(said_whole(DIALECTS[target].parse_response(there.body))) == heard(said_whole(answer))


@pytest.mark.parametrize(("source", "target"), CROSS)
@given(data=st.data(), step=st.integers(1, 60))
@MANY
def test_any_stream_says_and_costs_the_same(source: str, target: str, data: st.DataObject, step: int) -> None:
    events = data.draw(streams(source))
    sent = DIALECTS[source].stream_renderer(show_usage=True).render(events)
    way = relay(DIALECTS[source], DIALECTS[target], show_usage=True, now=1.0)
    there = b"".join(map(way.feed, in_steps(sent, step))) + way.close()
    assert way.finished
    check_events(target, there)
    direct = DIALECTS[source].stream_observer(show_usage=True)
    direct.feed(sent)
    assert way.usage == direct.usage
    again, meant = said(events_of(target, there)), said(events)
    assert (again.model, again.spoken) == (meant.model, meant.spoken)
    assert [call[:2] for call in again.calls] == [call[:2] for call in meant.calls]
    if target != MESSAGES:  # where arguments that are no object are wrapped in whole answers, and passed on in streams
        assert again.calls == meant.calls


def _without_what_is_not_everywhere(answer: ChatResponse) -> ChatResponse:
    """Chat says its thoughts before all else, and none without text; its answers hold one text."""
    thoughts = [part for part in answer.parts if isinstance(part, Thinking) and part.text]
    if any(part.signature for part in thoughts):
        thoughts = [part for part in thoughts if part.signature]
    others = [part for part in answer.parts if not isinstance(part, Thinking)]
    return replace(answer, parts=(*thoughts, *others))


# -- what passes through only ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "usage"),
    [("openai_embeddings_json", Usage(input_tokens=4)), ("anthropic_count_tokens_json", Usage())],
)
def test_a_recorded_answer_that_is_no_chat_passes_byte_for_byte_with_its_usage(name: str, usage: Usage) -> None:
    cassette = cassettes.load(name)
    dialect = DIALECTS[cassette.dialect]
    envelope = dialect.read_envelope(cassette.request_bytes)
    assert dialect.for_upstream(envelope, envelope.model).body == cassette.request_bytes
    answer = translate_answer(dialect, dialect, cassette.body, now=1.0)
    assert (answer.body, answer.usage) == (cassette.body, usage)


@pytest.mark.parametrize("cassette", [one for one in cassettes.EVERY if one.status != 200], ids=named)
def test_a_recorded_error_is_read_in_the_providers_words(cassette: Cassette) -> None:
    error = DIALECTS[cassette.dialect].read_error(cassette.body)
    assert error.message == cassette.json.get("error", cassette.json)["message"]
