"""Masks what looks like a secret, in any text that is about to be logged: client keys, providers' credentials, headers
that carry one, passwords in addresses, values whose name says that they are secret. Pure. Rather too much than too
little: a log is read by many."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"
MAX_TEXT: Final = 65_536
MAX_DEPTH: Final = 8
MIN_LITERAL: Final = 6

_NAMES: Final = (
    r"(?:(?:pass(?:word|wd|phrase)|secret|credential|authorization|cookie|(?:api|private|secret)[_-]?key)s?"
    r"|(?:access|auth|refresh|id|csrf|session)[_-]?token|(?<![a-z])token)"
)
_QUOTE: Final = r"\\*[\"']"
_QUOTED: Final = r"b?\\*(?P<q>[\"'])(?:\\.|(?!(?P=q))[^\\\n])*"
_PATTERNS: Final = tuple(
    (re.compile(pattern, flags), put)
    for pattern, flags, put in (
        (r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(?:-----END|\Z)", 0, rf"\1{MASK}"),
        # before what may take the address's beginning away
        (r"(://[^\s/:@\"']*:)[^\s/\"']+@", 0, rf"\1{MASK}@"),
        # 'NAME': 'VALUE', NAME='VALUE' and ("NAME", "VALUE"), escaped or not
        (rf"({_NAMES}(?:(?:{_QUOTE})?\s*[:=]|{_QUOTE}\s*,)\s*){_QUOTED}", re.I, rf"\1{MASK}"),
        # to the end of the line, for headers whose values hold spaces
        (r"((?:authorization|cookie)\s*[:=]\s*)[^\n]+", re.I, rf"\1{MASK}"),
        # NAME=VALUE
        (rf"({_NAMES}(?:{_QUOTE})?\s*[:=]\s*)(?!b?{_QUOTE})\S+", re.I, rf"\1{MASK}"),
        (r"([?&]key=)[^&\s\"']+", re.I, rf"\1{MASK}"),
        (r"(bearer\s+)[^\s\"'\\,;]+", re.I, rf"\1{MASK}"),
        (r"tokenhub_[0-9a-f]{9,}", re.I, f"tokenhub_{MASK}"),
        (r"(?<![A-Za-z0-9])sk-[\w-]{8,}|sk-(?=[\w-]{0,200}?\d)[\w-]{8,}", 0, f"sk-{MASK}"),
        (r"(?<![A-Za-z0-9])((?:gsk|hf|xai|r8|nvapi|pplx|whsec|ghp|glpat)[_-])[\w-]{16,}", 0, rf"\1{MASK}"),
        (r"(AIza|AKIA)[\w-]{12,}", 0, rf"\1{MASK}"),
        (r"eyJ[\w-]{8,1000}\.[\w-]+(?:\.[\w-]*)?", 0, MASK),
        (r"(/login-link/)[^/\s\"']+", 0, rf"\1{MASK}"),  # the last: it takes words away that others look for
    )
)
_SIGNS: Final = (
    "pass", "secret", "credential", "authorization", "cookie", "key", "token", "bearer", "://", "sk-", "eyj", "aiza",
    "akia", "/login-link/", "gsk", "hf", "xai", "r8", "nvapi", "pplx", "whsec", "ghp", "glpat",
)  # fmt: skip
"""One of them, in small letters, is in whatever a pattern finds."""
_SECRET_NAME: Final = re.compile(rf"{_NAMES}$", re.I)


class Redactor:
    """`literals`: secrets of this installation that have no form of their own."""

    def __init__(self, literals: tuple[str, ...] = ()) -> None:
        found = {one for one in literals if len(one) >= MIN_LITERAL}
        self._literals = tuple(sorted(found, key=len, reverse=True))

    def text(self, text: str) -> str:
        for literal in self._literals:
            if literal in text:
                text = text.replace(literal, MASK)
        small = text.lower()
        if any(sign in small for sign in _SIGNS):
            for pattern, put in _PATTERNS:
                text = pattern.sub(put, text)
        return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"

    def pairs(self, data: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
        """The same pairs, fit to be logged."""
        return {self.text(str(name)): self._pair(str(name), value, depth) for name, value in data.items()}

    def _pair(self, name: str, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        return MASK if _SECRET_NAME.search(name) else self.value(value, depth)

    def value(self, value: Any, depth: int = 0) -> Any:
        match value:
            case None | bool() | int() | float():
                return value
            case str():
                return self.text(value)
            case _ if depth >= MAX_DEPTH:
                return "…"
            case Mapping():
                return self.pairs(value, depth + 1)
            case [name, _] if isinstance(name, str | bytes) and _SECRET_NAME.search(_text(name)):
                return [_text(name), MASK]  # a header
            case list() | tuple() | set() | frozenset():
                return [self.value(one, depth + 1) for one in value]
            case _:
                return self.text(_text(value))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
