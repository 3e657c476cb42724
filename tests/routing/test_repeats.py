"""Who asks the same again was not satisfied; programs that repeat themselves say nothing."""

from __future__ import annotations

from routing.repeats import MOST_REPEATS, WITHIN_SECONDS, Repeats, fingerprint

ONE, OTHER = fingerprint("key", b"", b'["hi"]'), fingerprint("other", b"", b'["hi"]')


def test_a_repetition_tells_of_the_answer_before_it_once() -> None:
    repeats = Repeats()
    assert repeats.asked(ONE, 0.0) == ""
    repeats.answered(ONE, "first", 1.0)
    assert repeats.asked(OTHER, 11.0) == ""
    assert repeats.asked(ONE, 11.0) == "first"
    assert repeats.asked(ONE, 12.0) == ""
    repeats.answered(ONE, "second", 13.0)
    assert repeats.asked(ONE, 23.0) == ""  # the third time round


def test_what_comes_too_soon_or_too_late_says_nothing() -> None:
    repeats = Repeats()
    repeats.answered(ONE, "first", 1.0)
    assert repeats.asked(ONE, 1.5) == ""
    repeats.answered(OTHER, "first", 1.0)
    assert repeats.asked(OTHER, 2.0 + WITHIN_SECONDS) == ""


def test_a_loop_of_a_program_is_found_out() -> None:
    repeats, told = Repeats(), 0
    for turn in range(10):
        told += bool(repeats.asked(ONE, 10.0 * turn))
        repeats.answered(ONE, f"answer {turn}", 10.0 * turn + 1)
    assert told == MOST_REPEATS


def test_only_so_many_are_remembered() -> None:
    repeats = Repeats(limit=2)
    for name in "abc":
        repeats.answered(fingerprint(name, b"", b""), name, 1.0)
    assert [repeats.asked(fingerprint(name, b"", b""), 5.0) for name in "abc"] == ["", "b", "c"]
