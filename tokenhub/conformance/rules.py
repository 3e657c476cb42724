"""Small checks of JSON values that every grammar uses. Pure."""

from __future__ import annotations

import json
from typing import Any

from tokenhub.conformance.values import BrokenRule


def need(condition: object, problem: str) -> None:
    if not condition:
        raise BrokenRule(problem)


def short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "…"


def an_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BrokenRule(f"{what} is no object but {short(value)}")
    return value


def a_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BrokenRule(f"{what} is no list but {short(value)}")
    return value


def a_text(value: Any, what: str, *, filled: bool = False) -> str:
    if not isinstance(value, str) or (filled and not value):
        raise BrokenRule(f"{what} is no {'filled ' if filled else ''}text but {short(value)}")
    return value


def a_count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BrokenRule(f"{what} is no count but {short(value)}")
    return value


def json_object(text: str, what: str) -> dict[str, Any]:
    try:
        return an_object(json.loads(text), what)
    except ValueError:
        raise BrokenRule(f"{what} is no JSON: {text[:120]!r}") from None
