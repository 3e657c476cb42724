"""What an OpenAI chat answer may look like: the whole body, and every chunk of a stream in its place. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tokenhub.conformance.rules import a_count, a_list, a_text, an_object, json_object, need, short
from tokenhub.conformance.sse import Event
from tokenhub.conformance.values import BrokenRule, Call, Said, Stop, Trouble, Usage

DONE: Final = "[DONE]"
STOPS: Final = {
    "stop": Stop.END,
    "length": Stop.LENGTH,
    "tool_calls": Stop.TOOLS,
    "content_filter": Stop.REFUSAL,
}
_SEALED = ("signature", "data")


def read_whole(body: Any) -> Said:
    """Raises BrokenRule."""
    answer = an_object(body, "the answer")
    need(answer.get("object") == "chat.completion", f"object is {short(answer.get('object'))}, not chat.completion")
    _head(answer)
    choices = a_list(answer.get("choices"), "choices")
    need(len(choices) == 1, f"{len(choices)} choices came, one was asked for")
    choice = an_object(choices[0], "choices[0]")
    need(choice.get("index") == 0, f"the choice's index is {short(choice.get('index'))}")
    message = an_object(choice.get("message"), "message")
    need(message.get("role") == "assistant", f"the message's role is {short(message.get('role'))}")
    need("content" in message, "the message has no content, not even null")
    calls = []
    for number, call in enumerate(message.get("tool_calls") or ()):
        what = f"tool_calls[{number}]"
        need(an_object(call, what).get("type") == "function", f"{what}.type is {short(call.get('type'))}")
        function = an_object(call.get("function"), f"{what}.function")
        arguments = a_text(function.get("arguments"), f"{what}.arguments")
        name = a_text(function.get("name"), f"{what}.name", filled=True)
        calls.append(Call(a_text(call.get("id"), f"{what}.id", filled=True), name, arguments))
    need(message.get("tool_calls") != [], "tool_calls is empty instead of absent")
    said = Said(
        text=_text_or_null(message, "content"),
        thinking=_text_or_null(message, "reasoning_content") or _text_or_null(message, "reasoning"),
        refusal=_text_or_null(message, "refusal"),
        calls=calls,
        seals=_seals(message.get("thinking_blocks") or ()),
        usage=read_usage(answer.get("usage")),
        history=[message],
    )
    _finish(said, choice.get("finish_reason"))
    return said


def read_usage(value: Any) -> Usage:
    usage = an_object(value, "usage")
    counts = [a_count(usage.get(name), f"usage.{name}") for name in ("prompt_tokens", "completion_tokens")]
    total = a_count(usage.get("total_tokens"), "usage.total_tokens")
    need(total == sum(counts), f"usage.total_tokens is {total}, not {sum(counts)}")
    of_input = usage.get("prompt_tokens_details") or {}
    of_output = usage.get("completion_tokens_details") or {}
    return Usage(
        counts[0],
        of_input.get("cached_tokens") or 0,
        of_input.get("cache_write_tokens") or 0,
        counts[1],
        of_output.get("reasoning_tokens") or 0,
    )


def read_error(body: Any) -> Trouble:
    """OpenAI's error body, which chat and responses share. Raises BrokenRule."""
    error = an_object(an_object(body, "the error's body").get("error"), "error")
    kind = a_text(error.get("type"), "error.type", filled=True)
    code, param = error.get("code"), error.get("param")
    need(param is None or isinstance(param, str), f"error.param is {short(param)}")
    need(code is None or isinstance(code, str), f"error.code is {short(code)}")
    return Trouble(kind, a_text(error.get("message"), "error.message", filled=True), code or "")


def read_stream(events: Sequence[Event], *, usage_asked: bool) -> Said:
    """The whole stream. One that ends with its dialect's error event is an answer with `error`. Raises BrokenRule."""
    stream = _Stream(usage_asked=usage_asked)
    for number, event in enumerate(events):
        try:
            stream.take(event)
        except BrokenRule as problem:
            raise BrokenRule(f"event {number}: {problem}") from None
    return stream.end()


