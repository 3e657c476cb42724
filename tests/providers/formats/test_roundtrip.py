"""What a dialect can express, it says and understands again without loss: requests, whole answers and streams."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.formats.base import Dialect
from providers.formats.canonical import StreamEvent
from providers.formats.registry import DIALECTS
from tests.support.canonical import NAMES, answers, requests, said, said_whole, streamed, streams

MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def parsed(dialect: Dialect, stream: bytes, step: int = 1 << 30) -> list[StreamEvent]:
    parser = dialect.stream_parser()
    events: list[StreamEvent] = []
    for at in range(0, len(stream), step):
        events += parser.feed(stream[at : at + step])
    return events + parser.close()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@MANY
def test_a_request_is_understood_as_it_was_meant(name: str, data: st.DataObject) -> None:
    request, model = data.draw(requests(name))
    rendered = DIALECTS[name].render_request(request, model)
    DIALECTS[name].read_envelope(rendered.body)
    read = replace(DIALECTS[name].parse_request(rendered.body), echo=None)  # it holds the wire's own words
    assert read == request
    assert rendered.dropped == ()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@MANY
def test_an_answer_is_understood_as_it_was_meant(name: str, data: st.DataObject) -> None:
    answer = data.draw(answers(name))
    assert DIALECTS[name].parse_response(DIALECTS[name].render_response(answer)) == answer


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@MANY
def test_a_stream_is_understood_as_it_was_meant(name: str, data: st.DataObject) -> None:
    events = data.draw(streams(name))
    stream = DIALECTS[name].stream_renderer(show_usage=True).render(events)
    assert said(parsed(DIALECTS[name], stream)) == said(events)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), step=st.integers(1, 40), line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
@MANY
def test_a_stream_is_understood_however_it_is_cut_and_whatever_ends_its_lines(
    name: str, data: st.DataObject, step: int, line_end: bytes
) -> None:
    events = data.draw(streams(name))
    stream = DIALECTS[name].stream_renderer(show_usage=True).render(events)
    spaced = stream.replace(b"\n\n", b"\n\n: still there\n\n").replace(b"\n", line_end)
    assert parsed(DIALECTS[name], spaced, step) == parsed(DIALECTS[name], stream)
    assert parsed(DIALECTS[name], spaced, 1) == parsed(DIALECTS[name], stream)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@MANY
def test_an_answer_says_the_same_whole_and_in_pieces(name: str, data: st.DataObject) -> None:
    answer = data.draw(answers(name))
    stream = DIALECTS[name].stream_renderer(show_usage=True).render(data.draw(streamed(answer)))
    assert said(parsed(DIALECTS[name], stream)) == said_whole(answer)
