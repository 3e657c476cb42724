"""OpenAI chat completions as they pass through: what is read from answers and streams that go on unchanged, and the
dialect's errors. Nothing is translated here."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from providers.formats.dialect import Answer, ClientError, Told, Usage, WireError, counted, output_counted
from providers.formats.errors import UnreadableAnswer
from providers.formats.reading import given, read_answer, read_mended
from providers.formats.sse import Frame, Framer

DONE: Final = b"[DONE]"
_NO_ERROR: Final = (b"", b"null")
DONE_EVENT: Final = b"data: [DONE]\n\n"
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.Encoder().encode


class _PromptDetails(msgspec.Struct):
    cached_tokens: Told = None
    cache_write_tokens: Told = None
    audio_tokens: Told = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: Told = None
    audio_tokens: Told = None


class WireUsage(msgspec.Struct):
    """`cached_tokens` is Kimi's word, `prompt_cache_hit_tokens` DeepSeek's."""

    prompt_tokens: Told = None
    completion_tokens: Told = None
    total_tokens: Told = None
    cached_tokens: Told = None
    prompt_cache_hit_tokens: Told = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def read(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        asked, cached = counted(self.prompt_tokens), counted(prompt.cached_tokens) if prompt else 0
        if not cached and (told := self.cached_tokens or self.prompt_cache_hit_tokens):
            cached = min(counted(told), asked)
        thought = counted(completion.reasoning_tokens) if completion else 0
        produced, thought = output_counted(asked, counted(self.completion_tokens), thought, cached, self.total_tokens)
        return Usage(
            input_tokens=asked,
            cached_input_tokens=cached,
            cache_write_tokens=counted(prompt.cache_write_tokens) if prompt else 0,
            output_tokens=produced,
            reasoning_tokens=thought,
            input_audio_tokens=counted(prompt.audio_tokens) if prompt else 0,
            output_audio_tokens=counted(completion.audio_tokens) if completion else 0,
        )


def arguments_text(told: Any) -> str:
    """Some servers, llama.cpp's for a while, tell the object in place of its text."""
    return told if isinstance(told, str) else "" if told is None else _encode(told).decode()


class _Function(msgspec.Struct):
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None


class _Said(msgspec.Struct):
    """A message or a delta of one."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None

    def size(self) -> int:
        """Bytes produced, or about that: characters where a text is not ASCII."""
        total = len(self.reasoning_content or self.reasoning or "") + len(self.refusal or "")
        if isinstance(self.content, str):
            total += len(self.content)
        elif self.content:
            total += len(_encode(self.content))
        for call in self.tool_calls or ():
            total += len(arguments_text(call.function.arguments)) if call.function else 0
        return total


class _Choice(msgspec.Struct):
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None


class _Answered(msgspec.Struct):
    choices: list[_Choice]
    usage: WireUsage | None = None
    error: Raw = Raw()


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: WireUsage | None = None
    error: Raw = Raw()


_answered = msgspec.json.Decoder(_Answered).decode
_chunk = msgspec.json.Decoder(_Chunk).decode
_any = msgspec.json.Decoder().decode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[dict[str, Raw]]).decode


def inspect_response(body: bytes) -> Answer:
    """Raises UnreadableAnswer."""
    try:
        answer = _answered(body)
    except UNREADABLE:
        answer = read_mended(_answered, body, "it is no chat completion")
    if not answer.choices and bytes(answer.error) not in _NO_ERROR:
        raise UnreadableAnswer("it holds an error in place of an answer")
    size = sum(choice.message.size() for choice in answer.choices if choice.message)
    return Answer(body, answer.usage.read() if answer.usage else None, size)


def as_stream(body: bytes) -> bytes:
    """A whole answer as two chunks for each choice: all that it says, and why it ended. Raises UnreadableAnswer."""
    inspect_response(body)
    fields = read_answer(_fields, _compact(body), "it is no chat completion")
    usage = given(fields.pop("usage", Raw()))
    choices = read_answer(_list, bytes(fields.pop("choices")), "its choices are no list")
    head = {name: value for name, value in fields.items() if name != "error"} | {"object": "chat.completion.chunk"}
    shown: list[dict[str, Any]] = []
    for place, choice in enumerate(choices):
        message, ended = given(choice.pop("message", Raw())), choice.pop("finish_reason", None)
        delta: dict[str, Any] = dict(read_answer(_fields, bytes(message), "a message is none")) if message else {}
        if calls := given(delta.get("tool_calls", Raw())):
            read = read_answer(_list, bytes(calls), "the calls of its tools are no list")
            delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(read)]
        one = {"index": place, **choice}
        shown.append({**one, "delta": delta, "finish_reason": None})
        shown.append({"index": one["index"], "delta": {}, "finish_reason": ended})
    events = [{**head, "choices": [one]} for one in shown]
    if usage is not None:
        events.append({**head, "choices": [], "usage": usage})
    return b"".join([b"data: " + _encode(one) + b"\n\n" for one in events]) + DONE_EVENT


def _compact(body: bytes) -> bytes:
    """Without line breaks, which a stream's events cannot hold. Raises UnreadableAnswer."""
    try:
        return msgspec.json.format(body, indent=-1)
    except UNREADABLE as problem:
        raise UnreadableAnswer(str(problem)) from None


