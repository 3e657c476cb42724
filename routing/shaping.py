"""The form that an answer's text must have: how a model is told, how its text is cleaned and held against it, and what
it is told when it does not fit. Pure; `check` computes for up to a second: not on an event loop.

Cleaning takes away only what surrounds the answer: thoughts, one outer code fence, and, of JSON and XML, words before
and after."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from xml.parsers import expat

import msgspec

from routing.output_schema import MAX_PROBLEMS, GaveUp, problems_of
from routing.think import without_thoughts

Kind = Literal["", "json", "xml", "markdown", "text"]
MAX_TEXT: Final = 8_388_608
_FENCE: Final = re.compile(r"(`{3,}|~{3,})[^`]*")  # a line that opens a code block
_any = msgspec.json.Decoder().decode
_TOLD: Final = {
    "json": "Answer with one JSON object and nothing else: no words around it, no code fence.",
    "xml": "Answer with one well-formed XML element and nothing else: no words around it, no code fence.",
    "markdown": "Format the answer as Markdown. Do not put the whole of it into a code fence.",
    "text": "Answer in plain text, without any markup: no Markdown, no HTML.",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """`schema`: JSON text, empty for any JSON. `param`: the client's name for it."""

    kind: Kind = ""
    schema: bytes = b""
    strip_think: bool = False
    param: str = "output_format"

    @property
    def is_checked(self) -> bool:
        """Whether a text may fail to have it."""
        return self.kind in {"json", "xml"}


class Checked(NamedTuple):
    """The cleaned text; or what is wrong with it, and the text as it was said."""

    text: str
    problems: tuple[str, ...] = ()


def check(shape: Shape, text: str) -> Checked:
    """Whatever the text is, an answer."""
    if shape.strip_think:
        text = without_thoughts(text)
    if len(text) > MAX_TEXT:
        return Checked(text, ("It is too long to be checked.",) if shape.is_checked else ())
    match shape.kind:
        case "json":
            return _json(shape.schema, text)
        case "xml":
            return _xml(text)
        case "markdown" | "text":
            return Checked(_unwrapped(text))
        case _:
            return Checked(text)


# -- code fences -----------------------------------------------------------------------------------------------------
def _fence(line: str) -> str:
    opening = _FENCE.fullmatch(line.strip())
    return opening[1] if opening is not None else ""


def _unwrapped(text: str) -> str:
    """Without a fence around the whole of it; as it was where a fence in it may be another's end."""
    first, _, rest = text.strip().partition("\n")
    inner, _, last = rest.rpartition("\n")
    fence = _fence(first)
    return inner if fence and last.strip() == fence and fence not in inner else text


def _lone_block(text: str) -> str:
    """What stands in the text's only fenced block; empty when there is none, or a second one."""
    blocks = list(_blocks(text))
    return blocks[0] if len(blocks) == 1 else ""


def _blocks(text: str) -> Iterator[str]:
    fence, inner = "", list[str]()
    for line in text.split("\n"):
        if not fence:
            fence = _fence(line)
        elif line.strip() == fence:
            yield "\n".join(inner)
            fence, inner = "", []
        else:
            inner.append(line)


# -- JSON ------------------------------------------------------------------------------------------------------------
def _json(schema: bytes, text: str) -> Checked:
    found, value = _json_in(text)
    if found is None:
        return Checked(text, (f"It is not JSON: {value}",))
    if not schema:
        return Checked(found) if isinstance(value, dict | list) else Checked(text, ("It is no JSON object.",))
    try:
        problems = problems_of(schema, value)
    except GaveUp as problem:
        problems = (f"It cannot be checked: {problem}.",)
    return Checked(text, problems) if problems else Checked(found)


def _json_in(text: str) -> tuple[str | None, Any]:
    """The JSON in a text and its value; or None and why the text as a whole is none."""
    thoughtless = without_thoughts(text)
    why = "it is empty"
    for one in (text, thoughtless, _lone_block(thoughtless), *_spans(thoughtless)):
        one = one.strip()
        if not one:
            continue
        try:
            return one, _any(one.encode())
        except (msgspec.DecodeError, UnicodeEncodeError) as problem:
            why = why if why != "it is empty" else str(problem)
        except RecursionError:
            why = "it is nested too deeply"
    return None, why


def _spans(text: str) -> tuple[str, ...]:
    """An object amid words, then an array; the array first where it may hold the object."""
    brace, bracket = _span(text, "{}"), _span(text, "[]")
    return (bracket, brace) if brace in bracket else (brace, bracket)


def _span(text: str, pair: str) -> str:
    """From the first opening to the last closing sign."""
    start, end = text.find(pair[0]), text.rfind(pair[1])
    return text[start : end + 1] if 0 <= start < end else ""


# -- XML -------------------------------------------------------------------------------------------------------------
def _xml(text: str) -> Checked:
    thoughtless = without_thoughts(text)
    problem = "It is empty."
    for one in (text, thoughtless, _lone_block(thoughtless), _span(thoughtless, "<>")):
        one = one.strip()
        if one:
            wrong = _xml_problem(one)
            if not wrong:
                return Checked(one)
            problem = wrong if problem == "It is empty." else problem
    return Checked(text, (problem,))


def _xml_problem(text: str) -> str:
    """Why it is not well-formed. A document type, and with it every entity of its own, is refused."""
    parser = expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise ValueError("it has a document type")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text.encode(), True)
    except (expat.ExpatError, ValueError) as problem:
        return f"It is not well-formed XML: {problem}"
    return ""


# -- what a model is told ----------------------------------------------------------------------------------------------
def instruction(shape: Shape) -> str:
    """For a model that is not made to keep the form otherwise."""
    told = _TOLD.get(shape.kind, "")
    return f"{told} It must match this JSON Schema: {shape.schema.decode()}" if shape.schema else told


def objection(shape: Shape, checked: Checked) -> str:
    """To a text that does not fit."""
    listed = "\n".join(f"- {problem}" for problem in checked.problems[:MAX_PROBLEMS])
    return f"Your answer is not what was asked for:\n{listed}\n\nGive the whole answer again. {instruction(shape)}"
