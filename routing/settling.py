"""What becomes of the bandit's choice when its answer is there: its reward, and perhaps a judge's opinion later."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from providers.formats.dialect import Usage
from routing.attempt import Delivery
from routing.call import Call
from routing.heard import Heard, calls_are_valid, heard_in, tool_names
from routing.pricing import cost_nano

if TYPE_CHECKING:
    from routing.visit import Visit


def settle(visit: Visit, call: Call, delivery: Delivery, usage: Usage, *, has_form: bool | None) -> None:
    """`has_form`: whether the answer has the form that was asked for; None where none was."""
    lesson = call.lesson
    if lesson is None:
        return
    heard = _heard(call, delivery) if lesson.is_heard or lesson.is_judged else None
    is_valid = has_form
    if has_form is not False and heard is not None and call.envelope.has_tools:
        offered = tool_names(call.envelope.raw("tools"), call.envelope.raw("functions"))
        is_callable = calls_are_valid(heard, offered)
        is_valid = has_form if is_callable is None else is_callable
    prices = delivery.target.prices
    visit.reward = visit.runtime.learner.answered(
        lesson,
        delivery.target.model_id,
        latency_ms=(monotonic() - delivery.started_at) * 1000,
        cost_nano=cost_nano(prices, usage) if prices is not None else None,
        request_id=visit.request_id,
        is_valid=is_valid,
    )
    if lesson.is_judged and has_form is not False:
        visit.runtime.judge.follow(visit, call, heard)


def _heard(call: Call, delivery: Delivery) -> Heard | None:
    if delivery.heard is not None:
        return delivery.heard.heard
    return heard_in(call.dialect, delivery.answer.body) if delivery.answer is not None else None
