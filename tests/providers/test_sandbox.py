"""The sandbox answers like an OpenAI-compatible provider, obeys its directives, and raises nothing of its own."""

from __future__ import annotations

import asyncio
import json
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from providers.client import FailureKind, UpstreamFailure, Url
from providers.sandbox import SANDBOX_MODELS, SandboxExchange, SandboxTransport
from providers.sandbox_answers import tokens_of

URL = Url.parse("http://sandbox.invalid/v1/chat/completions")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "note": {"type": "string"}},
            "required": ["city", "unit"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


def body_of(text: str = "What is a gateway?", **fields: Any) -> dict[str, Any]:
    return {"model": "sandbox/swift", "messages": [{"role": "user", "content": text}], **fields}


async def _send(body: dict[str, Any] | bytes, pace: float = 0) -> SandboxExchange:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await SandboxTransport(pace=pace).send(b"POST", URL, [], data)


def ask(body: dict[str, Any] | bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    async def run() -> tuple[int, dict[bytes, bytes], bytes]:
        exchange = await _send(body)
        return exchange.status, exchange.headers, await exchange.read(10_000_000)

    return asyncio.run(run())


def completion(**fields: Any) -> ChatCompletion:
    status, headers, data = ask(body_of(**fields))
    assert (status, headers[b"content-type"]) == (200, b"application/json"), data
    return ChatCompletion.model_validate_json(data, strict=True)


def chunks_of(**fields: Any) -> list[ChatCompletionChunk]:
    status, headers, data = ask(body_of(stream=True, **fields))
    assert (status, headers[b"content-type"]) == (200, b"text/event-stream"), data
    events = data.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [ChatCompletionChunk.model_validate_json(event.removeprefix("data: ")) for event in events[:-2]]


def error_of(body: dict[str, Any] | bytes) -> tuple[int, dict[str, Any]]:
    status, _, data = ask(body)
    error = json.loads(data)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return status, error


def test_an_answer_says_that_it_is_the_sandbox_and_what_to_do_next() -> None:
    reply = completion()
    text = reply.choices[0].message.content or ""
    assert text.startswith("[sandbox]")
    assert "sandbox/swift" in text
    assert "What is a gateway?" in text
    assert "add a provider" in text
    assert reply.choices[0].finish_reason == "stop"


def test_the_same_body_gets_the_same_answer() -> None:
    first, second = completion(), completion()
    assert (first.id, first.choices, first.usage) == (second.id, second.choices, second.usage)


def test_usage_counts_four_bytes_as_a_token() -> None:
    reply = completion(text="x" * 400)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 107
    assert reply.usage.completion_tokens == tokens_of(reply.choices[0].message.content or "")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_output_limit_is_obeyed(field: str) -> None:
    reply = completion(**{field: 5})
    assert reply.choices[0].finish_reason == "length"
    assert len((reply.choices[0].message.content or "").encode()) <= 20
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5


@pytest.mark.parametrize("stop", ["built-in", ["nowhere", "built-in"]])
def test_a_stop_word_ends_the_answer_before_it(stop: str | list[str]) -> None:
    reply = completion(stop=stop)
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.choices[0].message.content or "").endswith("a ")


def test_n_gives_that_many_different_choices() -> None:
    reply = completion(n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) == 3


def test_a_stream_says_the_same_as_the_whole_answer() -> None:
    chunks = chunks_of(n=2)
    whole = completion(n=2)
    for index in range(2):
        choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[index].message.content
        assert choices[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_usage_when_asked() -> None:
    chunks = chunks_of(stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage == completion().usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_is_paced_token_by_token() -> None:
    async def run() -> list[float]:
        started = monotonic()
        exchange = await _send(body_of(stream=True), pace=0.2)
        moments = [monotonic() - started]
        while await exchange.chunk():
            moments.append(monotonic() - started)
        return moments

    moments = asyncio.run(run())
    model = SANDBOX_MODELS[0]
    assert moments[0] >= 0.2 * model.first_chunk_seconds * 0.9
    assert moments[-1] - moments[0] >= 0.2 * model.seconds_per_token * 30
    assert len(moments) > 20


def test_cancelling_ends_a_call_at_once() -> None:
    async def run() -> float:
        started = monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_send(body_of("[[sandbox:hang]]")), 0.05)
        return monotonic() - started

    assert asyncio.run(run()) < 1


# -- tools -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fields",
    [
        {"text": "Hi", "tool_choice": "required"},
        {"text": "Hi", "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        {
            "text": "Hi",
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
        },
        {"text": "Please call something"},
        {"text": "use the tool"},
        {"text": "What does get_weather say?"},
    ],
)
def test_a_tool_is_called_when_demanded_or_asked_for(fields: dict[str, Any]) -> None:
    choice = completion(tools=[WEATHER, CLOCK], **fields).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "sandbox city", "unit": "C"}


