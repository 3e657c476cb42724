"""What of a prompt or an answer may be captured: its text without what was to be redacted, and not too much of it.
Works on the strings of JSON, so that no escape hides anything. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

MAX_READ: Final = 4_194_304  # bytes; of a longer text nothing is kept
SECONDS: Final = 0.1  # for each of the operator's own patterns, in one string
MARGIN: Final = 512  # characters before a cut that may hold half of what a pattern would find
MAX_DEPTH: Final = 100
MASK: Final = "[redacted]"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Unredactable(Exception):
    """It cannot be kept: a pattern took too long."""


def _is_card(digits: str) -> bool:
    """By Luhn's check."""
    numbers = [int(one) for one in reversed(digits) if one.isdigit()]
    return sum(n if at % 2 == 0 else sum(divmod(2 * n, 10)) for at, n in enumerate(numbers)) % 10 == 0


def _masked_card(found: re.Match[str]) -> str:
    return "[card]" if _is_card(found[0]) else found[0]


NAMED: Final[dict[str, tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]] = {
    "email": (re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), "[email]"),
    "card": (re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)"), _masked_card),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), "[iban]"),
    "phone": (
        re.compile(r"(?<![\w.+])(?:\+\d{7,15}|(?:\+|00)?\(?\d{1,5}\)?(?:[ ./-]{1,2}\(?\d{2,9}\)?){2,5})(?!\w)"),
        "[phone]",
    ),
}
"""In the order in which they are looked for."""


class Redaction:
    """`entries`: names of NAMED, and regular expressions."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        wanted = set(entries)
        self._named = [NAMED[name] for name in NAMED if name in wanted]
        self._own: list[Any] = []
        if own := sorted(wanted - NAMED.keys()):
            import regex  # only where it is needed; with it, no pattern can hold anything up

            self._own = [regex.compile(one, regex.VERSION0) for one in own]

    def text(self, text: str) -> str:
        """Raises Unredactable."""
        for pattern in self._own:
            try:
                text = pattern.sub(MASK, text, timeout=SECONDS)
            except TimeoutError:
                raise Unredactable from None
        for known, put in self._named:
            text = known.sub(put, text)
        return text

    def body(self, body: bytes, most: int) -> str:
        """Of JSON, or of a text that is none; at most so many characters. Raises Unredactable."""
        if len(body) > MAX_READ:
            return f"({len(body)} bytes: too many to be kept)"
        try:
            walked = _encode(_Walk(self, most).value(_decode(body))).decode()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self.cut(body.decode("utf-8", "replace"), most)
        return walked if len(walked) <= most else f"{walked[:most]}…"

    def cut(self, text: str, most: int) -> str:
        """Redacted first, so that a cut leaves no half of anything. Raises Unredactable."""
        if len(text) <= most:
            return self.text(text)
        return f"{self.text(text[: most + MARGIN])[:-MARGIN][:most]}…"


class _Walk:
    """Through one value, until enough was seen."""

    def __init__(self, redaction: Redaction, most: int) -> None:
        self._redaction = redaction
        self._left = most

    def value(self, value: Any, depth: int = 0) -> Any:
        if self._left <= 0 or depth > MAX_DEPTH:
            return "…"
        self._left -= 2
        match value:
            case str():
                return self._text(value)
            case bool() | None:
                return value
            case int():
                shown = str(value)
                told = self._text(shown)
                return value if told == shown else told
            case list():
                return [self.value(one, depth + 1) for one in self._some(value)]
            case dict():
                found = {}
                for name, one in value.items():
                    if self._left <= 0:
                        break
                    found[self._text(name)] = self.value(one, depth + 1)
                return found
        return value

    def _some(self, values: list[Any]) -> Iterable[Any]:
        for one in values:
            if self._left <= 0:
                return
            yield one

    def _text(self, text: str) -> str:
        told = self._redaction.cut(text, max(self._left, 0))
        self._left -= len(told)
        return told
