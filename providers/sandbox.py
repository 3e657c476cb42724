"""The built-in provider: models that answer without network, for a first look, demonstrations and tests. A transport
like any other, so that the engine needs no special case; it speaks OpenAI's chat completions.

A directive in the last user message makes it fail: `[[sandbox:error=429 retry_after=7]]`. Its words:
  error=STATUS | error=context   an error answer; `retry_after=SECONDS` adds the header
  hang, stall                    no answer at all; a stream that falls silent midway
  cut, malformed                 the connection is lost midway; the answer cannot be read
  delay=SECONDS, tokens=N        a pause before the answer; an answer of that length
  model=ID                       the directive holds for this model only: so can a failover be shown"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from time import monotonic, time

from providers.client import FailureKind, Headers, UpstreamFailure, Url
from providers.sandbox_answers import (
    Rejected,
    Reply,
    Request,
    compose,
    last_user_text,
    parse,
    prompt_tokens_of,
    render,
    render_events,
)

_FOREVER_SECONDS = 3600.0
_DIRECTIVE = re.compile(r"\[\[sandbox:([^\[\]]{0,200})\]\]")
_WORDS = frozenset({"error", "retry_after", "hang", "stall", "cut", "malformed", "delay", "tokens", "model"})
_NUMBERS = frozenset({"retry_after", "delay", "tokens"})


@dataclass(frozen=True, slots=True)
class SandboxModel:
    """Prices are dollars per 1,000 tokens; the id is also the upstream name."""

    id: str
    weight: int
    input_per_1k: Decimal
    output_per_1k: Decimal
    max_context_tokens: int
    max_output_tokens: int
    abilities: tuple[str, ...]
    first_chunk_seconds: float
    seconds_per_token: float


SANDBOX_MODELS: tuple[SandboxModel, ...] = (
    SandboxModel(
        id="sandbox/swift",
        weight=3,
        input_per_1k=Decimal("0.00015"),
        output_per_1k=Decimal("0.0006"),
        max_context_tokens=128_000,
        max_output_tokens=16_384,
        abilities=("tools", "structured_output"),
        first_chunk_seconds=0.12,
        seconds_per_token=0.004,
    ),
    SandboxModel(
        id="sandbox/balanced",
        weight=5,
        input_per_1k=Decimal("0.001"),
        output_per_1k=Decimal("0.005"),
        max_context_tokens=200_000,
        max_output_tokens=32_768,
        abilities=("tools", "vision", "structured_output"),
        first_chunk_seconds=0.25,
        seconds_per_token=0.008,
    ),
    SandboxModel(
        id="sandbox/brilliant",
        weight=9,
        input_per_1k=Decimal("0.005"),
        output_per_1k=Decimal("0.025"),
        max_context_tokens=400_000,
        max_output_tokens=65_536,
        abilities=("tools", "vision", "documents", "structured_output"),
        first_chunk_seconds=0.5,
        seconds_per_token=0.016,
    ),
    SandboxModel(
        id="sandbox/local",
        weight=2,
        input_per_1k=Decimal(0),
        output_per_1k=Decimal(0),
        max_context_tokens=32_768,
        max_output_tokens=8_192,
        abilities=("tools",),
        first_chunk_seconds=0.3,
        seconds_per_token=0.02,
    ),
)
_BY_ID = {model.id: model for model in SANDBOX_MODELS}


class SandboxExchange:
    """An answer on its way: events with a pause before each, and perhaps a failure midway."""

    def __init__(self, status: int, headers: dict[bytes, bytes], events: Iterator[tuple[bytes, float]]) -> None:
        self.status = status
        self.headers = headers
        self._events = events
        self._failure: UpstreamFailure | None = None
        self._next: tuple[bytes, float] | None = None

    async def chunk(self) -> bytes:
        """A cancelled wait loses nothing: the next call goes on with it."""
        if self._failure is not None:
            raise self._failure
        if self._next is None:
            try:
                data, seconds = next(self._events, (b"", 0.0))
            except UpstreamFailure as failure:
                self._failure = failure
                raise
            self._next = data, monotonic() + seconds
        data, due = self._next
        if (seconds := due - monotonic()) > 0:
            await asyncio.sleep(seconds)
        self._next = None
        return data

    async def read(self, limit: int) -> bytes:
        parts, size = [], 0
        while data := await self.chunk():
            size += len(data)
            if size > limit:
                raise UpstreamFailure(FailureKind.TOO_LARGE, f"the provider's answer is larger than {limit} bytes")
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        self._events = iter(())
        self._next = None


class SandboxTransport:
    """`pace` scales every pause of the models (not those of directives): 1 is lifelike, 0 is for tests."""

    def __init__(self, *, pace: float = 1.0) -> None:
        self._pace = pace

    async def send(self, method: bytes, url: Url, headers: Headers, body: bytes) -> SandboxExchange:
        try:
            return await self._answer(body)
        except Rejected as error:
            return _exchange(error.status, b"application/json", iter([(error.body, 0.0)]))
        except RecursionError:
            refused = Rejected(400, "The body is nested too deeply.")
            return _exchange(refused.status, b"application/json", iter([(refused.body, 0.0)]))

    async def close(self) -> None:
        return None

    async def _answer(self, body: bytes) -> SandboxExchange:
        request = parse(body)
        model = _BY_ID.get(request.model)
        if model is None:
            raise Rejected(404, f"The model '{request.model}' does not exist.", param="model", code="model_not_found")
        asked, words = directives(last_user_text(request), request.model)
        if "delay" in words:
            await asyncio.sleep(float(words["delay"]))
        if "hang" in words:
            await asyncio.sleep(_FOREVER_SECONDS)
            raise UpstreamFailure(FailureKind.TIMEOUT, "the sandbox was told to hang")
        if "error" in words:
            return _error(words, model)
        used = prompt_tokens_of(request)
        if used > model.max_context_tokens:
            raise _overflow(model, used)
        length = min(int(float(words["tokens"])), model.max_output_tokens) if "tokens" in words else None
        reply = compose(request, body, asked=asked, length=length, ceiling=model.max_output_tokens, now=int(time()))
        seconds_per_token = model.seconds_per_token * self._pace
        if request.stream:
            await asyncio.sleep(model.first_chunk_seconds * self._pace)
            return _exchange(200, b"text/event-stream", _stream(reply, request, words, seconds_per_token))
        tokens = max(choice.tokens for choice in reply.choices)
        await asyncio.sleep(model.first_chunk_seconds * self._pace + tokens * seconds_per_token)
        return _exchange(200, b"application/json", _whole(render(reply), words))


def directives(text: str, model_id: str) -> tuple[str, dict[str, str]]:
    """The text without its directives, and their words as far as they hold for this model. Raises Rejected."""
    found: dict[str, str] = {}
    for match in _DIRECTIVE.finditer(text):
        words = dict(word.partition("=")[::2] for word in match.group(1).split())
        for name, value in words.items():
            known = name in _WORDS and (name not in _NUMBERS or re.fullmatch(r"\d{1,4}(\.\d{1,3})?", value))
            if not known or (name == "error" and value != "context" and not re.fullmatch(r"[45]\d\d", value)):
                raise Rejected(400, f"The sandbox knows no directive '{name[:40]}={value[:40]}'.", param="messages")
        if words.pop("model", model_id) == model_id:
            found = {**words, **found}
    return _DIRECTIVE.sub("", text).strip(), found


def _exchange(status: int, content_type: bytes, events: Iterator[tuple[bytes, float]]) -> SandboxExchange:
    return SandboxExchange(status, {b"content-type": content_type}, events)


def _error(words: dict[str, str], model: SandboxModel) -> SandboxExchange:
    if words["error"] == "context":
        raise _overflow(model, model.max_context_tokens + 1)
    status = int(words["error"])
    kind, code = {
        401: ("invalid_request_error", "invalid_api_key"),
        403: ("invalid_request_error", "forbidden"),
        404: ("invalid_request_error", "model_not_found"),
        429: ("rate_limit_error", "rate_limit_exceeded"),
    }.get(status, ("server_error" if status >= 500 else "invalid_request_error", ""))
    error = Rejected(status, f"The sandbox was told to fail with {status}.", kind=kind, code=code)
    exchange = _exchange(status, b"application/json", iter([(error.body, 0.0)]))
    if "retry_after" in words:
        exchange.headers[b"retry-after"] = words["retry_after"].encode()
    return exchange


def _overflow(model: SandboxModel, used: int) -> Rejected:
    return Rejected(
        400,
        f"This model's maximum context length is {model.max_context_tokens} tokens. However, your messages resulted"
        f" in {used} tokens. Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    )


def _lost() -> UpstreamFailure:
    return UpstreamFailure(FailureKind.RESET, "the provider closed the connection in the middle of its answer")


def _whole(data: bytes, words: dict[str, str]) -> Iterator[tuple[bytes, float]]:
    if "cut" in words or "stall" in words or "malformed" in words:
        yield data[: len(data) // 2], 0.0
        if "stall" in words:
            yield b" ", _FOREVER_SECONDS
        if "cut" in words:
            raise _lost()
        return
    yield data, 0.0


def _stream(
    reply: Reply, request: Request, words: dict[str, str], seconds_per_token: float
) -> Iterator[tuple[bytes, float]]:
    include_usage = bool(request.stream_options and request.stream_options.include_usage)
    events = list(render_events(reply, include_usage=include_usage))
    for number, (data, tokens) in enumerate(events):
        if number == len(events) // 2:
            if "stall" in words:
                yield b": \n\n", _FOREVER_SECONDS
            if "cut" in words:
                raise _lost()
            if "malformed" in words:
                yield b'data: {"choices": [\n\n', 0.0
        yield data, tokens * seconds_per_token
