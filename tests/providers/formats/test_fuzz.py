"""Whatever bytes come, from a client or from an upstream, nothing is raised but what is announced: InvalidRequest
there, UnreadableAnswer here. What is made of them is JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.formats.dialect import UpstreamModel
from providers.formats.errors import InvalidRequest, UnreadableAnswer
from providers.formats.registry import DIALECTS, relay, translate_answer
from providers.formats.sse import Framer
from tests.support import cassettes
from tests.support.canonical import CHAT, MESSAGES, NAMES, RESPONSES

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MODELS: Final = [UpstreamModel(name) for name in ("some-model", "gpt-5.5", "claude-opus-4-6", "claude-haiku-4-5")]
CALL: Final = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.10}'}}
PIXEL: Final = "data:image/png;base64,AAEC"
SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "string"}}}

# a body of each dialect that says as much as it can
FULL: Final[dict[str, Any]] = {
    CHAT: {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 9, "temperature": 0.5,
        "top_p": 0.5, "stop": ["x"], "user": "u", "seed": 1, "n": 1, "logprobs": True, "top_logprobs": 2,
        "reasoning_effort": "low", "reasoning": {"effort": "low", "max_tokens": 9, "enabled": True},
        "service_tier": "auto", "parallel_tool_calls": True, "logit_bias": {"1": 2}, "modalities": ["text"],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA,
                                                    "strict": True}, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "o", "schema": SCHEMA, "strict": True}},
        "messages": [
            {"role": "system", "content": "Be brief", "name": "s"},
            {"role": "developer", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
            {"role": "user", "content": [
                {"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}}]},
            {"role": "assistant", "content": "Hm", "reasoning_content": "t", "refusal": None, "tool_calls": [CALL],
             "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "tokenhub.seal.x.s..y"},
                                 {"type": "redacted_thinking", "data": "d"}]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]},
            {"role": "assistant", "function_call": {"name": "g", "arguments": "{}"}},
            {"role": "function", "name": "g", "content": "r"},
        ],
    },
    RESPONSES: {
        "model": "m", "stream": True, "instructions": "Be brief", "max_output_tokens": 99, "temperature": 0.5,
        "top_p": 0.5, "top_logprobs": 2, "user": "u", "metadata": {"a": "b"}, "store": False, "truncation": "auto",
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"], "service_tier": "auto",
        "reasoning": {"effort": "low", "summary": "auto"}, "parallel_tool_calls": True, "max_tool_calls": 3,
        "text": {"format": {"type": "json_schema", "name": "o", "schema": SCHEMA}, "verbosity": "low"},
        "tools": [
            {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True},
            {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "h"}]}, {"type": "web_search"}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "input": [
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "See"},
                {"type": "input_image", "image_url": PIXEL, "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"},
                {"type": "input_file", "file_url": "https://e.org/a.pdf"}]},
            {"type": "reasoning", "id": "rs_1", "encrypted_content": "e",
             "summary": [{"type": "summary_text", "text": "t"}]},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "x", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "no"}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"a": 1}'},
            {"type": "custom_tool_call", "call_id": "b", "name": "c", "input": "text"},
            {"type": "function_call", "call_id": "d", "name": "h", "namespace": "n", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "r"},
            {"type": "custom_tool_call_output", "call_id": "b", "output": [
                {"type": "input_image", "image_url": PIXEL}]},
            {"type": "web_search_call", "id": "w"}, {"role": "developer", "content": "x"},
        ],
    },
    MESSAGES: {
        "model": "m", "max_tokens": 2000, "stream": True, "temperature": 0.5, "top_p": 0.5, "top_k": 3,
        "stop_sequences": ["x"], "metadata": {"user_id": "u"}, "service_tier": "auto",
        "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "system": [{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True},
                  {"type": "web_search_20250305", "name": "web_search"}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "See"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAEC"}},
                {"type": "image", "source": {"type": "url", "url": "https://e.org/a.png"}},
                {"type": "document", "title": "a", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
                {"type": "search_result", "title": "a", "source": "b", "content": [{"type": "text", "text": "x"}]}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "Hm"}, {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1.10}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c", "is_error": True, "content": [
                    {"type": "text", "text": "r"}, {"type": "tool_reference", "tool_name": "f"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAEC"}}]}]},
            {"role": "system", "content": "x"},
        ],
    },
}  # fmt: skip
ANSWERS: Final[dict[str, Any]] = {
    CHAT: {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "service_tier": "default",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": {"content": [
            {"token": "x", "bytes": [1], "logprob": -1.5, "top_logprobs": []}], "refusal": None},
            "message": {"role": "assistant", "content": "x", "refusal": None, "reasoning_content": "t",
                        "tool_calls": [CALL], "function_call": {"name": "g", "arguments": "{}"},
                        "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}]}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
                  "prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 0},
                  "completion_tokens_details": {"reasoning_tokens": 1}},
    },
    RESPONSES: {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed", "error": None,
        "incomplete_details": {"reason": "max_output_tokens"}, "service_tier": "default",
        "output": [
            {"type": "reasoning", "id": "rs", "encrypted_content": "e", "summary": [
                {"type": "summary_text", "text": "t"}], "content": [{"type": "reasoning_text", "text": "t"}]},
            {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": [
                {"type": "output_text", "text": "x", "annotations": [], "logprobs": [
                    {"token": "x", "bytes": [1], "logprob": -1.5, "top_logprobs": []}]},
                {"type": "refusal", "refusal": "no"}]},
            {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "web_search_call", "id": "w"}],
        "usage": {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 4,
                  "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 7},
    },
    MESSAGES: {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
        "stop_sequence": None, "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "redacted_thinking", "data": "d"},
            {"type": "text", "text": "x"}, {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
            {"type": "server_tool_use", "id": "w", "name": "web_search", "input": {}}],
        "usage": {"input_tokens": 3, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 1,
                  "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 1}, "service_tier": "standard"},
    },
}  # fmt: skip


# -- what becomes of valid JSON ----------------------------------------------------------------------------------------
MARKS: Final = {f"@deep{levels}@": "[" * levels + "]" * levels for levels in (100, 1100, 5000)} | {
    f"@{text}@": text for text in ("1e400", "-1e400", "1e30", "1E+2", "-0", "1.0")
}
"""Stand for what Python's own writer of JSON does not write: lists so deep, and numbers in other spellings."""
ODD: Final[list[Any]] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -1e308, 1e400, float("nan"), "", " ", "x", "\ud800",
    "\udfff\ud800", "a\x00b", "tokenhub.seal.anthropic-messages.s.i.p", "tokenhub.seal.", "data:;base64,", "x" * 2000,
    [], {}, [[]], [None], {"": None}, {"type": None}, {"type": "\ud800"}, ["x", 1], {"\ud800": 1}, *MARKS,
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object in it, with each of its keys."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield value, key
        yield from places(child)


