"""Takes a model's thoughts out of its text: what stands between <think> and </think>, or <thinking>, wherever a stream
is cut. Pure; it holds back no more than the beginning of a tag."""

from __future__ import annotations

import re
from typing import Final

_TAG: Final = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE | re.ASCII)
_LONGEST: Final = len("</thinking>")
_BEGINNINGS: Final = frozenset(
    tag[:length] for tag in ("<think>", "</think>", "<thinking>", "</thinking>") for length in range(1, len(tag))
)


class ThinkFilter:
    """Of one text. Thoughts may nest; those that never end reach to the end of the text. White space between thoughts
    and the first word of the answer goes with them."""

    __slots__ = ("_begun", "_depth", "_held", "_thought")

    def __init__(self) -> None:
        self._held = ""
        self._depth = 0
        self._begun = self._thought = False

    def feed(self, text: str) -> str:
        """What the client may see of it by now."""
        text = self._held + text
        shown, at = [], 0
        for tag in _TAG.finditer(text):
            if not self._depth:
                shown.append(self._trimmed(text[at : tag.start()]))
            at = tag.end()
            self._depth = max(self._depth - 1, 0) if tag[1] else self._depth + 1
            self._thought = True
        rest = text[at:]
        self._held = _beginning_of_tag(rest)
        if not self._depth:
            shown.append(self._trimmed(rest[: len(rest) - len(self._held)]))
        return "".join(shown)

    def close(self) -> str:
        """What was held back and turned out to be no tag."""
        held, self._held = self._held, ""
        return "" if self._depth else self._trimmed(held)

    def _trimmed(self, text: str) -> str:
        if not self._begun:
            begun = text.lstrip()
            self._begun = bool(begun)
            return begun if self._thought else text
        return text


def _beginning_of_tag(text: str) -> str:
    """The end of the text that may go on as a tag."""
    start = text.rfind("<", -_LONGEST)
    tail = text[start:] if start >= 0 else ""
    return tail if tail.lower() in _BEGINNINGS else ""


def without_thoughts(text: str) -> str:
    """Of a whole text. Some models open their thoughts in the prompt: then all before a lone </think> is one."""
    first = _TAG.search(text)
    if first is not None and first[1]:
        text = text[first.end() :].lstrip()
    thoughts = ThinkFilter()
    return thoughts.feed(text) + thoughts.close()
