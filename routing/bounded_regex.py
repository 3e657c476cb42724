"""Regular expressions from strangers: refused before they are compiled where that would take long. The package `regex`
has a time limit for each search and lets other threads run meanwhile; the standard library's `re` has neither. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

MAX_PATTERN_LENGTH: Final = 2_000
MAX_PATTERN_SIZE: Final = 10_000
MAX_SHOWN: Final = 200
_QUANTIFIER: Final = re.compile(r"\{(\d{0,9})(,?)(\d{0,9})\}")


class BadPattern(ValueError):
    """The message says why."""


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """Has `search(text, timeout=…)`. Raises BadPattern: what unrolls to too much is refused untried."""
    import regex

    shown = repr(pattern[:60])
    if len(pattern) > MAX_PATTERN_LENGTH or unrolled_size(pattern) > MAX_PATTERN_SIZE:
        raise BadPattern(f"the pattern {shown} is too large")
    try:
        return regex.compile(pattern, regex.VERSION0)
    except (regex.error, RecursionError, OverflowError, ValueError) as problem:
        raise BadPattern(f"the pattern {shown} is no regular expression: {str(problem)[:MAX_SHOWN]}") from None


def unrolled_size(pattern: str) -> int:
    """About how many nodes it compiles to: what must be repeated n times is written out n times."""
    totals, last, at = [0], 0, 0
    while at < len(pattern):
        char = pattern[at]
        match char:
            case "(":
                totals.append(1)
                last = 0
            case ")" if len(totals) > 1:
                last = totals.pop()
                totals[-1] += last
            case "[":
                end = pattern.find("]", at + 2)
                at = len(pattern) if end < 0 else end
                last = 1
                totals[-1] += 1
            case "+":
                totals[-1] += last
                last *= 2
            case "{" if (counted := _QUANTIFIER.match(pattern, at)) is not None:
                times = int(counted[1] or 0)
                totals[-1] += last * times
                last *= times + 1
                at = counted.end() - 1
            case "*" | "?" | "|" | "^" | "$":
                pass
            case _:
                at += char == "\\"
                last = 1
                totals[-1] += 1
        if totals[-1] > MAX_PATTERN_SIZE:
            return totals[-1]
        at += 1
    return sum(totals)
