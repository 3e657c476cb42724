from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.bounded_regex import BadPattern, compiled


@pytest.mark.parametrize(
    "pattern", [r"^\d{4}-\d{2}-\d{2}$", r"^[A-Za-z0-9._%+-]{1,64}@([a-z]{1,20}\.)+[a-z]{2,}$", r"^(?:a|b){0,50}$", "é+"]
)
def test_what_people_write_is_taken(pattern: str) -> None:
    assert compiled(pattern).search("nothing like it") is None


@pytest.mark.parametrize("pattern", ["(a{1000}){1000}", "((a{99}){99}){99}", "a" * 2_001])
def test_what_unrolls_to_too_much_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern, match="too large"):
        compiled(pattern)


def test_a_search_can_be_stopped() -> None:
    with pytest.raises(TimeoutError):
        compiled("^(a|a|aa)+$").search("a" * 5_000 + "b", timeout=0.1)


@given(st.text(alphabet="ab(){}[]|*+?^$\\,0129.:=!<>-", max_size=40))
def test_any_pattern_is_compiled_or_refused(pattern: str) -> None:
    with suppress(BadPattern, TimeoutError):
        compiled(pattern).search("ab", timeout=1)
