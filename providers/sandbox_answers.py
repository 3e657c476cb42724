"""What the sandbox answers: an OpenAI chat completions body in, an answer or an error in OpenAI's shape out. Pure and
deterministic: the same body at the same time gets the same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest
from typing import Any

import msgspec

from providers.sandbox_schema import instance_of

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 255
MAX_CHOICES = 8
_HINT = "For real answers, add a provider and its models in the admin."
_FILLER = "This sentence is here because a longer answer was asked for. "
_PARTS = {"image_url": "an image", "input_audio": "a recording", "file": "a file", "refusal": "a refusal"}
_ASKS_FOR_A_TOOL = re.compile(r"\bcall\b|\buse (?:the|a|your) tools?\b", re.IGNORECASE)
_PIECE = re.compile(r"\s*\S{1,24}|\s+")

_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Function(msgspec.Struct):
    name: str
    parameters: Any = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _JsonSchema(msgspec.Struct):
    schema: Any = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class Request(msgspec.Struct):
    """The fields that the sandbox obeys; all others are accepted and ignored."""

    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None


_decode = msgspec.json.Decoder(Request).decode


class Rejected(Exception):
    """An answer that is an error, as a provider would word it."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str = "", code: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = _encode({"error": {"message": message, "type": kind, "param": param or None, "code": code or None}})


@dataclass(frozen=True, slots=True)
class Choice:
    text: str | None
    tool_calls: tuple[dict[str, Any], ...]
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, Any]:
        completion = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


def parse(body: bytes) -> Request:
    """Raises Rejected."""
    try:
        request = _decode(body)
    except msgspec.ValidationError as problem:
        what, _, where = str(problem).partition(" - at `$.")
        raise Rejected(400, f"Invalid request: {what}", param=where.rstrip("`")) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Rejected(400, "We could not parse the JSON body of your request.") from None
    if not request.messages:
        raise Rejected(400, "Invalid 'messages': at least one message is needed.", param="messages")
    if not 1 <= (request.n or 1) <= MAX_CHOICES or request.n == 0:
        raise Rejected(400, f"Invalid 'n': a number from 1 to {MAX_CHOICES} is needed.", param="n")
    for name, limit in (("max_tokens", request.max_tokens), ("max_completion_tokens", request.max_completion_tokens)):
        if limit is not None and limit < 1:
            raise Rejected(400, f"Invalid '{name}': a number of at least 1 is needed.", param=name)
    for position, message in enumerate(request.messages):
        if isinstance(message.content, list) and any(_kind(part) is None for part in message.content):
            raise Rejected(400, "Invalid content part: its type is unknown.", param=f"messages[{position}].content")
    return request


def last_user_text(request: Request) -> str:
    last = next((message for message in reversed(request.messages) if message.role == "user"), None)
    return _text(last) if last else ""


def _kind(part: dict[str, Any]) -> str | None:
    kind = part.get("type")
    return kind if kind == "text" or (isinstance(kind, str) and kind in _PARTS) else None