@pytest.mark.parametrize(
    "fields",
    [{"text": "Hello"}, {"text": "call it", "tool_choice": "none"}, {"text": "recall this"}],
)
def test_no_tool_is_called_otherwise(fields: dict[str, Any]) -> None:
    assert completion(tools=[WEATHER], **fields).choices[0].finish_reason == "stop"


def test_several_named_tools_are_called_in_parallel_unless_that_is_off() -> None:
    fields: dict[str, Any] = {"text": "Ask get_weather and get_time", "tools": [WEATHER, CLOCK]}
    calls = completion(**fields).choices[0].message.tool_calls or []
    assert len({call.id for call in calls}) == 2
    alone = completion(**fields, parallel_tool_calls=False).choices[0].message.tool_calls or []
    assert len(alone) == 1


def test_a_streamed_tool_call_adds_up() -> None:
    chunks = chunks_of(text="call", tools=[WEATHER])
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].id
    assert deltas[0].function is not None
    assert deltas[0].function.name == "get_weather"
    arguments = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert json.loads(arguments) == {"city": "sandbox city", "unit": "C"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_after_a_tool_result_comes_a_text_that_quotes_it() -> None:
    called = completion(text="call", tools=[WEATHER]).choices[0].message.tool_calls or []
    messages = [
        {"role": "user", "content": "call"},
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump() for call in called]},
        {"role": "tool", "tool_call_id": called[0].id, "content": "19 °C and dry"},
    ]
    choice = completion(messages=messages, tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "stop"
    assert "“19 °C and dry”" in (choice.message.content or "")


# -- content and formats -----------------------------------------------------------------------------------------
def test_an_image_is_described_and_counted() -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:image/png,"}}]
    reply = completion(messages=[{"role": "user", "content": parts}])
    assert "“What is this?”, with an image" in (reply.choices[0].message.content or "")
    assert reply.usage is not None
    assert reply.usage.prompt_tokens > 255


def test_json_object_gives_an_object() -> None:
    text = completion(response_format={"type": "json_object"}).choices[0].message.content or ""
    assert json.loads(text)["model"] == "sandbox/swift"


def test_json_schema_gives_what_fits_it() -> None:
    schema = {"type": "object", "properties": {"selected": {"enum": ["A", "B"]}}, "required": ["selected"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": schema}}
    text = completion(response_format=wanted).choices[0].message.content or ""
    assert json.loads(text) == {"selected": "A"}


# -- directives --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        ("error=429 retry_after=7", 429, "rate_limit_exceeded"),
        ("error=500", 500, None),
        ("error=400", 400, None),
        ("error=529", 529, None),
        ("error=401", 401, "invalid_api_key"),
        ("error=404", 404, "model_not_found"),
        ("error=context", 400, "context_length_exceeded"),
    ],
)
def test_an_error_directive_gives_that_error(words: str, status: int, code: str | None) -> None:
    seen, error = error_of(body_of(f"Hi [[sandbox:{words}]]"))
    assert (seen, error["code"]) == (status, code)


def test_retry_after_is_a_header() -> None:
    _, headers, _ = ask(body_of("[[sandbox:error=429 retry_after=7]]"))
    assert headers[b"retry-after"] == b"7"


def test_a_directive_can_be_kept_to_one_model() -> None:
    body = body_of("Hi [[sandbox:error=500 model=sandbox/swift]]")
    assert ask(body)[0] == 500
    status, _, data = ask({**body, "model": "sandbox/brilliant"})
    assert status == 200
    assert b"[[sandbox" not in data


def test_a_directive_in_an_older_turn_is_not_obeyed() -> None:
    messages = [
        {"role": "user", "content": "[[sandbox:error=500]]"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "again"},
    ]
    assert completion(messages=messages)


@pytest.mark.parametrize("words", ["fly", "error=42", "error=", "delay=soon", "tokens=-1", ""])
def test_an_unknown_directive_is_a_400_that_names_it(words: str) -> None:
    status, _, data = ask(body_of(f"[[sandbox:{words}]]"))
    assert status == (400 if words else 200)
    assert not words or f"directive '{words.split('=')[0]}=".encode() in data


@pytest.mark.parametrize("stream", [False, True])
def test_cut_loses_the_connection_midway(stream: bool) -> None:
    async def run() -> tuple[bytes, FailureKind]:
        exchange = await _send(body_of("[[sandbox:cut]]", stream=stream))
        got = b""
        try:
            while data := await exchange.chunk():
                got += data
        except UpstreamFailure as failure:
            with pytest.raises(UpstreamFailure):
                await exchange.chunk()
            return got, failure.kind
        raise AssertionError("the answer was whole")

    got, kind = asyncio.run(run())
    assert kind is FailureKind.RESET
    assert got
    assert b"[DONE]" not in got


def test_malformed_gives_what_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(ask(body_of("[[sandbox:malformed]]"))[2])
    assert b'data: {"choices": [\n\n' in ask(body_of("[[sandbox:malformed]]", stream=True))[2]


def test_stall_falls_silent_in_a_stream() -> None:
    async def run() -> int:
        exchange = await _send(body_of("[[sandbox:stall]]", stream=True))
        count = 0
        try:
            async with asyncio.timeout(0.2):
                while await exchange.chunk():
                    count += 1
        except TimeoutError:
            return count
        raise AssertionError("the stream ended")

    assert asyncio.run(run()) > 5


def test_delay_and_tokens_shape_the_answer() -> None:
    started = monotonic()
    reply = completion(text="[[sandbox:delay=0.1 tokens=300]]")
    assert monotonic() - started >= 0.1
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 300


# -- what is refused ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"[" * 100_000, 400, None),
        (b"{}", 400, None),
        (body_of(messages=[]), 400, "messages"),
        (body_of(messages=[{"role": 1}]), 400, "messages[0].role"),
        (body_of(messages=[{"role": "user", "content": [{"type": "smell"}]}]), 400, "messages[0].content"),
        (body_of(n=0), 400, "n"),
        (body_of(n=9), 400, "n"),
        (body_of(max_tokens=0), 400, "max_tokens"),
        (body_of(tool_choice="required"), 400, "tool_choice"),
        (body_of(tools=[CLOCK], tool_choice={"type": "function", "function": {"name": "x"}}), 400, "tool_choice"),
        (body_of(model="sandbox/none"), 404, "model"),
    ],
)
def test_a_bad_body_is_an_error_in_openais_shape(body: dict[str, Any] | bytes, status: int, param: str | None) -> None:
    seen, error = error_of(body)
    assert (seen, error["param"], error["type"]) == (status, param, "invalid_request_error")