@st.composite
def spoiled(draw: st.DrawFn, value: Any) -> Any:
    """The value with one to three places changed: replaced, left out, doubled, swapped, renamed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(value))
        if not known:
            break
        holder, key = known[draw(st.integers(0, len(known) - 1))]
        match draw(st.sampled_from(["replace", "replace", "remove", "double", "wrap", "swap"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
            case "remove":
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case "wrap":
                holder[key] = draw(st.sampled_from([[holder[key]], {"type": holder[key]}, json_text(holder[key])]))
            case _:
                other, place = known[draw(st.integers(0, len(known) - 1))]
                if place in other if isinstance(other, dict) else place < len(other):
                    holder[key] = copy.deepcopy(other[place])
    return value


def json_text(value: Any) -> str:
    """NaN, infinities and lone surrogates as they are written by those who do not look."""
    text = json.dumps(value)
    for mark, stands_for in MARKS.items():
        text = text.replace(f'"{mark}"', stands_for)
    return text


@st.composite
def garbled(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes cut, or with others in their midst."""
    at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 20))
    return data[:at] + draw(st.binary(max_size=6)) + data[at + length :]


@st.composite
def spoiled_bodies(draw: st.DrawFn, value: Any) -> bytes:
    body = json_text(draw(spoiled(value))).encode()
    return draw(garbled(body)) if draw(st.integers(0, 9)) == 0 else body