def _text(message: _Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(str(part.get("text", "")) for part in message.content if part.get("type") == "text")
    return message.content or ""


def _attachments(message: _Message) -> list[str]:
    parts = message.content if isinstance(message.content, list) else []
    return [_PARTS[part["type"]] for part in parts if part.get("type") in _PARTS]


def tokens_of(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def prompt_tokens_of(request: Request) -> int:
    total = 3 + sum(tokens_of(_text(message)) + 4 for message in request.messages)
    total += sum(IMAGE_TOKENS * len(_attachments(message)) for message in request.messages)
    for message in request.messages:
        total += -(-len(_encode(message.tool_calls)) // BYTES_PER_TOKEN) if message.tool_calls else 0
    return total + (-(-len(_encode(request.tools)) // BYTES_PER_TOKEN) if request.tools else 0)


def compose(request: Request, body: bytes, *, asked: str, length: int | None, ceiling: int, now: int) -> Reply:
    """The whole answer. `asked` is the last user message without directives, `length` the tokens that a directive asks
    for, `ceiling` the model's output limit. Raises Rejected."""
    digest = blake2b(body, digest_size=12).hexdigest()
    limits = [limit for limit in (request.max_tokens, request.max_completion_tokens) if limit is not None]
    limit = min([ceiling, *limits])
    calls = _tool_calls(request, asked, digest)
    count = request.n or 1
    choices = []
    for index in range(count):
        if calls:
            spent = sum(tokens_of(call["function"]["name"] + call["function"]["arguments"]) + 8 for call in calls)
            choices.append(Choice(None, calls, "tool_calls", min(spent, limit)))
            continue
        text = _content(request, asked)
        if count > 1 and request.response_format is None:
            text = f"Answer {index + 1} of {count}. {text}"
        if length is not None:
            text = (text + " " + _FILLER * (length * BYTES_PER_TOKEN // len(_FILLER) + 1))[: length * BYTES_PER_TOKEN]
        choices.append(_bounded(text, request.stop, limit))
    return Reply(f"chatcmpl-sandbox{digest}", now, request.model, tuple(choices), prompt_tokens_of(request))


def _content(request: Request, asked: str) -> str:
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is not None:
        return _encode(instance_of(wanted.json_schema.schema)).decode()
    if wanted is not None and wanted.type == "json_object":
        return _encode({"sandbox": True, "model": request.model, "asked": _brief(asked, 160), "hint": _HINT}).decode()
    label = f"[sandbox] This is {request.model}, a built-in model; no provider was called."
    results = []
    for message in reversed(request.messages):
        if message.role not in {"tool", "function"}:
            break
        results.append(_brief(_text(message), 400))
    if results:
        quoted = " and ".join(f"“{one}”" for one in reversed(results))
        return f"{label} The tool answered: {quoted}. {_HINT}"
    last = next((message for message in reversed(request.messages) if message.role == "user"), None)
    shown = f"“{_brief(asked, 160)}”" if asked.strip() else "nothing in words"
    extras = _attachments(last) if last else []
    if extras:
        shown += ", with " + " and ".join(extras)
    return f"{label} You asked: {shown}. {_HINT}"


def _brief(text: str, longest: int) -> str:
    line = " ".join(text[: 4 * longest].split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def _bounded(text: str, stop: str | list[str] | None, limit: int) -> Choice:
    reason = "stop"
    for word in [stop] if isinstance(stop, str) else stop or []:
        if word and (found := text.find(word)) >= 0:
            text = text[:found]
    data = text.encode("utf-8", "replace")
    if len(data) > limit * BYTES_PER_TOKEN:
        data, reason = data[: limit * BYTES_PER_TOKEN], "length"
    text = data.decode("utf-8", "ignore")
    return Choice(text, (), reason, limit if reason == "length" else tokens_of(text))


def _tool_calls(request: Request, asked: str, digest: str) -> tuple[dict[str, Any], ...]:
    """The calls to make: those that the choice demands, or that the last message asks for. Raises Rejected."""
    functions = {tool.function.name: tool.function for tool in request.tools or [] if tool.function is not None}
    choice, demanded = request.tool_choice, ""
    if isinstance(choice, dict):
        named = choice.get("function")
        demanded = named.get("name", "") if isinstance(named, dict) else ""
        choice = "required" if demanded or '"required"' in _encode(choice).decode() else "auto"
        if demanded and (not isinstance(demanded, str) or demanded not in functions):
            raise Rejected(400, "Invalid 'tool_choice': it names none of the 'tools'.", param="tool_choice")
    if choice == "required" and not functions:
        raise Rejected(400, "Invalid 'tool_choice': it is only allowed with 'tools'.", param="tool_choice")
    if not functions or choice == "none":
        return ()
    wanted = asked.lower()
    names = [demanded] if demanded else [name for name in functions if name and name.lower() in wanted]
    if choice != "required":
        if request.messages[-1].role != "user":
            return ()  # after a tool's result comes the final text
        if not names and not _ASKS_FOR_A_TOOL.search(asked):
            return ()
    names = names or [next(iter(functions))]
    if request.parallel_tool_calls is False:
        names = names[:1]
    return tuple(
        {
            "id": f"call_{digest}{number:02d}",
            "type": "function",
            "function": {"name": name, "arguments": _arguments(functions[name])},
        }
        for number, name in enumerate(names)
    )


def _arguments(function: _Function) -> str:
    value = instance_of({"type": "object", **function.parameters}) if isinstance(function.parameters, dict) else {}
    return _encode(value if isinstance(value, dict) else {}).decode()


def render(reply: Reply) -> bytes:
    choices = []
    for index, choice in enumerate(reply.choices):
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.tool_calls:
            message["tool_calls"] = choice.tool_calls
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason})
    return _encode({**_envelope(reply, "chat.completion"), "choices": choices, "usage": reply.usage})


def _envelope(reply: Reply, kind: str) -> dict[str, Any]:
    return {
        "id": reply.id,
        "object": kind,
        "created": reply.created,
        "model": reply.model,
        "system_fingerprint": "fp_sandbox",
    }


def render_events(reply: Reply, *, include_usage: bool) -> Iterator[tuple[bytes, int]]:
    """Each event of the stream with the number of tokens in it, choices in turn."""
    envelope = _envelope(reply, "chat.completion.chunk")
    tail: dict[str, Any] = {"usage": None} if include_usage else {}
    streams = [_deltas(index, choice) for index, choice in enumerate(reply.choices)]
    for round_ in zip_longest(*streams):
        for one in round_:
            if one is not None:
                yield b"data: %b\n\n" % _encode({**envelope, "choices": [one[0]], **tail}), one[1]
    if include_usage:
        yield b"data: %b\n\n" % _encode({**envelope, "choices": [], "usage": reply.usage}), 0
    yield b"data: [DONE]\n\n", 0


def _deltas(index: int, choice: Choice) -> Iterator[tuple[dict[str, Any], int]]:
    def delta(content: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": content, "logprobs": None, "finish_reason": reason}

    first = None if choice.tool_calls else ""
    yield delta({"role": "assistant", "content": first, "refusal": None}), 0
    for piece in _PIECE.findall(choice.text or ""):
        yield delta({"content": piece}), tokens_of(piece)
    for position, call in enumerate(choice.tool_calls):
        head = {**call, "index": position, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield delta({"tool_calls": [head]}), 4
        arguments = call["function"]["arguments"]
        for start in range(0, len(arguments), 16):
            part = {"index": position, "function": {"arguments": arguments[start : start + 16]}}
            yield delta({"tool_calls": [part]}), 4
    yield delta({}, choice.finish_reason), 0
