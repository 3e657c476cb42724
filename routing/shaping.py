"""The form that an answer's text must have: how a model is told, how its text is cleaned and held against it, and what
it is told when it does not fit. Pure; `check` computes for up to a second: not on an event loop.

Cleaning takes away only what surrounds the answer: thoughts, one outer code fence, and, of JSON and XML, words before
and after."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from xml.parsers import expat

import msgspec
from msgspec import Raw

from routing.output_schema import MAX_PROBLEMS, GaveUp, problems_of
from routing.think import ThinkFilter, without_thoughts

Kind = Literal["", "json", "xml", "markdown", "text"]
MAX_SHOWN: Final = 4_000  # characters of a text that are repeated to the model
_FENCE: Final = re.compile(r"\A\s*(`{3,}|~{3,})[^\n`]*\n(.*?)\n?[ \t]*\1\s*\Z", re.DOTALL)
_FENCED: Final = re.compile(r"^(`{3,}|~{3,})[^\n`]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
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
    """The cleaned text, and what is wrong with it."""

    text: str
    problems: tuple[str, ...] = ()


def check(shape: Shape, text: str) -> Checked:
    """Whatever the text is, an answer."""
    if shape.strip_think:
        text = without_thoughts(text)
    match shape.kind:
        case "json":
            return _json(shape.schema, text)
        case "xml":
            return _xml(text)
        case "markdown" | "text":
            return Checked(_unwrapped(text))
        case _:
            return Checked(text)


def _unwrapped(text: str) -> str:
    fence = _FENCE.match(text)
    return fence[2] if fence is not None and fence[1] not in fence[2] else text


# -- JSON ------------------------------------------------------------------------------------------------------------
def _json(schema: bytes, text: str) -> Checked:
    found, value = _json_in(text)
    if found is None:
        return Checked(text, (f"It is not JSON: {value}",))
    if not schema:
        return Checked(found) if isinstance(value, dict | list) else Checked(found, ("It is no JSON object.",))
    try:
        return Checked(found, problems_of(schema, value))
    except GaveUp as problem:
        return Checked(found, (f"It cannot be checked: {problem}.",))


def _json_in(text: str) -> tuple[str | None, Any]:
    """The JSON in a text and its value; or None and why the text as a whole is none."""
    thoughtless = without_thoughts(text)
    fenced = _FENCED.findall(thoughtless)
    why = "it is empty"
    for one in (text, thoughtless, *(inner for _, inner in fenced[:1] if len(fenced) == 1), _span(thoughtless, "{}")):
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


def _span(text: str, pair: str) -> str:
    """From the first opening to the last closing sign."""
    start, end = text.find(pair[0]), text.rfind(pair[1])
    return text[start : end + 1] if 0 <= start < end else ""


# -- XML -------------------------------------------------------------------------------------------------------------
def _xml(text: str) -> Checked:
    text = without_thoughts(text)
    fenced = _FENCED.findall(text)
    problem = "It is empty."
    for one in (text, *(inner for _, inner in fenced[:1] if len(fenced) == 1), _span(text, "<>")):
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


def told(body: bytes, text: str) -> bytes:
    """A chat completion with one more instruction: in its first system message, for some models take no second one."""
    fields: dict[str, Any] = dict(_fields(body))
    messages: list[Any] = list(_list(fields["messages"]))
    first = _any(messages[0])
    if isinstance(first, dict) and first.get("role") in {"system", "developer"}:
        content = first.get("content")
        if isinstance(content, str):
            messages[0] = {**first, "content": f"{content}\n\n{text}"}
        elif isinstance(content, list):
            messages[0] = {**first, "content": [*content, {"type": "text", "text": text}]}
    else:
        messages.insert(0, {"role": "system", "content": text})
    fields["messages"] = messages
    return _encode(fields)


def asked_again(body: bytes, dialect: str, answer: str, objections: str) -> bytes:
    """The request with the model's answer and what is wrong with it."""
    fields: dict[str, Any] = dict(_fields(body))
    name = "input" if dialect == "openai-responses" else "messages"
    turns: Any = _any(fields[name])
    turns = list(turns) if isinstance(turns, list) else [{"role": "user", "content": turns}]
    answer = answer[:MAX_SHOWN].strip() or "(nothing)"
    fields[name] = [*turns, {"role": "assistant", "content": answer}, {"role": "user", "content": objections}]
    return _encode(fields)


# -- an OpenAI chat completion ---------------------------------------------------------------------------------------
def texts_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of the choices that have a text to be held against a shape: no refusal, no tool call."""
    choices = answer.get("choices")
    messages = [one.get("message") for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    return [
        one
        for one in messages
        if isinstance(one, dict) and not one.get("refusal") and not one.get("tool_calls")
        and isinstance(one.get("content"), str | None)
    ]  # fmt: skip


def without_reasoning(message: dict[str, Any]) -> None:
    """Takes away the fields in which services show their models' thoughts."""
    for name in ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks"):
        message.pop(name, None)


class ChunkFilter:
    """Takes the thoughts out of the chunks of a chat completion's stream."""

    def __init__(self) -> None:
        self._thoughts: dict[int, ThinkFilter] = {}

    def filtered(self, chunk: bytes) -> bytes:
        """An event's data; it is as it was where there is nothing to take out. Empty: nothing is left of it."""
        try:
            fields = _any(chunk)
            choices = [one for one in fields["choices"] if isinstance(one, dict)]
        except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
            return chunk
        for choice in choices:
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                continue
            without_reasoning(delta)
            thoughts = self._thoughts.setdefault(choice.get("index") or 0, ThinkFilter())
            if isinstance(content := delta.get("content"), str):
                delta["content"] = thoughts.feed(content)
            if choice.get("finish_reason") and (held := thoughts.close()):
                delta["content"] = (delta.get("content") or "") + held
        return _encode(fields)
