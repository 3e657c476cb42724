"""One stream is one list of events, whatever the pieces in which it comes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from providers.formats.errors import UnreadableAnswer
from providers.formats.sse import MAX_EVENT_BYTES, Frame, Framer

ENDS = ["\n", "\r\n", "\r"]
LINES = [
    "data: a", "data:b", "data:  two spaces", "data", "data:", 'data: {"é": "\u2028 😀"}', "data: [DONE]",
    ": comment", ":", "event: ping", "event:message_stop", "id: 7", "retry: 10", "nonsense", "data: x: y",
    "\ufeffdata: late mark",
]  # fmt: skip

events = st.lists(st.sampled_from(LINES), min_size=1, max_size=4)


@st.composite
def streams(draw: st.DrawFn, *, is_whole: bool = True) -> bytes:
    """With one line end throughout, or any after each line."""
    ends = st.just(draw(st.sampled_from(ENDS))) if draw(st.booleans()) else st.sampled_from(ENDS)
    text = draw(st.sampled_from(["", "\ufeff"]))
    for lines in draw(st.lists(events | st.just([]), max_size=5)):
        text += "".join(line + draw(ends) for line in lines) + draw(ends)
    return (text if is_whole else text + draw(st.sampled_from(["data: rest", "data: rest\n", "event: x", ""]))).encode()


@st.composite
def pieces(draw: st.DrawFn, stream: st.SearchStrategy[bytes]) -> list[bytes]:
    data = draw(stream)
    if draw(st.booleans()):
        return [data[at : at + 1] for at in range(len(data))]
    cuts = [0, *sorted(draw(st.lists(st.integers(0, len(data)), max_size=6))), len(data)]
    return [data[start:end] for start, end in pairwise(cuts)]


def fed(parts: list[bytes]) -> list[Frame]:
    framer = Framer()
    return [frame for part in parts for frame in framer.feed(part)] + framer.close()


def said(frames: list[Frame]) -> list[tuple[bytes, bytes]]:
    return [(frame.event, frame.data) for frame in frames if frame.event or frame.data]


def by_the_standard(data: bytes) -> list[tuple[bytes, bytes]]:
    """WHATWG HTML 9.2.6, line by line, short of `id` and `retry`; an event without `data` is kept."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found: list[tuple[bytes, bytes]] = []
    event, lines = b"", list[bytes]()
    for line in [*text.split(b"\n"), b""]:
        if line:
            name, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if name == b"event":
                event = value
            elif name == b"data":
                lines.append(value)
            continue
        if event or any(lines) or len(lines) > 1:
            found.append((event, b"\n".join(lines)))
        event, lines = b"", []
    return found


@settings(deadline=None)
@given(pieces(streams(is_whole=False)))
@example([b"data: a\n\n\n", b"data: b\n\n"])
@example([b"data: a\n\n\n\n\n\ndata: b\n\n"])
@example([b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"])
@example([b"data: a\n\r", b"data: b\n\r\n"])
def test_any_split_gives_the_same_frames(parts: list[bytes]) -> None:
    assert fed(parts) == fed([b"".join(parts)])


@settings(deadline=None)
@given(streams(is_whole=False))
@example(b"data: [DONE]\r\n\n")
@example(b"data: a\rdata: b\n\n")
@example(b"data: a\r\n\rdata: b\n\r\r\n")
def test_frames_say_what_the_standard_reads(stream: bytes) -> None:
    assert said(fed([stream])) == by_the_standard(stream)


@settings(deadline=None)
@given(pieces(streams()))
def test_the_frames_bytes_are_the_streams(parts: list[bytes]) -> None:
    framer = Framer()
    raw = b"".join(frame.raw for part in parts for frame in framer.feed(part))
    rest = b"".join(frame.raw for frame in framer.close())
    stream = b"".join(parts)
    assert stream.startswith(raw)
    assert (raw + rest).strip() == stream.strip()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_comes_out_with_its_last_byte_not_with_the_next_event(end: bytes) -> None:
    framer, stream = Framer(), b"data: a" + end + end
    assert framer.feed(stream[:-1]) == []
    assert framer.feed(stream[-1:]) == [Frame(stream, b"", b"a")]


def test_a_comment_and_an_event_without_data_are_frames_without_data() -> None:
    assert fed([b": busy\n\nevent: ping\n\n"]) == [
        Frame(b": busy\n\n", b"", b""),
        Frame(b"event: ping\n\n", b"ping", b""),
    ]


def test_lines_of_data_are_joined_by_line_feeds() -> None:
    assert [frame.data for frame in fed([b"data: a\r\ndata:\r\ndata: b\r\n\r\n"])] == [b"a\n\nb"]


def test_a_byte_order_mark_counts_only_at_the_start() -> None:
    mark = b"\xef\xbb\xbf"
    assert [frame.data for frame in fed([mark[:1], mark[1:] + b"data: a\n\n" + mark + b"data: b\n\n"])] == [b"a", b""]


def test_a_last_event_whose_end_is_missing_counts() -> None:
    assert fed([b"data: a\n\ndata: [DO", b"NE]"])[-1] == Frame(b"data: [DONE]\n\n", b"", b"[DONE]")
    assert fed([b"data: a\n\n\n"])[1:] == []


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=8))
def test_any_bytes_are_framed(parts: list[bytes]) -> None:
    assert fed(parts) == fed([b"".join(parts)])


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_an_event_without_end_is_refused_at_its_bound(line_end: bytes) -> None:
    framer = Framer()
    line = b"data: ".ljust(MAX_EVENT_BYTES // 4 - len(line_end), b"x") + line_end
    assert [framer.feed(line) for _ in range(4)] == [[]] * 4
    with pytest.raises(UnreadableAnswer):
        framer.feed(b"x")