def test_more_than_the_context_is_refused() -> None:
    status, error = error_of(body_of("x" * 140_000, model="sandbox/local"))
    assert (status, error["code"]) == (400, "context_length_exceeded")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_NAMES = ["stream", "stream_options", "n", "max_tokens", "stop", "tools", "tool_choice", "response_format"]
_FIELDS = dict.fromkeys(_NAMES, _JSON)
_TOOL = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": st.text(), "parameters": _JSON})}
)
_ASKED = st.sampled_from(["call", "hi", "[[sandbox:cut]]", "[[sandbox:malformed]]"]) | st.text()


@settings(max_examples=150, deadline=None)
@given(
    fields=st.fixed_dictionaries({}, optional=_FIELDS),
    tools=st.none() | st.lists(_TOOL, max_size=2),
    text=_ASKED,
    schema=_JSON,
)
def test_nothing_but_an_upstream_failure_is_ever_raised(
    fields: dict[str, Any], tools: list[Any] | None, text: str, schema: Any
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    for body in (body_of(text, **fields), body_of(text, tools=tools), body_of(text, response_format=wanted)):
        try:
            assert ask(body)[0] in {200, 400}
        except UpstreamFailure:
            assert "[[sandbox:" in text


def test_models_differ_in_price_speed_and_weight() -> None:
    assert len({model.id for model in SANDBOX_MODELS}) == 4
    assert len({model.weight for model in SANDBOX_MODELS}) == 4
    assert len({model.output_per_1k for model in SANDBOX_MODELS}) == 4
    assert len({model.seconds_per_token for model in SANDBOX_MODELS}) == 4