class Observer:
    """A Relay that passes the stream's bytes on, short of a usage chunk that the client did not ask for."""

    __slots__ = ("_finish_seen", "_framer", "_show_usage", "error", "finished", "produced_bytes", "usage")

    def __init__(self, *, show_usage: bool) -> None:
        self._framer = Framer()
        self._show_usage = show_usage
        self._finish_seen = False
        self.usage: Usage | None = None
        self.produced_bytes = 0
        self.finished = False
        self.error: WireError | None = None

    def feed(self, data: bytes) -> bytes:
        frames = self._framer.feed(data)
        if len(frames) == 1:
            return frames[0].raw if self._look_at(frames[0]) else b""
        return b"".join([frame.raw for frame in frames if self._look_at(frame)])

    def close(self) -> bytes:
        rest = b"".join([frame.raw for frame in self._framer.close() if self._look_at(frame)])
        if self._finish_seen and not self.finished and self.error is None:
            self.finished = True  # the provider forgot to say so; its answer is whole
            rest += DONE_EVENT
        return rest

    def fail(self, error: ClientError) -> bytes:
        return render_stream_error(error)

    def _look_at(self, frame: Frame) -> bool:
        """Whether the event goes to the client."""
        if self.finished or self.error is not None:
            return False
        data = frame.data
        if not data:
            return True
        if data == DONE:
            self.finished = True
            return True
        try:
            chunk = _chunk(data)
        except UNREADABLE:
            chunk = read_mended(_chunk, data, "an event of its stream is no chunk of a chat completion")
        if bytes(chunk.error) not in _NO_ERROR:
            self.error = read_error(data)
            return False
        if chunk.usage is not None:
            self.usage = chunk.usage.read()
        if not chunk.choices:
            return self._show_usage or chunk.usage is None
        for choice in chunk.choices:
            if choice.delta is not None:
                self.produced_bytes += choice.delta.size()
            if choice.finish_reason:
                self._finish_seen = True
        return True


# -- errors --------------------------------------------------------------------------------------------------------
def read_error(body: bytes) -> WireError:
    """Any bytes are taken. What is not JSON gives an empty message: an HTML page is no message."""
    try:
        return wire_error(_any(body))
    except UNREADABLE:
        return WireError("")


def told_error(body: bytes) -> WireError | None:
    """The error that stands in place of an answer, or in its first choice, as OpenRouter's does under the status 200;
    None where there is none."""
    try:
        value = _any(body)
    except UNREADABLE:
        return None
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    for holder in (value, first):
        if isinstance(holder, dict) and holder.get("error"):
            return wire_error({"error": holder["error"]})
    return None


def wire_error(value: Any) -> WireError:
    """OpenAI's shape and its cousins: vLLM's integer codes, `{"error": "text"}`, `{"message": …}`, `{"detail": …}`."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return WireError("")
    error = value.get("error", value)
    if isinstance(error, str):
        return WireError(error)
    if not isinstance(error, dict):
        return WireError("")
    message = error.get("message")
    if message is None:
        message = error.get("detail") or ""
    if not isinstance(message, str):
        message = _encode(message).decode("utf-8", "replace")[:500]
    return WireError(message, *(_word(error.get(name)) for name in ("type", "code", "param")))


def _word(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _shape(error: ClientError) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "message": error.message, "type": error.type, "param": error.param, "code": error.code,
        "hint": error.hint or None, "request_id": error.request_id,
    }  # fmt: skip
    if error.details is not None:
        shown["details"] = error.details
    return {"error": shown}


def render_error(error: ClientError) -> bytes:
    return _encode(_shape(error))


def render_stream_error(error: ClientError) -> bytes:
    return b"data: " + _encode(_shape(error)) + b"\n\n"
