"""What an OpenAI response may look like: the whole body, and every event of a stream in its place. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tokenhub.conformance.rules import a_count, a_list, a_text, an_object, json_object, need, short
from tokenhub.conformance.sse import Event
from tokenhub.conformance.values import BrokenRule, Call, Said, Stop, Trouble, Usage

_TERMINAL: Final = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
_TEXTS: Final = {  # the kind of text: its part's type, and the field that holds it
    "output_text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning_text", "text"),
    "reasoning_summary_text": ("summary_text", "text"),
}
_INCOMPLETE: Final = {"max_output_tokens": Stop.LENGTH, "content_filter": Stop.REFUSAL}


def read_whole(body: Any) -> Said:
    """Raises BrokenRule."""
    response = an_object(body, "the answer")
    _head(response)
    status = response.get("status")
    need(status in {"completed", "incomplete"}, f"status is {short(status)}")
    return _said(response)


def read_usage(value: Any) -> Usage:
    usage = an_object(value, "usage")
    read = a_count(usage.get("input_tokens"), "usage.input_tokens")
    output = a_count(usage.get("output_tokens"), "usage.output_tokens")
    total = a_count(usage.get("total_tokens"), "usage.total_tokens")
    need(total == read + output, f"usage.total_tokens is {total}, not {read + output}")
    of_input = an_object(usage.get("input_tokens_details"), "usage.input_tokens_details")
    of_output = an_object(usage.get("output_tokens_details"), "usage.output_tokens_details")
    return Usage(
        read,
        a_count(of_input.get("cached_tokens"), "usage.input_tokens_details.cached_tokens"),
        of_input.get("cache_write_tokens") or 0,
        output,
        a_count(of_output.get("reasoning_tokens"), "usage.output_tokens_details.reasoning_tokens"),
    )


def read_stream(events: Sequence[Event]) -> Said:
    """The whole stream. One that ends with `error` or `response.failed` is an answer with `error`. Raises
    BrokenRule."""
    stream = _Stream()
    for number, event in enumerate(events):
        try:
            stream.take(event, number)
        except BrokenRule as problem:
            raise BrokenRule(f"event {number}: {problem}") from None
    return stream.end()


@dataclass(slots=True)
class _Text:
    """A part's text while it is written; `done` once its own `.done` said it all, `closed` once its part is over."""

    kind: str
    written: str = ""
    done: bool = False
    closed: bool = False
    part: Any = None


@dataclass(slots=True)
class _Item:
    value: dict[str, Any]
    contents: list[_Text] = field(default_factory=list)
    summaries: list[_Text] = field(default_factory=list)
    arguments: str = ""
    arguments_done: bool = False
    done: dict[str, Any] | None = None


