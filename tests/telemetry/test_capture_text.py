from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.capture_text import NAMED, Redaction, Unredactable
from tokenhub.env import REDACTIONS, redactions

EVERYTHING = Redaction(REDACTIONS)


def test_settings_know_the_same_names() -> None:
    assert tuple(NAMED) == REDACTIONS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("to jo.smith+x@mail.example.org!", "to [email]!"),
        ("4111 1111 1111 1111 and 4111-1111-1111-1111", "[card] and [card]"),
        ("DE89 3704 0044 0532 0130 00.", "[iban]."),
        ("call +49 30 1234567 or (030) 123 45 67", "call [phone] or [phone]"),
        ("room 12, 3.5 kg, 2 of 3", "room 12, 3.5 kg, 2 of 3"),
    ],
)
def test_what_has_a_known_form_is_taken_out(text: str, told: str) -> None:
    assert EVERYTHING.text(text) == told


def test_a_number_with_a_wrong_check_digit_is_no_card() -> None:
    assert Redaction(["card"]).text("4111 1111 1111 1112") == "4111 1111 1111 1112"


def test_no_escape_name_or_number_hides_anything() -> None:
    body = b'{"jo\\u0040example.org": ["jo\\u0040example.org", 4111111111111111, true, null, 1.5]}'
    assert json.loads(EVERYTHING.body(body, 1000)) == {"[email]": ["[email]", "[card]", True, None, 1.5]}


def test_text_that_is_no_json_is_redacted_too() -> None:
    assert EVERYTHING.body(b"{jo@example.org \xff", 1000) == "{[email] \ufffd"


@given(st.integers(0, 300), st.integers(10, 200))
def test_a_cut_leaves_no_half_of_what_was_to_be_redacted(before: int, most: int) -> None:
    text = "x " * before + "jo@example.org" + " y" * 400
    told = EVERYTHING.cut(text, most)
    assert len(told) <= most + 1
    assert "jo" not in told
    assert "exam" not in told


def test_an_expression_of_ones_own_is_bounded_in_time() -> None:
    assert Redaction(["EMP-[0-9]+"]).text("of EMP-12") == "of [redacted]"
    with pytest.raises(Unredactable):
        Redaction(["(a+)+b"]).text("a" * 5000 + "c")


@pytest.mark.parametrize("raw", ["mail", '["("]', "[1]", "[", '[""]'])
def test_bad_settings_are_named(raw: str) -> None:
    with pytest.raises(ValueError, match=r"not one of|no "):
        redactions(raw)


def test_names_and_expressions_are_read() -> None:
    assert redactions("email, card") == ("email", "card")
    assert redactions('["email", "a,b"]') == ("email", "a,b")
    assert redactions("") == ()
