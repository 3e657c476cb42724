"""What the scripted upstream says: one script for each marker, in no dialect's words. Pure.

A client's text names its script as `[conformance:NAME:TICKET]`; the ticket tells the plays of one script apart."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from tokenhub.conformance.values import Stop, Usage

_MARK = re.compile(r"\[conformance:([a-z-]+):([0-9]+)\]")

UNICODE: Final = 'Grüße, 世界! 👩🏽‍🚀 "quoted" \\ back\tslash\nשלום \u2028 é — <|end|> data: no event'  # noqa: RUF001  Hebrew is meant
ANSWER: Final = {"city": "Zürich", "inhabitants": 443037, "tags": ["lake", 'old "town"']}
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "inhabitants": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city", "inhabitants", "tags"],
    "additionalProperties": False,
}
RETRY_AFTER: Final = 3
WORDS_OF_400: Final = "the conformance upstream refuses this request"
WORDS_OF_429: Final = "the conformance upstream has had enough"
TOKENS_COUNTED: Final = 4711
STOP_SEQUENCE: Final = "###"
PAUSE_SECONDS: Final = 0.5


def mark(script: str, ticket: int) -> str:
    return f"[conformance:{script}:{ticket}]"


def marks(text: str) -> list[tuple[str, int]]:
    return [(name, int(ticket)) for name, ticket in _MARK.findall(text)]


class Function(NamedTuple):
    name: str
    arguments: dict[str, Any]


_USAGE: Final = Usage(100, 40, 20, 30, 10)


@dataclass(frozen=True, slots=True)
class Script:
    """`piece`: how many characters a stream says at once. `seal`: the signature or encrypted content of the thoughts.
    `is_schema`: the answer is said in the way that the request demands JSON. `is_cut_in_call`: the arguments break off.
    `dies`: at-once, with an error as its first event; cut or error, after the first half of a stream. `writes`: bytes,
    windows (CRLF, comments, retry fields) or pause; how a stream is written."""

    text: str = "All is well."
    thinking: str = ""
    seal: str = ""
    redacted: str = ""
    calls: tuple[Function, ...] = ()
    refusal: str = ""
    stop: Stop = Stop.END
    usage: Usage = _USAGE
    piece: int = 7
    status: int = 200
    words: str = ""
    is_schema: bool = False
    is_cut_in_call: bool = False
    dies: str = ""
    writes: str = ""


_PLAIN = Script()
_LONG = Script("".join(f"{number}. line of a long answer, {UNICODE}\n" for number in range(40)), piece=11)
_ONE = Script(
    "Let me look.",
    calls=(Function("weather", {"city": "Zürich", "days": 3, "deep": {"a": [1, None]}}),),
    stop=Stop.TOOLS,
)
_PARALLEL = Script(
    "",
    calls=(Function("weather", {"city": "Bern"}), Function("clock", {}), Function("weather", {"city": 'Genève "é"'})),
    stop=Stop.TOOLS,
    piece=3,
)
_THINKING = Script(
    "It is 42.",
    thinking="First I add.\n\nThen I multiply 6 by 7 — “carefully”.",
    seal="c2VhbGVk+/IGJ5IHRoZSBzdWl0ZQ==",
    piece=5,
)

SCRIPTS: Final[dict[str, Script]] = {
    "plain": _PLAIN,
    "unicode": replace(_PLAIN, text=UNICODE, piece=1),
    "long": _LONG,
    "tools-one": _ONE,
    "tools-parallel": _PARALLEL,
    "tools-empty": Script("", calls=(Function("clock", {}),), stop=Stop.TOOLS),
    "thinking": _THINKING,
    "thinking-tools": replace(_THINKING, text="", calls=(Function("weather", {"city": "Basel"}),), stop=Stop.TOOLS),
    "redacted": Script("Done.", redacted="cmVkYWN0ZWQgdGhvdWdodHM=", calls=(Function("clock", {}),), stop=Stop.TOOLS),
    "schema": Script(json.dumps(ANSWER, ensure_ascii=False), is_schema=True),
    "length": Script("This is cut at the", stop=Stop.LENGTH),
    "sequence": Script("One, two, ", stop=Stop.SEQUENCE),
    "refusal": Script("", refusal="I will not say that.", stop=Stop.REFUSAL),
    "error-rejected": Script(status=400, words=WORDS_OF_400),
    "error-limited": Script(status=429, words=WORDS_OF_429),
    "error-broken": Script(status=500, words="the conformance upstream is broken"),
    "empty": Script(""),
    "length-in-call": Script(
        "", calls=(Function("weather", {"city": "Zürich", "days": 3}),), stop=Stop.LENGTH, is_cut_in_call=True
    ),
    "cut": replace(_LONG, dies="cut"),
    "fails": replace(_LONG, dies="error"),
    "bytes": replace(_ONE, text=UNICODE, writes="bytes"),
    "windows": replace(_PARALLEL, text=UNICODE, writes="windows"),
    "fails-at-once": replace(_PLAIN, dies="at-once"),
    "slow": replace(_LONG, writes="pause"),
}


def arguments(script: Script, call: Function) -> str:
    """As JSON text, which may break off."""
    text = json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))
    return text[: len(text) // 2] if script.is_cut_in_call else text


def pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
