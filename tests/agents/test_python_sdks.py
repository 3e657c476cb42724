"""What the official Python packages make of answers that were translated: their helpers, over each other dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import beta_tool
from pydantic import BaseModel

from tests.agents.conftest import UPSTREAMS, Answered
from tests.agents.scripted import INPUT_TOKENS, OUTPUT_TOKENS, Answer, Asked, Call, Scripted, structured
from tests.support.gateway import KEY, Gateway

TEXT = "Ill met by “moonlight”, proud Titania — 🌙."
USER: list[Any] = [{"role": "user", "content": "Hi"}]
OTHERS_OF_MESSAGES = sorted(set(UPSTREAMS) - {"messages"})
OTHERS_OF_RESPONSES = sorted(set(UPSTREAMS) - {"responses"})
OTHERS_OF_CHAT = sorted(set(UPSTREAMS) - {"chat"})


class Weather(BaseModel):
    """Tells the weather."""

    city: str
    days: list[int]


class Verdict(BaseModel):
    good: bool
    reason: str


HERE = {"city": "Zürich", "days": [1, 2]}
THERE = {"city": "Athens", "days": []}
CALLS = (Call("Weather", HERE, id="call_here"), Call("Weather", THERE, id="call_there"))
VERDICT = {"good": True, "reason": "it is “done”"}


@pytest.fixture(scope="module")
def openai_client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.base}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic_client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.base, api_key=KEY, max_retries=0) as client:
        yield client


def weather_then_text(asked: Asked) -> Answer:
    return Answer(TEXT) if asked.results else Answer("I ask.", calls=CALLS)


def assert_tool_turn(upstream: Scripted) -> None:
    """The upstream saw its own two calls again, each with its result."""
    asked = upstream.asked[-1]
    assert asked.calls == {"call_here": "Weather", "call_there": "Weather"}
    assert asked.results == {"call_here": "sun in Zürich", "call_there": "sun in Athens"}


# -- chat completions ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", OTHERS_OF_CHAT)
def test_chat_streams_text(openai_client: openai.OpenAI, upstream: Scripted, answered: Answered, dialect: str) -> None:
    upstream.script = lambda _: Answer(TEXT)
    options: Any = {"include_usage": True}
    with openai_client.chat.completions.stream(model=f"by-{dialect}", messages=USER, stream_options=options) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert len(deltas) > 2
    assert "".join(deltas) == final.choices[0].message.content == TEXT
    assert final.choices[0].finish_reason == "stop"
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    answered(1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", OTHERS_OF_CHAT)
def test_chat_calls_tools(
    openai_client: openai.OpenAI, upstream: Scripted, answered: Answered, dialect: str, streaming: bool
) -> None:
    upstream.script = weather_then_text
    asked: Any = {"model": f"by-{dialect}", "tools": [openai.pydantic_function_tool(Weather)]}
    messages = list(USER)

    def turn() -> Any:
        if not streaming:
            return openai_client.chat.completions.parse(messages=messages, **asked).choices[0]
        with openai_client.chat.completions.stream(messages=messages, **asked) as stream:
            return stream.get_final_completion().choices[0]

    first = turn()
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "I ask."
    parsed = [call.function.parsed_arguments for call in first.message.tool_calls]
    assert parsed == [Weather.model_validate(HERE), Weather.model_validate(THERE)]
    messages.append(first.message)
    for call, one in zip(first.message.tool_calls, parsed, strict=True):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"sun in {one.city}"})
    assert turn().message.content == TEXT
    assert_tool_turn(upstream)
    answered(2)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", OTHERS_OF_CHAT)
def test_chat_parses_structured_output(
    openai_client: openai.OpenAI, upstream: Scripted, answered: Answered, dialect: str, streaming: bool
) -> None:
    upstream.script = lambda asked: structured(asked, VERDICT)
    asked: Any = {"model": f"by-{dialect}", "messages": USER, "response_format": Verdict}
    if streaming:
        with openai_client.chat.completions.stream(**asked) as stream:
            choice = stream.get_final_completion().choices[0]
    else:
        choice = openai_client.chat.completions.parse(**asked).choices[0]
    assert choice.message.parsed == Verdict.model_validate(VERDICT)
    assert choice.finish_reason == "stop"
    answered(1)


# -- responses -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", OTHERS_OF_RESPONSES)
def test_responses_come_whole(
    openai_client: openai.OpenAI, upstream: Scripted, answered: Answered, dialect: str
) -> None:
    upstream.script = lambda _: Answer(TEXT)
    answer = openai_client.responses.create(model=f"by-{dialect}", instructions="Be brief.", input="Hi")
    assert (answer.output_text, answer.status) == (TEXT, "completed")
    assert answer.instructions == "Be brief."
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert "Be brief." in json.dumps(upstream.asked[-1].body)
    answered(1)


@pytest.mark.parametrize("dialect", OTHERS_OF_RESPONSES)
def test_responses_stream_text(
    openai_client: openai.OpenAI, upstream: Scripted, answered: Answered, dialect: str
) -> None:
    upstream.script = lambda _: Answer(TEXT)
    with openai_client.responses.stream(model=f"by-{dialect}", input=USER) as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 2
    assert "".join(deltas) == final.output_text == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.usage is not None
    assert final.usage.output_tokens == OUTPUT_TOKENS
    answered(1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", OTHERS_OF_RESPONSES)
def test_responses_call_tools(
    openai_client: openai.OpenAI, upstream: Scripted, answered: Answered, dialect: str, streaming: bool
) -> None:
    upstream.script = weather_then_text
    tools = [openai.pydantic_function_tool(Weather)]
    function = {"type": "function", **tools[0]["function"]}
    items = list(USER)

    def turn() -> Any:
        asked: Any = {"model": f"by-{dialect}", "input": items, "tools": [function], "store": False}
        if not streaming:
            return openai_client.responses.parse(**asked)
        with openai_client.responses.stream(**asked) as stream:
            return stream.get_final_response()

    first = turn()
    calls = [item for item in first.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [HERE, THERE]
    assert first.output_text == "I ask."
    items += first.output
    for call, city in zip(calls, ("Zürich", "Athens"), strict=True):
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": f"sun in {city}"})
    assert turn().output_text == TEXT
    assert_tool_turn(upstream)
    answered(2)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", OTHERS_OF_RESPONSES)
def test_responses_parse_structured_output(
    openai_client: openai.OpenAI, upstream: Scripted, answered: Answered, dialect: str, streaming: bool
) -> None:
    upstream.script = lambda asked: structured(asked, VERDICT)
    asked: Any = {"model": f"by-{dialect}", "input": USER, "text_format": Verdict}
    if streaming:
        with openai_client.responses.stream(**asked) as stream:
            final = stream.get_final_response()
    else:
        final = openai_client.responses.parse(**asked)
    assert final.output_parsed == Verdict.model_validate(VERDICT)
    answered(1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_responses_carry_a_messages_upstreams_thinking_there_and_back(
    openai_client: openai.OpenAI, upstream: Scripted, answered: Answered, streaming: bool
) -> None:
    upstream.script = lambda _: Answer(TEXT, reasoning="Let me think.")
    items = list(USER)

    def turn() -> Any:
        asked: Any = {
            "model": "by-messages",
            "input": items,
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "medium", "summary": "auto"},
        }
        if not streaming:
            return openai_client.responses.create(**asked)
        with openai_client.responses.stream(**asked) as stream:
            return stream.get_final_response()

    first = turn()
    assert [item.type for item in first.output] == ["reasoning", "message"]
    assert first.output[0].summary[0].text == "Let me think."
    items += [item.to_dict() for item in first.output]
    items.append({"role": "user", "content": "Go on"})
    turn()
    said = upstream.asked[-1].body["messages"][1]
    assert said["content"][0] == {"type": "thinking", "thinking": "Let me think.", "signature": "c2lnbmVk"}
    answered(2)


def test_responses_are_not_stored(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        openai_client.responses.create(model="by-messages", input="Hi", previous_response_id="resp_1")


# -- messages ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", OTHERS_OF_MESSAGES)
def test_messages_stream_text(
    anthropic_client: anthropic.Anthropic, upstream: Scripted, answered: Answered, dialect: str
) -> None:
    upstream.script = lambda _: Answer(TEXT)
    with anthropic_client.messages.stream(model=f"by-{dialect}", max_tokens=100, messages=USER) as stream:
        deltas = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(deltas) > 2
    assert "".join(deltas) == stream.get_final_text() == TEXT
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    answered(1)


@beta_tool(name="Weather")
def weather(city: str, days: list[int]) -> str:
    """Tells the weather."""
    assert {"city": city, "days": days} in (HERE, THERE)
    return f"sun in {city}"


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", OTHERS_OF_MESSAGES)
def test_messages_run_tools(
    anthropic_client: anthropic.Anthropic, upstream: Scripted, answered: Answered, dialect: str, streaming: bool
) -> None:
    upstream.script = weather_then_text
    asked: Any = {
        "model": f"by-{dialect}",
        "max_tokens": 100,
        "messages": USER,
        "tools": [weather],
        "thread": False,
    }
    if streaming:
        final: Any = None
        for stream in anthropic_client.beta.messages.tool_runner(**asked, stream=True):
            final = stream.get_final_message()
    else:
        final = anthropic_client.beta.messages.tool_runner(**asked).until_done()
    assert [block.text for block in final.content] == [TEXT]
    assert_tool_turn(upstream)
    answered(2)


@pytest.mark.parametrize("dialect", OTHERS_OF_MESSAGES)
def test_a_thread_that_nobody_keeps_goes_on_without_one(
    anthropic_client: anthropic.Anthropic, upstream: Scripted, dialect: str
) -> None:
    """The package asks for a thread, and sends the whole history once it is told that there is none."""
    upstream.script = weather_then_text
    upstream.asked.clear()
    runner = anthropic_client.beta.messages.tool_runner(
        model=f"by-{dialect}", max_tokens=100, messages=USER, tools=[weather], max_iterations=4
    )
    assert [block.text for block in runner.until_done().content if block.type == "text"] == [TEXT]
    assert_tool_turn(upstream)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", OTHERS_OF_MESSAGES)
def test_messages_parse_structured_output(
    anthropic_client: anthropic.Anthropic, upstream: Scripted, answered: Answered, dialect: str, streaming: bool
) -> None:
    upstream.script = lambda asked: structured(asked, VERDICT)
    asked: Any = {"model": f"by-{dialect}", "max_tokens": 100, "messages": USER, "output_format": Verdict}
    if streaming:
        with anthropic_client.messages.stream(**asked) as stream:
            final: Any = stream.get_final_message()
    else:
        final = anthropic_client.messages.parse(**asked)
    assert final.parsed_output == Verdict.model_validate(VERDICT)
    answered(1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_messages_carry_a_responses_upstreams_reasoning_there_and_back(
    anthropic_client: anthropic.Anthropic, upstream: Scripted, answered: Answered, streaming: bool
) -> None:
    upstream.script = lambda _: Answer(TEXT, reasoning="Let me think.")
    messages = list(USER)

    def turn() -> Any:
        asked: Any = {
            "model": "by-responses",
            "max_tokens": 4000,
            "messages": messages,
            "thinking": {"type": "enabled", "budget_tokens": 2000},
        }
        if not streaming:
            return anthropic_client.messages.create(**asked)
        with anthropic_client.messages.stream(**asked) as stream:
            return stream.get_final_message()

    first = turn()
    assert [block.type for block in first.content] == ["thinking", "text"]
    assert first.content[0].thinking == "Let me think."
    messages.append({"role": "assistant", "content": first.content})
    messages.append({"role": "user", "content": "Go on"})
    turn()
    said = next(item for item in upstream.asked[-1].body["input"] if item.get("type") == "reasoning")
    assert said["encrypted_content"] == "c2VhbGVk"
    answered(2)


@pytest.mark.parametrize(("dialect", "estimated"), [("messages", False), ("chat", True), ("responses", True)])
def test_tokens_are_counted_by_the_provider_or_estimated(
    anthropic_client: anthropic.Anthropic, upstream: Scripted, dialect: str, estimated: bool
) -> None:
    counted = anthropic_client.messages.with_raw_response.count_tokens(
        model=f"gpt-5.5-by-{dialect}", messages=[{"role": "user", "content": "word " * 1000}]
    )
    assert counted.headers.get("x-tokenhub-estimated") == ("true" if estimated else None)
    tokens = counted.parse().input_tokens
    assert 500 < tokens < 3000 if estimated else tokens == INPUT_TOKENS