class _Stream:
    def __init__(self) -> None:
        self._steps = 0
        self._head: tuple[Any, ...] = ()
        self._items: list[_Item] = []
        self._said: Said | None = None
        self._error: Trouble | None = None
        self._over = ""

    def take(self, event: Event, number: int) -> None:
        data = event.json()
        kind = data.get("type")
        need(event.name == kind, f"the event's name is {event.name!r}, its type {short(kind)}")
        sequence = data.get("sequence_number")
        need(sequence == number, f"{kind} has sequence_number {short(sequence)}, {number} is next")
        failed = kind == "response.failed"
        need(not self._over or (self._over == "error" and failed), f"{short(kind)} follows {self._over}")
        if kind == "error":
            need("code" in data, "error has no code, not even null")
            need("param" in data, "error has no param, not even null")
            self._error = Trouble("error", a_text(data.get("message"), "message", filled=True), data["code"] or "")
            self._over = "error"
            return
        expected = ("response.created", "response.in_progress")
        if self._steps < len(expected) and not failed:
            need(kind == expected[self._steps], f"{short(kind)} comes where {expected[self._steps]} has to stand")
            self._steps += 1
            response = self._response(data)
            need(response.get("status") in {"in_progress", "queued"}, f"status is {short(response.get('status'))}")
            need(response.get("output") == [], f"output is {short(response.get('output'))} at the start")
            return
        if kind in _TERMINAL:
            self._end_with(str(kind), self._response(data))
            return
        self._inner(str(kind), data)

    def _response(self, data: dict[str, Any]) -> dict[str, Any]:
        response = an_object(data.get("response"), "response")
        head = _head(response)
        need(self._head in {(), head}, f"id, created_at or model changed from {self._head} to {head}")
        self._head = head
        return response

    def _inner(self, kind: str, data: dict[str, Any]) -> None:
        family, _, step = kind.removeprefix("response.").rpartition(".")
        if kind == "response.output_item.added":
            return self._item_added(data)
        item = self._item(data, named=family != "output_item")
        match family, step:
            case "output_item", "done":
                self._item_done(item, an_object(data.get("item"), "item"))
            case "content_part", "added":
                self._part_added(item.contents, data, "content_index")
            case "content_part", "done":
                self._part_done(self._text(item.contents, data, "content_index"), data)
            case "reasoning_summary_part", "added":
                self._part_added(item.summaries, data, "summary_index")
            case "reasoning_summary_part", "done":
                self._part_done(self._text(item.summaries, data, "summary_index"), data)
            case "function_call_arguments", _:
                self._arguments(item, step, data)
            case "output_text.annotation", "added":
                pass
            case _ if family in _TEXTS:
                is_summary = family == "reasoning_summary_text"
                texts = item.summaries if is_summary else item.contents
                self._write(
                    self._text(texts, data, "summary_index" if is_summary else "content_index"), family, step, data
                )
            case _:
                raise BrokenRule(f"{kind} is no event of a response")
        return None

    def _item_added(self, data: dict[str, Any]) -> None:
        index = a_count(data.get("output_index"), "output_index")
        need(index == len(self._items), f"output_index is {index}, the next one is {len(self._items)}")
        item = an_object(data.get("item"), "item")
        identity = a_text(item.get("id"), "item.id", filled=True)
        need(identity not in {one.value["id"] for one in self._items}, f"two items have the id {identity}")
        kind = item.get("type")
        match kind:
            case "message":
                need(item.get("role") == "assistant", f"item.role is {short(item.get('role'))}")
                need(item.get("content") == [], f"item.content is {short(item.get('content'))} at its start")
            case "reasoning":
                need(item.get("summary") == [], f"item.summary is {short(item.get('summary'))} at its start")
            case "function_call":
                a_text(item.get("call_id"), "item.call_id", filled=True)
                a_text(item.get("name"), "item.name", filled=True)
                need(item.get("arguments") == "", f"item.arguments is {short(item.get('arguments'))} at its start")
            case _:
                raise BrokenRule(f"{short(kind)} is no type of an output item")
        if kind != "reasoning":
            need(item.get("status") == "in_progress", f"item.status is {short(item.get('status'))} at its start")
        self._items.append(_Item(item))

    def _item(self, data: dict[str, Any], *, named: bool) -> _Item:
        kind, index = data["type"], a_count(data.get("output_index"), "output_index")
        need(index < len(self._items), f"{kind} of item {index}, which was not added")
        item = self._items[index]
        need(item.done is None, f"{kind} of item {index}, which is done")
        if named:
            identity = data.get("item_id")
            need(identity == item.value["id"], f"item_id is {short(identity)}, item {index} is {item.value['id']}")
        return item

    def _part_added(self, texts: list[_Text], data: dict[str, Any], counter: str) -> None:
        index = a_count(data.get(counter), counter)
        need(index == len(texts), f"{counter} is {index}, the next one is {len(texts)}")
        part = an_object(data.get("part"), "part")
        kinds = [kind for kind, (type_, _) in _TEXTS.items() if type_ == part.get("type")]
        need(kinds, f"{short(part.get('type'))} is no type of a part")
        name = _TEXTS[kinds[0]][1]
        need(part.get(name) == "", f"part.{name} is {short(part.get(name))} at its start")
        _check_part(part)
        texts.append(_Text(kinds[0]))

    def _text(self, texts: list[_Text], data: dict[str, Any], counter: str) -> _Text:
        index = a_count(data.get(counter), counter)
        need(index < len(texts), f"{data['type']} of part {index}, which was not added")
        need(not texts[index].closed, f"{data['type']} of part {index}, which is done")
        return texts[index]

    def _write(self, text: _Text, kind: str, step: str, data: dict[str, Any]) -> None:
        need(text.kind == kind, f"{data['type']} of a part with {text.kind}")
        need(not text.done, f"{data['type']} after the part's text was done")
        if step == "delta":
            text.written += a_text(data.get("delta"), "delta")
            return
        need(step == "done", f"{data['type']} is no event of a response")
        whole = data.get(_TEXTS[kind][1])
        need(whole == text.written, f"{data['type']} says {short(whole)}, the deltas said {short(text.written)}")
        text.done = True

    def _part_done(self, text: _Text, data: dict[str, Any]) -> None:
        need(text.done, f"{data['type']} before the part's text was done")
        type_, name = _TEXTS[text.kind]
        part = an_object(data.get("part"), "part")
        need(part.get("type") == type_, f"part.type is {short(part.get('type'))}, it was {type_}")
        need(part.get(name) == text.written, f"part.{name} is {short(part.get(name))}, not {short(text.written)}")
        _check_part(part)
        text.part, text.closed = part, True

    def _arguments(self, item: _Item, step: str, data: dict[str, Any]) -> None:
        need(item.value["type"] == "function_call", f"{data['type']} of a {item.value['type']} item")
        need(not item.arguments_done, f"{data['type']} after the arguments were done")
        if step == "delta":
            item.arguments += a_text(data.get("delta"), "delta")
            return
        need(step == "done", f"{data['type']} is no event of a response")
        whole = data.get("arguments")
        need(whole == item.arguments, f"the done arguments are {short(whole)}, the deltas said {short(item.arguments)}")
        item.arguments_done = True

    def _item_done(self, item: _Item, value: dict[str, Any]) -> None:
        for name in ("id", "type", "call_id", "name", "role"):
            need(value.get(name) == item.value.get(name), f"item.{name} changed to {short(value.get(name))}")
        need(all(one.closed for one in item.contents + item.summaries), "the item is done before its parts are")
        match value["type"]:
            case "message":
                parts = [one.part for one in item.contents]
                need(
                    value.get("content") == parts, f"item.content is {short(value.get('content'))}, not {short(parts)}"
                )
            case "reasoning":
                parts = [one.part for one in item.summaries]
                need(
                    value.get("summary") == parts, f"item.summary is {short(value.get('summary'))}, not {short(parts)}"
                )
            case _:
                need(item.arguments_done, "the call is done before its arguments are")
                given = value.get("arguments")
                need(given == item.arguments, f"item.arguments is {short(given)}, not {short(item.arguments)}")
        _check_item(value)
        item.done = value

    def _end_with(self, kind: str, response: dict[str, Any]) -> None:
        status = response.get("status")
        need(status == _TERMINAL[kind], f"status is {short(status)} in {kind}")
        self._over = kind
        if kind == "response.failed":
            if self._error is None:
                error = an_object(response.get("error"), "response.error")
                code = a_text(error.get("code"), "response.error.code", filled=True)
                self._error = Trouble(
                    "failed", a_text(error.get("message"), "response.error.message", filled=True), code
                )
            return
        need(all(one.done is not None for one in self._items), f"{kind} before every item is done")
        written = [one.done for one in self._items]
        need(response.get("output") == written, f"output is {short(response.get('output'))}, not what was streamed")
        self._said = _said(response)

    def end(self) -> Said:
        need(self._over, "the stream ends without a last event")
        if self._said is not None:
            return self._said
        texts = [one.written for item in self._items for one in item.contents if one.kind == "output_text"]
        return Said(text="".join(texts), error=self._error)