def is_json(data: bytes) -> None:
    """Python's own reader gives up where lists are too deep; the other looks at all of it too."""
    data.decode()
    assert msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    try:
        json.loads(data)
    except RecursionError:
        assert data.count(b"[" * 900)


# -- from a client -----------------------------------------------------------------------------------------------------
def take_from_client(name: str, body: bytes) -> None:
    """All that is done with a client's body; what is made of it is JSON."""
    dialect = DIALECTS[name]
    try:
        envelope = dialect.read_envelope(body)
    except InvalidRequest as problem:
        says(problem)
        return
    try:
        is_json(dialect.for_upstream(envelope, "another-model").body)
    except InvalidRequest as problem:
        says(problem)
    if dialect.family != "chat":
        return
    for target in NAMES:
        for model in MODELS:
            try:
                rendered = DIALECTS[target].render_request(dialect.parse_request(body), model)
            except InvalidRequest as problem:
                says(problem)
            else:
                is_json(rendered.body)
                assert all(isinstance(name, str) for name in rendered.dropped)


def says(problem: InvalidRequest) -> None:
    """Its words can be written down, for the client and in a log."""
    problem.message.encode()
    (problem.param or "").encode()


CLIENT_BODIES: Final = [
    *((name, value) for name, value in FULL.items()),
    *((one.dialect, {**one.json, "tools": one.json["tools"][-3:]}) for one in cassettes.AGENT_REQUESTS),
    *((one.dialect, one.request) for one in cassettes.EVERY if one.dialect not in NAMES),
]


@pytest.mark.parametrize(("name", "value"), CLIENT_BODIES, ids=[name for name, _ in CLIENT_BODIES])
@given(data=st.data())
@MANY
def test_a_clients_body_spoiled_anywhere_is_refused_in_words_or_understood(
    name: str, value: Any, data: st.DataObject
) -> None:
    take_from_client(name, data.draw(spoiled_bodies(value)))


@pytest.mark.parametrize("name", list(DIALECTS))
@given(body=st.binary(max_size=200))
@MANY
def test_bytes_of_any_kind_from_a_client_are_refused_in_words(name: str, body: bytes) -> None:
    take_from_client(name, body)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["messages", "input", "tools", "metadata", "system", "text", "anything"])
@pytest.mark.parametrize("levels", [100, 1_500, 100_000])
def test_deep_nesting_from_a_client_is_refused_in_words_or_understood(name: str, field: str, levels: int) -> None:
    fields = [f"{json.dumps(key)}:{json_text(one)}" for key, one in FULL[name].items() if key != field]
    body = "{" + ",".join([*fields, f'"{field}":' + "[" * levels + "]" * levels]) + "}"
    take_from_client(name, body.encode())


@pytest.mark.parametrize("odd", ["\\ud800", "\\udc00\\ud800", "\\u0000"])
@pytest.mark.parametrize("name", NAMES)
def test_half_a_letter_anywhere_is_refused_in_words_or_passed_on(name: str, odd: str) -> None:
    text = json_text(FULL[name])
    for number in range(text.count('"')):
        at = -1
        for _ in range(number + 1):
            at = text.index('"', at + 1)
        take_from_client(name, (text[: at + 1] + odd + text[at + 1 :]).encode())


ANSWERING: Final = [*NAMES, "openai-embeddings", "anthropic-count-tokens"]


