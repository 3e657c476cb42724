from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.think import ThinkFilter, without_thoughts


def in_pieces(pieces: list[str]) -> str:
    thoughts = ThinkFilter()
    return "".join(map(thoughts.feed, pieces)) + thoughts.close()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>a plan</think>\n\nHello", "Hello"),
        ("<thinking>a plan</thinking> Hello", "Hello"),
        ("Hello <THINK>x</Think>you", "Hello you"),
        ("<think>a<think>b</think>c</think>Hello", "Hello"),
        ("Hello <think>for ever", "Hello "),
        ("1 < 2 and <thin", "1 < 2 and <thin"),
        ("<thinker>stays</thinker>", "<thinker>stays</thinker>"),
        ("  spaces stay", "  spaces stay"),
        ("   ", "   "),
        ("\n<think>x</think>\n\nHello", "\nHello"),
        ("<think><thinking>x</thinking>y</think>Hello", "Hello"),
        ("</think>Hello", "Hello"),
        ("", ""),
        ("<think></think>", ""),
    ],
)
def test_thoughts_are_taken_out(text: str, shown: str) -> None:
    assert in_pieces([text]) == shown
    assert in_pieces(list(text)) == shown
    assert without_thoughts(text) == shown


def test_what_precedes_a_lone_end_of_thoughts_is_one() -> None:
    assert without_thoughts("a plan\n</think>\nHello") == "Hello"


PIECES = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<thinking>",
            "</THINKING>",
            "<",
            "</",
            "th",
            "think",
            ">",
            " ",
            "\n",
            "a<b",
            "th\u0131nk>",
            "thin\u212a>",
        ]
    )
    | st.text(max_size=5)
)


@given(PIECES)
def test_where_a_stream_is_cut_makes_no_difference(pieces: list[str]) -> None:
    whole = "".join(pieces)
    assert in_pieces(pieces) == in_pieces([whole]) == in_pieces(list(whole))


@given(PIECES)
def test_nothing_is_shown_that_was_not_said(pieces: list[str]) -> None:
    whole, shown = "".join(pieces), in_pieces(pieces)
    rest = iter(whole)
    assert all(letter in rest for letter in shown)
    assert shown == whole or "think" in whole.lower()


@given(PIECES)
def test_no_more_than_the_beginning_of_a_tag_is_held_back(pieces: list[str]) -> None:
    thoughts = ThinkFilter()
    for piece in pieces:
        thoughts.feed(piece)
        assert len(thoughts._held) < len("</thinking>")
