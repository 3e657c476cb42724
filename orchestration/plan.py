"""A run as plain data, from the request to the answer: what is kept of it, what each leg is sent, what its client gets.
Pure; the same on whichever host it is taken up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from orchestration.chat import CHAT
from orchestration.registry import mode_of
from orchestration.steps import Directive, Done, Failed, Leg, LegError, LegResult, StoppedBy
from routing.asking import with_system
from routing.errors import ApiError
from routing.policy import Policy
from routing.pricing import NANO
from routing.shaping import Shape

ENDPOINT: Final = "/v1/plan"
CHAT_ENDPOINT: Final = "/v1/chat"
NO_CEILING: Final = 1 << 62
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_list = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder().encode


class Plan(msgspec.Struct, frozen=True):
    """`body`: the chat completion that is asked for, without model and stream. `policy`: as the client sent it, for the
    whole run: its own budget is a ceiling, its own latency a deadline. `started_at`: Unix time."""

    id: str
    key_id: str
    directive: Directive
    body: Raw
    policy: Policy
    shape: Shape | None
    started_at: float
    client_id: str = ""
    is_strict: bool = False
    estimated_cost_nano: int | None = None
    headers: dict[str, str] = {}
    query: str = ""
    """Of a chat: what goes on to providers."""

    @property
    def is_chat(self) -> bool:
        return self.directive.mode == CHAT.name

    @property
    def ceiling(self) -> int | None:
        """Nano-dollars that the run may cost. That of a chat is the router's business, as ever."""
        return self.policy.max_budget_nano if self.policy.budget_is_own and not self.is_chat else None

    def seconds_left(self, now: float) -> float | None:
        deadline = self.policy.deadline_ms
        return None if deadline is None else self.started_at + deadline / 1000 - now

    @property
    def reason(self) -> str:
        return f"{self.directive.mode}-orchestration"

    @property
    def keeps_body(self) -> bool:
        """The answer is the provider's, whatever is in it."""
        return mode_of(self.directive).takes_tools


class Due(NamedTuple):
    """A leg that is about to be called; `request_id`: of its row in the request log."""

    leg: Leg
    request_id: str


@dataclass(slots=True)
class Outcome:
    """How a run ended. `lost_nano`: what was paid for calls whose answers were lost with their worker."""

    step: Done | Failed
    results: dict[str, LegResult] = field(default_factory=dict)
    lost_nano: int | None = None

    @property
    def cost_nano(self) -> int | None:
        return cost_of(self.results, self.lost_nano)


def cost_of(results: Mapping[str, LegResult], lost_nano: int | None = None) -> int | None:
    """None where nothing has a price."""
    return together(lost_nano, *(one.cost_nano for one in results.values()))


def together(*costs: int | None) -> int | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def leg_body(plan: Plan, leg: Leg, *, stream: bool) -> bytes:
    fields = _fields(plan.body)
    messages: list[Any] = list(_list(fields["messages"]))
    if leg.system:
        messages = with_system(messages, leg.system)
    asked: dict[str, Any] = {} if leg.is_own else dict(fields)
    asked |= {"model": leg.model, "messages": [*messages, *leg.turns]}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return _encode(asked)


def leg_shape(plan: Plan, leg: Leg) -> Shape | None:
    """What is asked of the answer's form."""
    if leg.schema:
        return Shape("json", _encode(leg.schema))
    return plan.shape if leg.has_form else None


def leg_policy(plan: Plan, leg: Leg, *, now: float, default_mode: str) -> Policy:
    """What is left of the run's deadline. Its ceiling is the purse's business: here it only leaves out what has no
    price."""
    policy, seconds = plan.policy, plan.seconds_left(now)
    if plan.ceiling is not None:
        policy = replace(policy, max_budget_nano=NO_CEILING)
    if seconds is not None:
        left = max(int(seconds * 1000), 1)
        policy = replace(policy, max_latency_ms=left, deadline_ms=left)
    if leg.min_weight is not None:
        policy = replace(policy, min_weight=leg.min_weight)
    return replace(policy, mode=leg.profile or policy.mode or default_mode)


# -- what the client gets --------------------------------------------------------------------------------------------
class _Attempt(msgspec.Struct):
    model: str
    provider: str
    error_class: str | None
    latency_ms: int


class _Answer(msgspec.Struct, omit_defaults=True):
    """As that of `POST /v1/chat`, and whether money or time ended it."""

    negotiated_model: str
    estimated_cost_usd: float | None
    routing_reason: str
    response: Raw
    cost_usd: float | None
    request_id: str
    attempts: list[_Attempt]
    partial: bool = False


def answer_of(plan: Plan, outcome: Outcome) -> bytes:
    step = outcome.step
    assert isinstance(step, Done)  # noqa: S101
    return _encode(
        _Answer(
            negotiated_model=outcome.results[step.by].model,
            estimated_cost_usd=usd(plan.estimated_cost_nano),
            routing_reason=plan.reason,
            response=step.response,
            cost_usd=usd(outcome.cost_nano),
            request_id=plan.id,
            attempts=[
                _Attempt(one.model, one.provider, one.error_class or None, one.latency_ms)
                for result in outcome.results.values()
                for one in result.attempts
            ],
            partial=step.is_partial,
        )
    )


def usd(nano: int | None) -> float | None:
    return None if nano is None else nano / NANO


# -- errors ----------------------------------------------------------------------------------------------------------
def leg_error(error: ApiError, stopped_by: StoppedBy = "") -> LegError:
    return LegError(
        error.code,
        error.message,
        error.status,
        error.hint,
        error.param,
        error.error_class,
        error.retry_after_seconds,
        dict(error.details or {}),
        stopped_by,
    )


def api_error(error: LegError) -> ApiError:
    return ApiError(
        error.code,
        error.message,
        param=error.param,
        hint=error.hint,
        status=error.status,
        retry_after_seconds=error.retry_after_seconds,
        error_class=error.error_class,
        details=error.details or None,
    )
