"""Routing wishes in the text of a request, for clients that can set neither headers nor fields:

    @@tokenhub mode=cheap budget=0.01 latency=5000 min_weight=5

or a block, one wish a line, from `@@tokenhub` to `@@end`. They are obeyed in system and developer messages and in the
last message of the user; in the user's older ones they are taken out only. What the model said, tool results and
documents are never looked into. The last directive wins; its text never reaches a provider. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import Raw

from routing.errors import ApiError
from routing.policy import Policy, with_limits, with_mode
from routing.scoring import PROFILES

MARK: Final = b"@@tokenhub"
KEYS: Final = ("mode", "budget", "latency", "min_weight", "output_schema")
_START = re.compile(r"^[ \t]*@@tokenhub(?![^ \t\r\n])([^\r\n]*+)\r?$", re.MULTILINE)  # in one pass, whatever the line
_END = re.compile(r"^[ \t]*@@end[ \t]*\r?$", re.MULTILINE)
_PAIR = re.compile(r"[ \t]*([^\s=]+)[ \t]*=[ \t]*")
_WORD = re.compile(r"\S*")
_SPACE = re.compile(r"\s*")
_LIMIT_NAMES: Final = ("budget", "latency", "min_weight")
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_any = msgspec.json.Decoder().decode
_list = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder().encode
_json = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Directive:
    """What one of them asks for, each value as it was written."""

    values: dict[str, str] = field(default_factory=dict)

    def apply(self, policy: Policy, profiles: Collection[str] = PROFILES.keys()) -> Policy:
        """`profiles`: the modes that there are. Raises ApiError for a bad value."""
        if (mode := self.values.get("mode")) is not None:
            try:
                policy = with_mode(policy, mode, param="mode", profiles=profiles)
            except ApiError as problem:
                raise _bad(problem.message, "mode", problem.hint) from None
        numbers = [_number(name, self.values.get(name)) for name in _LIMIT_NAMES]
        if numbers == [None, None, None]:
            return policy
        try:
            return with_limits(
                policy, max_budget_usd=numbers[0], max_latency_ms=numbers[1], min_weight=numbers[2], names=_LIMIT_NAMES
            )
        except ApiError as problem:
            raise _bad(problem.message, problem.param or "", problem.hint) from None

    @property
    def output_schema(self) -> dict[str, Any] | None:
        """Raises ApiError when it is no JSON object."""
        text = self.values.get("output_schema")
        if text is None:
            return None
        try:
            value = _json.decode(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise _bad("output_schema must be a JSON object on one line.", "output_schema")
        return value


def _number(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise _bad(f"{name} must be a number, not {text[:40]!r}.", name) from None


def _bad(message: str, name: str, hint: str = "") -> ApiError:
    known = "A directive knows " + ", ".join(KEYS) + "."
    return ApiError("invalid_directive", f"@@tokenhub: {message}", param=name, hint=hint or known)


# -- in a text -----------------------------------------------------------------------------------------------------
def taken_from(text: str) -> tuple[str, Directive | None]:
    """The text without its directives, and the last of them. Raises ApiError."""
    found: Directive | None = None
    rest: list[str] = []
    at = 0
    while (start := _START.search(text, at)) is not None:
        rest.append(text[at : start.start()])
        if wishes := start[1].strip(" \t"):
            found, at = Directive(_pairs(wishes, {})), start.end()
        else:
            end = _END.search(text, start.end())
            if end is None:
                raise _bad("the block has no @@end.", "@@tokenhub")
            values: dict[str, str] = {}
            for line in text[start.end() : end.start()].splitlines():
                if line.strip():
                    _pairs(line.strip(), values)
            found, at = Directive(values), end.end()
        at += text[at : at + 1] == "\n"
    if found is None:
        return text, None
    rest.append(text[at:])
    return "".join(rest), found


def _pairs(text: str, values: dict[str, str]) -> dict[str, str]:
    """`name=value` pairs, added to the values; a value that begins like JSON reaches to its end, any other to the next
    space."""
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            raise _bad(f"{text[at : at + 60].strip()!r} is no name=value.", "@@tokenhub")
        name, at = match[1], match.end()
        if name not in KEYS:
            raise _bad(f"there is no {name[:60]!r}.", name[:60])
        if name in values:
            raise _bad(f"{name} stands there twice.", name)
        if text[at : at + 1] in {"{", "["}:
            try:
                _, end = _json.raw_decode(text, at)
            except (ValueError, RecursionError):
                raise _bad(f"the value of {name} is no JSON.", name) from None
        else:
            end = _end(_WORD, text, at)
        if end == at:
            raise _bad(f"{name} has no value.", name)
        values[name], at = text[at:end], _end(_SPACE, text, end)
    return values


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Of what the pattern, which may be empty, finds there."""
    found = pattern.match(text, at)
    return found.end() if found is not None else at


