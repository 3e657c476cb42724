"""Answers in the form that was asked for: a whole one is held against it, and its model is told what is wrong and asked
again, as often as the operator allows; a stream is checked when it has ended, and ends with an error if it does not
fit. Every asking costs, and is accounted. What a model writes says nothing about its health."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

import msgspec

from providers.formats.base import Dialect
from providers.formats.canonical import ChatRequest, Refusal, Text, TextDelta, Thinking, ToolCall
from providers.formats.dialect import ClientError, Relay, Usage, WireError
from providers.formats.openai_chat_wire import DONE
from providers.formats.sse import Framer
from routing.attempt import Delivery
from routing.call import Call
from routing.eligibility import expected_cost
from routing.errors import ApiError
from routing.output_schema import BadSchema, check_schema
from routing.pricing import cost_nano
from routing.shaping import (
    Checked,
    ChunkFilter,
    Shape,
    asked_again,
    check,
    objection,
    texts_of,
    without_reasoning,
)
from routing.visit import Visit, estimate

MAX_SHOWN = 100_000  # characters of an answer that the error repeats
MAX_STREAM_BYTES = 8_388_608
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


async def require_usable(shape: Shape) -> None:
    """Raises ApiError for a schema that cannot be used."""
    if not shape.schema:
        return
    try:
        await asyncio.to_thread(check_schema, shape.schema)
    except BadSchema as problem:
        code = "invalid_directive" if shape.param == "output_schema" else "invalid_request"
        raise ApiError(code, f"The JSON Schema cannot be used: {problem}.", param=shape.param) from None


async def in_shape(visit: Visit, call: Call, delivery: Delivery, shape: Shape) -> Delivery:
    """The first delivery whose answer fits. Those before it stay on the visit's bill. Raises ApiError."""
    repairs = visit.runtime.output_repairs
    while True:
        answer = delivery.answer
        assert answer is not None  # noqa: S101  streams go another way
        asked = None if call.dialect.name == "openai-chat" else call.parsed()
        body, checked = await asyncio.to_thread(_checked, shape, call.dialect, answer.body, asked)
        if not checked.problems:
            delivery.answer = answer._replace(body=body)
            visit.is_valid = True if shape.is_checked else None
            return delivery
        usage = answer.usage or estimate(
            None, input_tokens=call.needs.input_tokens, produced_bytes=answer.produced_bytes
        )
        visit.add_leg(delivery.target, usage, estimated=answer.usage is None)
        _learn(visit, call, delivery, usage)
        amended = partial(
            asked_again, dialect=call.dialect.name, answer=checked.text, objections=objection(shape, checked)
        )
        again = call.asking_again(delivery.target, amended)
        if not repairs or call.deadline_passed or not _affordable(visit, again):
            raise mismatch(checked)
        repairs -= 1
        call = again
        delivery = await visit.runtime.engine.deliver(call)
        visit.target = delivery.target


def mismatch(checked: Checked) -> ApiError:
    return ApiError(
        "output_schema_mismatch",
        f"The model's answer is not what was asked for: {checked.problems[0]}",
        hint="Ask another model, a simpler schema, or again.",
        details={"output": checked.text[:MAX_SHOWN], "problems": list(checked.problems)},
    )


def _affordable(visit: Visit, call: Call) -> bool:
    ceiling = call.policy.max_budget_nano
    if ceiling is None or call.hint is None or not (call.policy.budget_is_own or visit.mode):
        return True
    return visit.spent_nano + (expected_cost(call.hint, call.needs) or 0) <= ceiling


def _learn(visit: Visit, call: Call, delivery: Delivery, usage: Usage) -> None:
    if call.lesson is None:
        return
    prices = delivery.target.prices
    visit.runtime.learner.answered(
        call.lesson,
        delivery.target.model_id,
        latency_ms=(monotonic() - delivery.started_at) * 1000,
        cost_nano=cost_nano(prices, usage) if prices is not None else None,
        is_valid=False,
    )


def _checked(shape: Shape, dialect: Dialect, body: bytes, asked: ChatRequest | None) -> tuple[bytes, Checked]:
    """The body with cleaned texts, and the first text that does not fit, or the last."""
    return _checked_chat(shape, body) if asked is None else _checked_other(shape, dialect, body, asked)


def _checked_chat(shape: Shape, body: bytes) -> tuple[bytes, Checked]:
    answer: dict[str, Any] = _any(body)
    checked, has_changed = Checked(""), False
    for message in texts_of(answer):
        before = dict(message)
        checked = check(shape, message.get("content") or "")
        if checked.problems:
            break
        message["content"] = checked.text
        if shape.strip_think:
            without_reasoning(message)
        has_changed = has_changed or message != before
    return _encode(answer) if has_changed else body, checked


def _checked_other(shape: Shape, dialect: Dialect, body: bytes, asked: ChatRequest) -> tuple[bytes, Checked]:
    response = dialect.parse_response(body)
    if any(isinstance(part, ToolCall | Refusal) for part in response.parts):
        return body, Checked("")
    text = "".join(part.text for part in response.parts if isinstance(part, Text))
    checked = check(shape, text)
    if checked.problems or checked.text == text:
        return body, checked
    kept = tuple(part for part in response.parts if isinstance(part, Thinking))
    return dialect.render_response(replace(response, parts=(*kept, Text(checked.text))), asked), checked


class ShapedStream:
    """A Relay around another one, whose bytes are in the client's dialect: takes thoughts out, remembers the text."""

    def __init__(self, relay: Relay, shape: Shape, dialect: Dialect) -> None:
        self._relay = relay
        self._shape = shape
        self._filter = ChunkFilter() if shape.strip_think else None
        self._framer = Framer()
        self._parser = dialect.stream_parser()
        self._texts: list[str] = []
        self._size = 0

    @property
    def usage(self) -> Usage | None:
        return self._relay.usage

    @property
    def produced_bytes(self) -> int:
        return self._relay.produced_bytes

    @property
    def finished(self) -> bool:
        return self._relay.finished

    @property
    def error(self) -> WireError | None:
        return self._relay.error

    def feed(self, data: bytes) -> bytes:
        return self.shaped(self._relay.feed(data))

    def close(self) -> bytes:
        return self.shaped(self._relay.close())

    def fail(self, error: ClientError) -> bytes:
        return self._relay.fail(error)

    def shaped(self, data: bytes) -> bytes:
        """What the client gets of what the relay gave it: whole events."""
        if self._filter is not None:
            data = b"".join(self._filtered(frame.raw, frame.data) for frame in self._framer.feed(data))
        if self._shape.is_checked and self._size <= MAX_STREAM_BYTES:
            for event in self._parser.feed(data):
                if isinstance(event, TextDelta):
                    self._texts.append(event.text)
                    self._size += len(event.text)
        return data

    def _filtered(self, raw: bytes, data: bytes) -> bytes:
        assert self._filter is not None  # noqa: S101
        if not data or data == DONE:
            return raw
        changed = self._filter.filtered(data)
        return raw if changed is data else b"data: " + changed + b"\n\n"

    async def mismatch(self) -> ApiError | None:
        """What the whole text lacks, once the stream has ended. A stream of tool calls or of nothing lacks nothing."""
        text = "".join(self._texts)
        if not self._shape.is_checked or not text.strip():
            return None
        checked = await asyncio.to_thread(check, self._shape, text)
        if self._size > MAX_STREAM_BYTES:
            checked = Checked(text, ("It is too long to be checked.",))
        elif not checked.problems and checked.text != text.strip():
            checked = Checked(text, ("There are words around it.",))
        return mismatch(checked) if checked.problems else None
