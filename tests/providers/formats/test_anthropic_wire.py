"""What passes through unchanged is still read: usage in two halves, the end, errors."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.formats.anthropic_stream import Parser
from providers.formats.anthropic_wire import Observer, inspect_response, read_error, render_error, render_stream_error
from providers.formats.canonical import Failed
from providers.formats.dialect import ClientError, Usage, WireError
from providers.formats.errors import UnreadableAnswer
from tests.support import cassettes
from tests.support.cassettes import Cassette, names

STREAMS = [one for one in cassettes.STREAMS if one.is_anthropic]
WHOLE = [one for one in cassettes.WHOLE if one.is_anthropic]
ERRORS = [one for one in cassettes.ERRORS if one.is_anthropic]


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def started(**usage: Any) -> bytes:
    return event("message_start", message={"id": "msg_1", "role": "assistant", "usage": usage})


def ended(**usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)


TEXT = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"})
STOP = event("message_stop")
START = started(input_tokens=3, cache_read_input_tokens=100, cache_creation_input_tokens=20, output_tokens=1)
STREAM = START + event("ping") + TEXT + ended(output_tokens=8) + STOP


def passed(stream: bytes, cuts: list[int]) -> tuple[bytes, Observer]:
    """What the client gets for the stream in pieces, and who watched."""
    observer, places = Observer(), [0, *sorted(cut % (len(stream) + 1) for cut in cuts)]
    out = b"".join(
        observer.feed(stream[start:end]) for start, end in zip(places, [*places[1:], len(stream)], strict=True)
    )
    return out + observer.close(), observer


anywhere = st.lists(st.integers(0, 100_000), max_size=8)


# -- streams -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cassette", STREAMS, ids=names(STREAMS))
def test_a_recorded_stream_passes_unchanged_one_byte_at_a_time(cassette: Cassette) -> None:
    out, observer = passed(cassette.body, list(range(len(cassette.body))))
    assert out == cassette.body
    assert observer.finished
    assert observer.usage is not None
    assert observer.usage.input_tokens > 0
    assert observer.usage.output_tokens > 0


@given(anywhere)
@settings(deadline=None)
def test_a_stream_passes_unchanged_over_any_cuts(cuts: list[int]) -> None:
    out, observer = passed(STREAM, cuts)
    assert out == STREAM
    assert (observer.finished, observer.error, observer.produced_bytes) == (True, None, 2)
    assert observer.usage == Usage(input_tokens=123, cached_input_tokens=100, cache_write_tokens=20, output_tokens=8)


def test_a_later_count_replaces_an_earlier_one_and_is_not_added() -> None:
    first = started(input_tokens=3, cache_read_input_tokens=100, output_tokens=1)
    last = ended(input_tokens=5, cache_read_input_tokens=90, output_tokens=8)
    assert passed(first + last, [])[1].usage == Usage(input_tokens=95, cached_input_tokens=90, output_tokens=8)


def test_thinking_and_tool_arguments_count_as_produced() -> None:
    deltas = [
        {"type": "thinking_delta", "thinking": "123"}, {"type": "input_json_delta", "partial_json": "{}"},
        {"type": "signature_delta", "signature": "abcdef"},
    ]  # fmt: skip
    stream = b"".join(event("content_block_delta", index=0, delta=delta) for delta in deltas)
    assert passed(stream, [])[1].produced_bytes == 5


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"input_tokens": -5, "output_tokens": -1, "cache_read_input_tokens": -7}, Usage()),
        ({"input_tokens": None, "output_tokens": None, "output_tokens_details": None}, Usage()),
        ({"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}, Usage(0, 0, 0, 9, 4)),
        ({"output_tokens_details": {"thinking_tokens": -4}}, Usage()),
    ],
)  # fmt: skip
def test_negative_and_missing_usage_is_zero(usage: dict[str, Any], read: Usage) -> None:
    assert passed(started(**usage), [])[1].usage == read
    assert inspect_response(json.dumps({"content": [], "usage": usage}).encode()).usage == read


@pytest.mark.parametrize("stream", [b"", b": waiting\n\n", START, START + TEXT + ended(output_tokens=8)])
def test_an_answer_that_breaks_off_is_not_finished(stream: bytes) -> None:
    out, observer = passed(stream, [])
    assert out == stream
    assert not observer.finished


def test_an_event_that_breaks_off_is_unreadable() -> None:
    observer = Observer()
    assert observer.feed((START + TEXT)[:-9]) == START
    with pytest.raises(UnreadableAnswer):
        observer.close()


def test_a_last_event_without_its_empty_line_is_whole_for_the_client() -> None:
    out, observer = passed(STREAM.rstrip(), [])
    assert out == STREAM
    assert observer.finished


def test_what_follows_the_end_is_kept_from_the_client() -> None:
    out, observer = passed(STREAM + TEXT + event("error", error={"message": "late"}), [])
    assert out == STREAM
    assert observer.error is None


@given(anywhere)
@settings(deadline=None)
def test_an_error_event_stops_the_stream_and_is_not_passed_on(cuts: list[int]) -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    out, observer = passed(START + TEXT + error + STOP, cuts)
    assert out == START + TEXT
    assert observer.error == WireError("Overloaded", "overloaded_error")
    assert not observer.finished


@pytest.mark.parametrize("error", [b'"\xff"', b'{"message":"\xff"}', b'{"code":1e999}', b"null", b"[]", b"7"])
def test_an_error_event_whose_words_cannot_be_read_is_still_one(error: bytes) -> None:
    failing = b'event: error\ndata: {"type":"error","error":' + error + b"}\n\n"
    out, observer = passed(START + failing, [])
    assert out == START
    assert observer.error == WireError("")
    assert Parser().feed(failing) == [Failed(WireError(""))]


def test_events_of_kinds_yet_unknown_pass() -> None:
    stream = event("message_thought", delta=None, more={"x": [1]}) + STREAM
    assert passed(stream, [])[0] == stream


SCRAPS = [
    b"data: ", b"event: error\n", b"\n\n", b"\r\n\r\n", b"{", b"}", b'{"type":"error","error":',
    b'{"type":"message_start",', b'"message":', b'"usage":', b'{"input_tokens":-1}', b"null", b"1e999",
    b"\xff", b'"\\ud800"', b",",
    b'{"type":"content_block_delta","delta":', b'{"text":7}', b'{"type":"message_stop"}',
]  # fmt: skip


@given(st.lists(st.binary(max_size=20) | st.sampled_from(SCRAPS), max_size=20))
@settings(max_examples=500, deadline=None)
def test_no_bytes_raise_anything_but_unreadable(parts: list[bytes]) -> None:
    observer = Observer()
    with contextlib.suppress(UnreadableAnswer):
        for part in parts:
            observer.feed(part)
        observer.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "content", "text", "thinking", "input", "usage", "input_tokens", "delta", "message",
                         "output_tokens_details", "thinking_tokens", "error", "code"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
kinds = st.sampled_from(["message_start", "message_delta", "content_block_delta", "message_stop", "error", "x"])


@given(json_values, kinds)
@settings(max_examples=500, deadline=None)
def test_json_of_any_shape_is_read_or_unreadable(value: Any, kind: str) -> None:
    shaped = {**value, "type": kind} if isinstance(value, dict) else value
    body = json.dumps(shaped).encode()
    assert isinstance(read_error(body), WireError)
    with contextlib.suppress(UnreadableAnswer):
        inspect_response(body)
    with contextlib.suppress(UnreadableAnswer):
        assert passed(b"data: " + body, [])[0] in {b"", b"data: " + body + b"\n\n"}


# -- whole answers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cassette", WHOLE, ids=names(WHOLE))
def test_a_recorded_answer_is_itself_and_its_usage_is_read(cassette: Cassette) -> None:
    answer, usage = inspect_response(cassette.body), cassette.json["usage"]
    assert answer.body is cassette.body
    assert answer.usage is not None
    counts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert answer.usage.input_tokens == sum(usage.get(name) or 0 for name in counts)
    assert answer.usage.output_tokens == usage["output_tokens"]
    assert answer.produced_bytes > 0


def test_what_was_produced_is_counted_for_an_estimate() -> None:
    content = [{"text": "12345"}, {"thinking": "123"}, {"type": "tool_use", "input": {"a": 1}}, {"input": {}}]
    answer = inspect_response(json.dumps({"content": content}).encode())
    assert answer.usage is None
    assert answer.produced_bytes == 15


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b"{}", b'{"content":null}', b'{"type":"error"}', b'{"content":["x"]}']
)
def test_what_is_no_answer_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        inspect_response(body)


# -- errors ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cassette", ERRORS, ids=names(ERRORS))
def test_a_recorded_error_is_read_in_its_own_words(cassette: Cassette) -> None:
    assert read_error(cassette.body).message == cassette.json["error"]["message"]


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b'{"type":"error","error":{"type":"api_error","message":"m"}}', WireError("m", "api_error")),
        (b'{"error":"Unauthorized"}', WireError("Unauthorized")),
        (b'{"message":"m","code":400}', WireError("m", "", "400")),
        (b'[{"error":{"message":"m"}}]', WireError("m")),
        (b"<html></html>", WireError("")),
        (b"", WireError("")),
    ],
)
def test_errors_of_odd_shapes_are_read(body: bytes, read: WireError) -> None:
    assert read_error(body) == read


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (405, "invalid_request_error"), (409, "invalid_request_error"),
        (413, "request_too_large"), (422, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"),
        (502, "api_error"), (503, "overloaded_error"), (504, "timeout_error"),
    ],
)  # fmt: skip
def test_an_error_has_anthropics_own_type(status: int, kind: str) -> None:
    error = ClientError(status, "some_code", "What went wrong.", hint="Do this.", request_id="r")
    assert json.loads(render_error(error)) == {
        "type": "error",
        "error": {"type": kind, "message": "What went wrong. Do this."},
        "request_id": "r",
    }
    assert render_stream_error(error) == b"event: error\ndata: " + render_error(error) + b"\n\n"