def _head(response: dict[str, Any]) -> tuple[Any, ...]:
    need(response.get("object") == "response", f"object is {short(response.get('object'))}, not response")
    created = response.get("created_at")
    need(isinstance(created, int | float), f"created_at is {short(created)}")
    for name in ("error", "incomplete_details", "tools", "tool_choice", "parallel_tool_calls"):  # never absent there
        need(name in response, f"{name} is missing, not even null")
    return a_text(response.get("id"), "id", filled=True), created, a_text(response.get("model"), "model", filled=True)


def _check_part(part: dict[str, Any]) -> None:
    if part["type"] == "output_text":
        a_list(part.get("annotations"), "part.annotations")


def _check_item(item: dict[str, Any]) -> None:
    a_text(item.get("id"), "item.id", filled=True)
    if item.get("type") != "reasoning":
        status = item.get("status")
        need(status in {"completed", "incomplete"}, f"a finished item's status is {short(status)}")


def _said(response: dict[str, Any]) -> Said:
    """Of a finished response."""
    said = Said(usage=read_usage(response.get("usage")))
    output = a_list(response.get("output"), "output")
    for number, item in enumerate(output):
        _check_item(an_object(item, f"output[{number}]"))
        match item.get("type"):
            case "message":
                for part in a_list(item.get("content"), "content"):
                    _add_part(said, an_object(part, "part"))
            case "reasoning":
                texts = [*a_list(item.get("summary"), "summary"), *(item.get("content") or ())]
                said.thinking += "".join(a_text(one.get("text"), "text") for one in texts)
                if item.get("encrypted_content"):
                    said.seals.append(item["encrypted_content"])
            case "function_call":
                arguments = a_text(item.get("arguments"), "arguments")
                identity = a_text(item.get("call_id"), "call_id", filled=True)
                need(identity not in {one.id for one in said.calls}, f"two calls have the id {identity}")
                said.calls.append(Call(identity, a_text(item.get("name"), "name", filled=True), arguments))
            case kind:
                raise BrokenRule(f"{short(kind)} is no type of an output item")
    said.history = output
    _finish(said, response)
    return said


def _add_part(said: Said, part: dict[str, Any]) -> None:
    match part.get("type"):
        case "output_text":
            _check_part(part)
            said.text += a_text(part.get("text"), "part.text")
        case "refusal":
            said.refusal += a_text(part.get("refusal"), "part.refusal")
        case kind:
            raise BrokenRule(f"{short(kind)} is no type of a part")


def _finish(said: Said, response: dict[str, Any]) -> None:
    if response["status"] == "incomplete":
        reason = an_object(response.get("incomplete_details"), "incomplete_details").get("reason")
        need(reason in _INCOMPLETE, f"incomplete_details.reason is {short(reason)}")
        said.stop = _INCOMPLETE[str(reason)]
        return
    need(response.get("incomplete_details") is None, "a completed response has incomplete_details")
    said.stop = Stop.REFUSAL if said.refusal else Stop.TOOLS if said.calls else Stop.END
    for number, call in enumerate(said.calls):
        json_object(call.arguments, f"call {number}'s arguments")
