"""What passes through unchanged is still read: usage, the end, errors."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.formats.canonical import Failed
from providers.formats.dialect import ClientError, Usage, WireError
from providers.formats.errors import UnreadableAnswer
from providers.formats.openai_chat_stream import Parser
from providers.formats.openai_chat_wire import (
    Observer,
    inspect_response,
    read_error,
    render_error,
    render_stream_error,
)
from tests.support import cassettes
from tests.support.cassettes import Cassette, names

STREAMS = [one for one in cassettes.STREAMS if not one.is_anthropic]
WHOLE = [one for one in cassettes.WHOLE if not one.is_anthropic]
ERRORS = [one for one in cassettes.ERRORS if not one.is_anthropic]


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(text: str = "", *, finish: str | None = None, **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **fields})


USAGE = {
    "prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip
READ = Usage(input_tokens=9, cached_input_tokens=4, output_tokens=5, reasoning_tokens=2)
BODY = b": hello\n\n" + chunk("Hé ") + chunk("there", finish="stop")
USAGE_CHUNK = event({"choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


def passed(stream: bytes, cuts: list[int], *, show_usage: bool = True) -> tuple[bytes, Observer]:
    """What the client gets for the stream in pieces, and who watched."""
    observer, places = Observer(show_usage=show_usage), [0, *sorted(cut % (len(stream) + 1) for cut in cuts)]
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
    assert observer.produced_bytes > 0


@given(anywhere)
@settings(deadline=None)
def test_a_stream_passes_unchanged_over_any_cuts(cuts: list[int]) -> None:
    stream = BODY + USAGE_CHUNK + DONE
    out, observer = passed(stream, cuts)
    assert out == stream
    assert (observer.usage, observer.finished, observer.error) == (READ, True, None)
    assert observer.produced_bytes == len("Hé there")


@given(anywhere)
@settings(deadline=None)
def test_a_usage_chunk_that_was_not_asked_for_is_read_and_held_back(cuts: list[int]) -> None:
    out, observer = passed(BODY + USAGE_CHUNK + DONE, cuts, show_usage=False)
    assert out == BODY + DONE
    assert observer.usage == READ


def test_usage_beside_text_does_not_hold_the_text_back() -> None:
    stream = chunk("Hi", usage=None) + chunk("!", finish="stop", usage=USAGE) + DONE
    out, observer = passed(stream, [], show_usage=False)
    assert out == stream
    assert observer.usage == READ


def test_a_chunk_without_choices_and_usage_goes_on() -> None:
    stream = event({"choices": [], "prompt_filter_results": []}) + BODY + DONE
    assert passed(stream, [], show_usage=False)[0] == stream


def test_the_last_usage_counts() -> None:
    growing = b"".join(chunk("x", usage={"prompt_tokens": 9, "completion_tokens": count}) for count in (1, 2, 3))
    assert passed(growing + DONE, [])[1].usage == Usage(input_tokens=9, output_tokens=3)


def test_an_end_that_a_server_forgot_is_said_for_it() -> None:
    out, observer = passed(BODY + USAGE_CHUNK, [])
    assert out == BODY + USAGE_CHUNK + DONE
    assert observer.finished


def test_a_last_event_without_its_empty_line_is_whole_for_the_client() -> None:
    out, observer = passed(BODY + DONE.rstrip(), [])
    assert out == BODY + DONE
    assert observer.finished


@pytest.mark.parametrize("stream", [b"", b": waiting\n\n", chunk("Hi"), USAGE_CHUNK])
def test_an_answer_that_breaks_off_is_not_finished(stream: bytes) -> None:
    out, observer = passed(stream, [])
    assert out == stream
    assert not observer.finished


def test_an_event_that_breaks_off_is_unreadable() -> None:
    observer = Observer(show_usage=True)
    assert observer.feed(BODY[:-20]) == BODY[: BODY.rindex(b"data:")]
    with pytest.raises(UnreadableAnswer):
        observer.close()


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\n\n", b"\r\r"])
def test_the_end_is_seen_with_any_line_end(end: bytes) -> None:
    out, observer = passed(chunk("Hi", finish="stop") + b"data:[DONE]" + end, [])
    assert observer.finished
    assert out.endswith(b"data:[DONE]" + end)


def test_what_follows_the_end_is_kept_from_the_client() -> None:
    out, observer = passed(BODY + DONE + chunk("more") + event({"error": {"message": "late"}}), [])
    assert out == BODY + DONE
    assert observer.error is None


@given(anywhere)
@settings(deadline=None)
def test_an_error_event_stops_the_stream_and_is_not_passed_on(cuts: list[int]) -> None:
    error = event({"error": {"message": "Overloaded", "type": "server_error", "code": 503}})
    out, observer = passed(BODY + error + chunk("more") + DONE, cuts)
    assert out == BODY
    assert observer.error == WireError("Overloaded", "server_error", "503")
    assert not observer.finished


@pytest.mark.parametrize("error", [None, "null"])
def test_an_error_that_is_null_is_none(error: Any) -> None:
    stream = b'data: {"choices":[{"delta":{"content":"x"}}],"error": null }\n\n' + DONE
    out, observer = passed(stream, [])
    assert out == stream
    assert observer.error is None


@pytest.mark.parametrize(
    "error",
    [b'"\xff"', b'{"message":"\xff"}', b'{"code":1e999}', b'{"code":' + b"9" * 5000 + b"}", b"[]", b"true", b'""'],
)
def test_an_error_event_whose_words_cannot_be_read_is_still_one(error: bytes) -> None:
    out, observer = passed(BODY + b'data: {"error":' + error + b"}\n\n", [])
    assert out == BODY
    assert observer.error == WireError("")
    assert Parser().feed(b'data: {"error":' + error + b"}\n\n") == [Failed(WireError(""))]


def test_negative_and_missing_usage_is_zero() -> None:
    usage = {"prompt_tokens": -9, "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": -1}}
    assert passed(event({"choices": [], "usage": usage}), [])[1].usage == Usage()


SCRAPS = [
    b"data: ", b"data:", b"\n\n", b"\r\n\r\n", b"[DONE]", b"{", b"}", b'{"error":', b'"choices":', b"[]", b"null",
    b"1e999", b'"usage":', b'{"prompt_tokens":-1}', b"\xff", b'"\\ud800"', b",", b'{"choices":[{"delta":{"content":[',
    b"event: x\n",
]  # fmt: skip


@given(st.lists(st.binary(max_size=20) | st.sampled_from(SCRAPS), max_size=20), st.booleans())
@settings(max_examples=500, deadline=None)
def test_no_bytes_raise_anything_but_unreadable(parts: list[bytes], show_usage: bool) -> None:
    observer = Observer(show_usage=show_usage)
    with contextlib.suppress(UnreadableAnswer):
        for part in parts:
            observer.feed(part)
        observer.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["choices", "delta", "message", "content", "tool_calls", "function", "arguments", "usage",
                         "prompt_tokens", "prompt_tokens_details", "error", "code", "finish_reason", "detail"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
@settings(max_examples=500, deadline=None)
def test_json_of_any_shape_is_read_or_unreadable(value: Any) -> None:
    body = json.dumps(value).encode()
    assert isinstance(read_error(body), WireError)
    with contextlib.suppress(UnreadableAnswer):
        inspect_response(body)
    with contextlib.suppress(UnreadableAnswer):
        assert passed(b"data: " + body, [])[0] in {b"", b"data: " + body + b"\n\n", b"data: " + body + b"\n\n" + DONE}


# -- whole answers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cassette", WHOLE, ids=names(WHOLE))
def test_a_recorded_answer_is_itself_and_its_usage_is_read(cassette: Cassette) -> None:
    answer, usage = inspect_response(cassette.body), cassette.json["usage"]
    assert answer.body is cassette.body
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert answer.produced_bytes > 0


def test_what_was_produced_is_counted_for_an_estimate() -> None:
    message = {
        "content": "12345", "reasoning_content": "123", "refusal": "1",
        "tool_calls": [{"function": {"arguments": "{}"}}, {"function": None}],
    }  # fmt: skip
    answer = inspect_response(json.dumps({"choices": [{"message": message}]}).encode())
    assert answer.usage is None
    assert answer.produced_bytes == 11


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b"{}", b'{"choices":null}', b'{"error":{"message":"x"}}', b'{"choices":[1]}'],
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
        ({"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}, WireError("m", "t", "c", "p")),
        ({"error": {"message": "m", "type": None, "code": None, "param": None}}, WireError("m")),
        ({"error": {"message": "m", "type": "BadRequestError", "code": 400}}, WireError("m", "BadRequestError", "400")),
        ({"object": "error", "message": "m", "type": "NotFound", "code": 404}, WireError("m", "NotFound", "404")),
        ({"error": "Unauthorized"}, WireError("Unauthorized")),
        ({"message": "m"}, WireError("m")),
        ({"detail": "Not Found"}, WireError("Not Found")),
        ({"detail": [{"msg": "field required"}]}, WireError('[{"msg":"field required"}]')),
        ([{"error": {"message": "m", "code": 429, "status": "RESOURCE_EXHAUSTED"}}], WireError("m", "", "429")),
        ({"error": {"message": {"text": "m"}, "code": True, "type": ["t"]}}, WireError('{"text":"m"}')),
        ({"error": {"message": None, "type": "t"}}, WireError("", "t")),
        ({"error": {"message": None, "detail": "d"}}, WireError("d")),
        ({"error": None}, WireError("")),
        ({"error": 7}, WireError("")),
        ({}, WireError("")),
        ([], WireError("")),
        ("text", WireError("")),
        (None, WireError("")),
    ],
)  # fmt: skip
def test_errors_of_odd_shapes_are_read(body: Any, read: WireError) -> None:
    assert read_error(json.dumps(body).encode()) == read


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"Too many requests", b"\xff\x00", b'{"error":'])
def test_what_is_no_json_has_no_message(body: bytes) -> None:
    assert read_error(body) == WireError("")


@given(st.binary(max_size=100))
def test_any_bytes_are_an_error(body: bytes) -> None:
    assert isinstance(read_error(body), WireError)


def test_an_error_has_one_shape_whole_and_in_a_stream() -> None:
    error = ClientError(
        404, "model_not_found", "No é.", "not_found_error", param="model", hint="Try x.", request_id="r"
    )
    assert json.loads(render_error(error)) == {
        "error": {
            "message": "No é.", "type": "not_found_error", "param": "model", "code": "model_not_found",
            "hint": "Try x.", "request_id": "r",
        }
    }  # fmt: skip
    assert render_stream_error(error) == b"data: " + render_error(error) + b"\n\n"
    bare = json.loads(render_error(ClientError(500, "internal_error", "m")))["error"]
    assert bare["hint"] is None
    assert bare["param"] is None