class _Stream:
    def __init__(self, *, usage_asked: bool) -> None:
        self._usage_asked = usage_asked
        self._said = Said()
        self._head: tuple[Any, ...] | None = None
        self._calls: list[dict[str, str]] = []
        self._finish: str | None = None
        self._blocks: list[dict[str, Any]] = []
        self._reasoning_name = "reasoning_content"
        self._over = ""

    def take(self, event: Event) -> None:
        need(not self._over, f"something follows {self._over}: {event.data[:120]!r}")
        need(not event.name, f"a chat stream's events have no names, this one is {event.name!r}")
        if event.data == DONE:
            need(self._finish is not None, "[DONE] before a finish_reason")
            need(self._said.usage is not None or not self._usage_asked, "[DONE] without the usage that was asked for")
            self._over = DONE
            return
        chunk = event.json()
        if "error" in chunk:
            self._said.error = read_error(chunk)
            self._over = "the error event"
            return
        self._chunk(chunk)

    def _chunk(self, chunk: dict[str, Any]) -> None:
        need(chunk.get("object") == "chat.completion.chunk", f"object is {short(chunk.get('object'))}")
        head = _head(chunk)
        need(self._head in {None, head}, f"id, created or model changed from {self._head} to {head}")
        self._head = head
        need(self._said.usage is None, "a chunk follows the usage chunk")
        choices = a_list(chunk.get("choices"), "choices")
        usage = chunk.get("usage")
        if not choices:
            need(usage is not None, "a chunk without choices and without usage")
            need(self._usage_asked, "a usage chunk that was not asked for")
            need(self._finish is not None, "the usage chunk comes before the finish_reason")
            self._said.usage = read_usage(usage)
            return
        need(usage is None, "usage stands in a chunk with choices")
        need(len(choices) == 1, f"a chunk with {len(choices)} choices")
        choice = an_object(choices[0], "the choice")
        need(choice.get("index") == 0, f"the choice's index is {short(choice.get('index'))}")
        need(self._finish is None, f"a choice follows finish_reason {self._finish!r}")
        self._delta(an_object(choice.get("delta"), "delta"))
        need("finish_reason" in choice, "a choice without finish_reason, not even null")
        reason = choice["finish_reason"]
        if reason is not None:
            need(reason in STOPS, f"finish_reason is {short(reason)}")
            self._finish = reason

    def _delta(self, delta: dict[str, Any]) -> None:
        if not self._said.history:
            need(delta.get("role") == "assistant", f"the first delta's role is {short(delta.get('role'))}")
            self._said.history.append({"role": "assistant"})
        else:
            need(delta.get("role") is None, "a role stands in a later delta")
        self._said.text += _text_or_null(delta, "content")
        self._said.refusal += _text_or_null(delta, "refusal")
        for name in ("reasoning_content", "reasoning"):
            if thought := _text_or_null(delta, name):
                self._said.thinking += thought
                self._reasoning_name = name
                break
        for call in delta.get("tool_calls") or ():
            self._call(an_object(call, "a tool call"))
        for block in delta.get("thinking_blocks") or ():
            self._block(an_object(block, "a thinking block"))

    def _call(self, call: dict[str, Any]) -> None:
        index = a_count(call.get("index"), "a tool call's index")
        function = an_object(call.get("function"), "a tool call's function")
        arguments = a_text(function.get("arguments", ""), "a tool call's arguments")
        if index < len(self._calls):
            need(call.get("id") is None, f"call {index} says its id again")
            need(function.get("name") is None, f"call {index} says its name again")
            self._calls[index]["arguments"] += arguments
            return
        need(index == len(self._calls), f"a tool call's index is {index}, the next one is {len(self._calls)}")
        need(call.get("type") == "function", f"call {index}'s type is {short(call.get('type'))}")
        identity = a_text(call.get("id"), f"call {index}'s id", filled=True)
        need(identity not in {one["id"] for one in self._calls}, f"two calls have the id {identity}")
        name = a_text(function.get("name"), f"call {index}'s name", filled=True)
        self._calls.append({"id": identity, "name": name, "arguments": arguments})

    def _block(self, block: dict[str, Any]) -> None:
        """Blocks come whole, or in pieces of which the last one is signed."""
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last["type"] == block.get("type") == "thinking" and not last.get("signature"):
            last["thinking"] += block.get("thinking") or ""
            last["signature"] = block.get("signature")
        else:
            self._blocks.append(dict(block))

    def end(self) -> Said:
        need(self._over, "the stream ends without [DONE] and without an error event")
        said = self._said
        said.calls = [Call(one["id"], one["name"], one["arguments"]) for one in self._calls]
        said.seals = _seals(self._blocks)
        if said.error is not None:
            return said
        message: dict[str, Any] = {"role": "assistant", "content": said.text or None}
        if said.refusal:
            message["refusal"] = said.refusal
        if said.thinking:
            message[self._reasoning_name] = said.thinking
        if self._blocks:
            message["thinking_blocks"] = self._blocks
        if said.calls:
            message["tool_calls"] = [
                {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
                for one in said.calls
            ]
        said.history = [message]
        _finish(said, self._finish)
        return said


def _head(answer: dict[str, Any]) -> tuple[Any, ...]:
    created = a_count(answer.get("created"), "created")
    return a_text(answer.get("id"), "id", filled=True), created, a_text(answer.get("model"), "model", filled=True)


def _finish(said: Said, reason: Any) -> None:
    need(reason in STOPS, f"finish_reason is {short(reason)}")
    need(reason != "tool_calls" or said.calls, "finish_reason is tool_calls, but there are none")
    said.stop = STOPS[reason]
    if said.refusal and said.stop is Stop.END:
        said.stop = Stop.REFUSAL
    if said.calls and said.stop is Stop.END:  # so does OpenAI itself when a call was forced
        said.stop = Stop.TOOLS
    for number, call in enumerate(said.calls):
        if reason != "length":
            json_object(call.arguments, f"call {number}'s arguments")


def _text_or_null(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    return "" if found is None else a_text(found, name)


def _seals(blocks: Any) -> list[str]:
    return [block[name] for block in blocks for name in _SEALED if block.get(name)]
