"""Answers in the form that was asked for: a whole one is held against it, and its model is told what is wrong and asked
again, as often as the operator allows; a stream is checked when it has ended, and ends with an error if it does not
fit. Every asking costs, and is accounted. What a model writes says nothing about its health."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from providers.formats.base import Dialect
from providers.formats.canonical import ChatRequest, Refusal, Text, Thinking, ToolCall
from providers.formats.errors import UnreadableAnswer
from routing.asking import asked_again
from routing.attempt import Delivery
from routing.call import Call
from routing.chat_texts import messages_of, strip_thoughts, text_of
from routing.eligibility import expected_cost
from routing.errors import ApiError
from routing.output_schema import BadSchema, check_schema
from routing.settling import settle
from routing.shaping import Checked, Shape, check, objection
from routing.visit import Visit, estimate

MAX_SHOWN = 100_000  # characters of an answer that the error repeats
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


async def in_shape(visit: Visit, call: Call, delivery: Delivery, shape: Shape) -> tuple[Call, Delivery]:
    """The first delivery whose answer fits, and what was asked for it. Those before it stay on the visit's bill. Raises
    ApiError."""
    repairs = visit.runtime.output_repairs
    while True:
        answer = delivery.answer
        assert answer is not None  # noqa: S101  streams go another way
        asked = None if call.dialect.name == "openai-chat" else call.parsed()
        usage = answer.usage or estimate(
            None, input_tokens=call.needs.input_tokens, produced_bytes=answer.produced_bytes
        )
        try:
            body, checked = await asyncio.to_thread(_checked, shape, call.dialect, answer.body, asked)
        except asyncio.CancelledError:  # nobody waits for it any more, but it is made
            visit.add_leg(delivery.target, usage, estimated=answer.usage is None)
            raise
        if not checked.problems:
            delivery.answer = answer._replace(body=body)
            visit.is_valid = True if shape.is_checked else None
            return call, delivery
        visit.add_leg(delivery.target, usage, estimated=answer.usage is None)
        settle(visit, call, delivery, usage, has_form=False)
        amended = partial(
            asked_again, dialect=call.dialect.name, answer=checked.text, objections=objection(shape, checked)
        )
        again = call.asking_again(delivery.target, amended)
        if not repairs or call.deadline_passed or not _affordable(visit, again):
            raise mismatch(checked)
        repairs -= 1
        call, before = again, delivery
        delivery = await visit.runtime.engine.deliver(call)
        if delivery.target is before.target:
            delivery.reason = before.reason
        visit.target, visit.reason = delivery.target, delivery.reason


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


def _checked(shape: Shape, dialect: Dialect, body: bytes, asked: ChatRequest | None) -> tuple[bytes, Checked]:
    """The body with cleaned texts, and the first text that does not fit, or the last. An answer that cannot be read
    does not fit."""
    try:
        return _checked_chat(shape, body) if asked is None else _checked_other(shape, dialect, body, asked)
    except (UnreadableAnswer, msgspec.DecodeError, RecursionError) as problem:
        return body, Checked("", (f"It cannot be read: {problem}",))


def _checked_chat(shape: Shape, body: bytes) -> tuple[bytes, Checked]:
    answer: dict[str, Any] = _any(body)
    checked = Checked("")
    for message in messages_of(answer):
        if shape.strip_think:
            strip_thoughts(message)
        if (text := text_of(message)) is not None:
            checked = check(shape, text)
            if checked.problems:
                break
            if checked.text != text:
                message["content"] = checked.text
    return _encode(answer), checked


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