# -- in a request --------------------------------------------------------------------------------------------------
def taken_from_body(body: bytes, dialect: str) -> tuple[bytes, Directive | None]:
    """The request's body without directives, and the one to be obeyed. A body that is no such request comes back as it
    is: whoever reads it says what is wrong. Raises ApiError."""
    if MARK not in body:
        return body, None
    try:
        fields = _fields(body)
        taker = _Taker()
        if dialect == "openai-responses":
            taker.system_field(fields, "instructions")
            taker.turns(fields, "input", is_turn=lambda item: item.get("type", "message") in {"message", None})
        else:
            if dialect == "anthropic-messages":
                taker.system_field(fields, "system")
            taker.turns(fields, "messages", is_turn=lambda _: True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body, None
    if not taker.has_changed:
        return body, None
    return _encode(fields), taker.obeyed


class _Taker:
    def __init__(self) -> None:
        self.obeyed: Directive | None = None
        self.has_changed = False

    def system_field(self, fields: dict[str, Raw], name: str) -> None:
        if MARK not in bytes(fields.get(name, Raw())):
            return
        content, found = self._content(_any(fields[name]))
        if found is None:
            return
        self.obeyed = found
        if content:
            fields[name] = Raw(_encode(content))
        else:
            del fields[name]

    def turns(self, fields: dict[str, Raw], name: str, *, is_turn: Callable[[dict[str, Any]], bool]) -> None:
        raw = fields.get(name, Raw())
        if MARK not in bytes(raw):
            return
        if name == "input" and bytes(raw).lstrip()[:1] == b'"':  # Responses take a plain text
            text, found = taken_from(_any(raw))
            if found is not None:
                self.has_changed, self.obeyed = True, found
                fields[name] = Raw(_encode(_not_empty(text)))
            return
        turns = _list(raw)
        last_of_user = self._last_of_user(turns, is_turn)
        kept: list[Raw] = []
        for number, one in enumerate(turns):
            turn = _any(one) if MARK in bytes(one) else None
            if not isinstance(turn, dict) or not is_turn(turn) or turn.get("role") not in _ROLES:
                kept.append(one)
                continue
            content, found = self._content(turn.get("content"))
            if found is None:
                kept.append(one)
                continue
            if turn["role"] != "user" or number == last_of_user:
                self.obeyed = found
            if content:
                kept.append(Raw(_encode({**turn, "content": content})))
        if not kept:
            _not_empty("")
        fields[name] = Raw(_encode(kept))

    @staticmethod
    def _last_of_user(turns: list[Raw], is_turn: Callable[[dict[str, Any]], bool]) -> int:
        """Messages that hold tool results alone do not count: the user said nothing in them."""
        for number in range(len(turns) - 1, -1, -1):
            turn = _any(turns[number])
            if not isinstance(turn, dict) or not is_turn(turn) or turn.get("role") != "user":
                continue
            content = turn.get("content")
            if isinstance(content, str) or any(_is_text(part) for part in content or ()):
                return number
        return -1

    def _content(self, content: Any) -> tuple[Any, Directive | None]:
        """A message's content without directives; empty when nothing else was in it."""
        found: Directive | None = None
        if isinstance(content, str):
            content, found = taken_from(content)
            content = content if content.strip() else ""
        elif isinstance(content, list):
            parts = []
            for part in content:
                if _is_text(part):
                    text, here = taken_from(part["text"])
                    if here is not None:
                        found = here
                        if not text.strip():
                            continue
                        part = {**part, "text": text}
                parts.append(part)
            content = parts
        if found is not None:
            self.has_changed = True
        return content, found


_ROLES: Final = frozenset({"system", "developer", "user"})


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in {"text", "input_text"} and isinstance(part.get("text"), str)


def _not_empty(text: str) -> str:
    if not text.strip():
        raise _bad("nothing but the directive is in the request.", "@@tokenhub", "Say something to the model, too.")
    return text


# -- the schema that one asks for -----------------------------------------------------------------------------------
def with_output_schema(body: bytes, dialect: str, schema: dict[str, Any] | Raw) -> bytes:
    """The request that asks for JSON of that schema, in its own dialect's words."""
    fields: dict[str, Any] = dict(_fields(body))
    match dialect:
        case "openai-responses":
            text = _any(fields["text"]) if "text" in fields else {}
            shape = {"type": "json_schema", "name": "output", "schema": schema}
            fields["text"] = {**(text if isinstance(text, dict) else {}), "format": shape}
        case "anthropic-messages":
            config = _any(fields["output_config"]) if "output_config" in fields else {}
            shape = {"type": "json_schema", "schema": schema}
            fields["output_config"] = {**(config if isinstance(config, dict) else {}), "format": shape}
        case _:
            fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
    return _encode(fields)
