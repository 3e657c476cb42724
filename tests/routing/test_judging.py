"""A judge's verdict."""

from __future__ import annotations

import pytest

from routing.judging import score_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"reason": "fine", "score": 8}', 0.8),
        ('```json\n{"score": "7.5"}\n```', 0.75),
        ('First I thought {"score": 2}, but {"reason": "it works", "score": 10}', 1.0),
        ('{"score": 0}', 0.0),
        ('{"score": 11}', None),
        ("A solid eight.", None),
        ("", None),
    ],
)
def test_the_last_score_holds(text: str, expected: float | None) -> None:
    assert score_in(text) == expected