# -- from an upstream --------------------------------------------------------------------------------------------------
def attempt(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except UnreadableAnswer as problem:
        str(problem).encode()
        return None


def take_answer(name: str, body: bytes) -> None:
    dialect = DIALECTS[name]
    dialect.read_error(body)
    attempt(lambda: dialect.inspect_response(body))
    if dialect.family != "chat":
        return
    for output_tool in ("", "f"):
        attempt(lambda: dialect.parse_response(body, output_tool=output_tool))  # noqa: B023  (called at once)
    for target in NAMES:
        answer = attempt(lambda: translate_answer(dialect, DIALECTS[target], body, now=1.0))  # noqa: B023
        if answer is not None and target != name:
            is_json(answer.body)
            assert answer.produced_bytes >= 0


def take_stream(name: str, stream: bytes, step: int) -> None:
    """Ends at the first that cannot be read, as the data plane does."""
    for target in NAMES:
        way = relay(DIALECTS[name], DIALECTS[target], show_usage=True, now=1.0)
        out = b""
        try:
            for at in range(0, len(stream), step):
                out += way.feed(stream[at : at + step])
            out += way.close()
        except UnreadableAnswer as problem:
            str(problem).encode()
        if target != name:
            for frame in Framer().feed(out):
                if frame.data != b"[DONE]":
                    is_json(frame.data)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@MANY
def test_an_answer_spoiled_anywhere_is_unreadable_or_understood(name: str, data: st.DataObject) -> None:
    take_answer(name, data.draw(spoiled_bodies(ANSWERS[name])))


@pytest.mark.parametrize("name", ANSWERING)
@given(body=st.binary(max_size=200))
@MANY
def test_bytes_of_any_kind_from_an_upstream_are_unreadable(name: str, body: bytes) -> None:
    take_answer(name, body)
    if name in NAMES:
        for step in (1, 1000):
            take_stream(name, body, step)
            take_stream(name, b"data: " + body + b"\n\n", step)


def stream_seeds() -> dict[str, list[bytes]]:
    """Per dialect, the events of the recordings and of an answer that holds all kinds of parts."""
    seeds: dict[str, list[bytes]] = {}
    for name in NAMES:
        streams = [one.body for one in cassettes.CHATS_STREAMS if one.dialect == name]
        for source in NAMES:
            if source != name:
                streams += [
                    relay(DIALECTS[source], DIALECTS[name], show_usage=True, now=1.0).feed(one.body)
                    for one in cassettes.CHATS_STREAMS
                    if one.dialect == source
                ]
        seeds[name] = streams
    return seeds


STREAMS: Final = stream_seeds()


@st.composite
def spoiled_streams(draw: st.DrawFn, name: str) -> bytes:
    frames = Framer().feed(draw(st.sampled_from(STREAMS[name])))
    frames = frames[:6] + frames[-6:]  # what lies between is more of the same
    out: list[bytes] = []
    for frame in frames:
        match draw(st.sampled_from(["keep", "keep", "spoil", "leave out", "repeat"])):
            case "spoil" if frame.data.startswith(b"{"):
                text = json_text(draw(spoiled(json.loads(frame.data)))).encode()
                out.append(b"event: " + frame.event + b"\ndata: " + text + b"\n\n")
            case "leave out":
                pass
            case "repeat":
                out += [frame.raw, frame.raw]
            case _:
                out.append(frame.raw)
    if draw(st.booleans()):
        out = draw(st.permutations(out))
    return b"".join(out)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), step=st.sampled_from([1, 13, 1 << 20]))
@MANY
def test_a_stream_spoiled_anywhere_is_unreadable_or_understood(name: str, data: st.DataObject, step: int) -> None:
    stream = data.draw(spoiled_streams(name))
    take_stream(name, stream, step)
    take_stream(name, data.draw(garbled(stream)), step)


@pytest.mark.parametrize("value", [*ODD, "<html>", {"error": 5}, {"error": {"message": ["x"], "code": 1.5}}, [[]]])
@pytest.mark.parametrize("name", list(DIALECTS))
def test_an_error_of_any_shape_is_read(name: str, value: Any) -> None:
    for body in (
        json_text(value),
        json_text({"error": value}),
        json_text({"error": {"message": value, "code": value}}),
    ):
        error = DIALECTS[name].read_error(body.encode())
        for word in (error.message, error.type, error.code, error.param):
            word.encode()
