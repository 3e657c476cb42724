"""`POST /v1/plan`: a request that several calls of models answer, by the steps of a mode. What is wrong with it is said
before the first of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from time import time
from typing import Any, Final

import msgspec
from django.db.utils import DatabaseError

from keys.auth import KeyRecord
from orchestration import form
from orchestration.casting import Casting
from orchestration.legs import TRACE
from orchestration.plan import Due, Outcome, Plan, answer_of, api_error, usd
from orchestration.prompts import BUILT_IN
from orchestration.steps import Failed, LegResult
from orchestration.worker import worker
from providers.formats.envelope import model_named
from providers.formats.errors import InvalidRequest
from routing.consumers import EVENT_STREAM, KEEP_ALIVE, Chat
from routing.consumers_chat import chat_body, policy_of
from routing.errors import ApiError
from routing.pricing import dollars
from routing.shaped import require_usable
from routing.visit import ResponseHeaders, Visit, client_error

_encode = msgspec.json.Encoder().encode
_JSON: Final = (b"content-type", b"application/json")
_random = Random()  # noqa: S311  shuffles candidates, no secret


class Plans(Chat):
    path = "/v1/plan"
    scopes = ("plan",)

    async def answer(self, visit: Visit) -> None:
        self.require_key(visit, counts=False)
        self.require_journal(visit)
        raw = await visit.body()
        visit.watch_client()
        self.capture(visit, raw)
        try:
            body = form.read(raw)
            visit.stream = body.streams
            plan = await self._planned(visit, body)
        except (ApiError, InvalidRequest):
            visit.requested_model = visit.requested_model or self.named(raw)
            raise
        if visit.key is not None and (visit.runtime.shared_limits is not None or visit.key.limits):
            visit.admit(visit.key, visit.tokens_elsewhere)
            await visit.admitted()
        TRACE.set(visit.trace)
        visit.plan, visit.reason, visit.estimated_cost_nano = plan.id, plan.reason, plan.estimated_cost_nano
        if body.background:
            await _accepted(visit, plan)
        elif body.streams:
            await _streamed(visit, plan)
        else:
            await _whole(visit, plan)

    @staticmethod
    def named(body: bytes) -> str:
        found = model_named(body, "orchestration", "primary_model_id") or model_named(body, "request", "model_hint")
        return found[:200]

    async def _planned(self, visit: Visit, body: form.Body) -> Plan:
        """Whatever can be known to be wrong is an error here. Raises ApiError, InvalidRequest."""
        runtime, key = visit.runtime, visit.key
        assert key is not None  # noqa: S101  the endpoint asked for one
        policy = policy_of(visit, replace(runtime.snapshot.default_policy, mode=""), body.policy)
        asked, policy = self.obey(visit, chat_body(body.request, body.output_format), policy)
        shape, directed = form.form_of(body), visit.shape
        if directed is not None:
            shape = replace(directed, strip_think=shape.strip_think) if shape is not None else directed
        visit.shape = None
        if shape is not None:
            await require_usable(shape)
        self.dialect.read_envelope(asked)
        directive = form.directive_of(
            body,
            profile=policy.mode,
            prompts={**BUILT_IN, **runtime.snapshot.prompts},
            seed=_random.getrandbits(48),
            has_form=shape is not None,
        )
        visit.requested_model, visit.mode = directive.primary[:200], policy.mode or runtime.snapshot.default_policy.mode
        plan = Plan(
            id=visit.request_id,
            key_id=key.id,
            directive=directive,
            body=form.without_model(asked),
            policy=policy,
            shape=shape,
            started_at=time(),
            client_id=visit.client_id,
            is_strict=visit.headers.get(b"x-tokenhub-strict", b"").lower() == b"true",
        )
        return self._cast(visit, plan, body, key)

    @staticmethod
    def _cast(visit: Visit, plan: Plan, body: form.Body, key: KeyRecord) -> Plan:
        runtime = visit.runtime
        casting = Casting(runtime.engine, runtime.snapshot, key, default_mode=runtime.snapshot.default_policy.mode)
        named = "orchestration.primary_model_id" if body.orchestration.primary_model_id else "request.model_hint"
        casting.require(plan.directive.primary, named)
        casting.require(plan.directive.review, "orchestration.review_model_id")
        if plan.directive.mode == "vote":
            plan = casting.seated(plan, body.orchestration.iterations)
        estimate = casting.estimate(plan)
        visit.tokens_elsewhere = estimate.tokens
        return msgspec.structs.replace(plan, estimated_cost_nano=estimate.cost_nano)


class Silent:
    """Follows a run that nobody looks at."""

    streams = False

    async def began(self, due: Sequence[Due]) -> None:
        pass

    async def ended(self, result: LegResult, following: Sequence[Due]) -> None:
        pass

    def heard(self, leg: str, text: str) -> None:
        pass


async def _accepted(visit: Visit, plan: Plan) -> None:
    key = visit.key
    assert key is not None  # noqa: S101  the endpoint asked for one
    try:
        await worker().submit(plan, key)
    except DatabaseError:
        raise ApiError(
            "overloaded", "The plan cannot be kept at the moment: the database does not answer.", retry_after_seconds=5
        ) from None
    visit.account(202)
    shown = {
        "id": plan.id,
        "status": "running",
        "mode": plan.directive.mode,
        "estimated_cost_usd": usd(plan.estimated_cost_nano),
        "request_id": plan.id,
    }
    await visit.respond_json(
        202, _encode(shown), [(b"location", f"{Plans.path}/{plan.id}".encode()), *_estimated(plan)]
    )


async def _whole(visit: Visit, plan: Plan) -> None:
    key = visit.key
    assert key is not None  # noqa: S101  the endpoint asked for one
    outcome = await worker().foreground(plan, key, Silent())
    _count(visit, outcome)
    if isinstance(outcome.step, Failed):
        raise api_error(outcome.step.error)
    answer = answer_of(plan, outcome)
    await visit.captured(answer)
    visit.account(200)
    await visit.respond(200, answer, [*visit.base_headers(), *_headers(plan, outcome), _JSON])


def _count(visit: Visit, outcome: Outcome) -> None:
    visit.tokens_elsewhere = sum(one.input_tokens + one.output_tokens for one in outcome.results.values())


def _headers(plan: Plan, outcome: Outcome) -> ResponseHeaders:
    step = outcome.step
    assert not isinstance(step, Failed)  # noqa: S101
    best = outcome.results[step.by]
    headers = [
        (b"x-tokenhub-model", best.model.encode("ascii")),
        (b"x-tokenhub-provider", best.provider.encode("ascii")),
        (b"x-tokenhub-reason", plan.reason.encode("ascii")),
        (b"x-tokenhub-attempts", b"%d" % sum(len(one.attempts) for one in outcome.results.values())),
        *_estimated(plan),
    ]
    if (cost := outcome.cost_nano) is not None:
        headers.append((b"x-tokenhub-cost-usd", dollars(cost).encode("ascii")))
    return headers


def _estimated(plan: Plan) -> ResponseHeaders:
    if plan.estimated_cost_nano is None:
        return []
    return [(b"x-tokenhub-estimated-cost-usd", dollars(plan.estimated_cost_nano).encode("ascii"))]


# -- streams -----------------------------------------------------------------------------------------------------------
def event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data if isinstance(data, bytes) else _encode(data))


def started(due: Due) -> bytes:
    leg = due.leg
    return event("leg_started", {"leg": leg.name, "role": leg.role, "model": leg.model or None})


def completed(result: LegResult) -> bytes:
    return event(
        "leg_completed",
        {
            "leg": result.name,
            "role": result.role,
            "model": result.model or None,
            "provider": result.provider or None,
            "content": result.text,
            "cost_usd": usd(result.cost_nano),
            "latency_ms": result.latency_ms,
            "error": result.error.code if result.error is not None else None,
        },
    )


class Told:
    """Puts what happens into a queue, as events."""

    streams = True

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.error: ApiError | None = None

    async def began(self, due: Sequence[Due]) -> None:
        for one in due:
            self.queue.put_nowait(started(one))

    async def ended(self, result: LegResult, following: Sequence[Due]) -> None:
        self.queue.put_nowait(completed(result))
        await self.began(following)

    def heard(self, leg: str, text: str) -> None:
        self.queue.put_nowait(event("delta", {"leg": leg, "text": text}))


async def _streamed(visit: Visit, plan: Plan) -> None:
    key, told = visit.key, Told()
    assert key is not None  # noqa: S101  the endpoint asked for one
    reason = (b"x-tokenhub-reason", plan.reason.encode("ascii"))
    await visit.start(200, [*visit.base_headers(), reason, *_estimated(plan), *EVENT_STREAM])
    try:
        async with asyncio.TaskGroup() as group:
            run = group.create_task(worker().foreground(plan, key, told))
            run.add_done_callback(lambda _: told.queue.put_nowait(b""))
            while data := await _next(visit, told.queue):
                await send(visit, data)
    except* ApiError as problems:
        cancelled = problems.exceptions[0]
        assert isinstance(cancelled, ApiError)  # noqa: S101
        told.error = cancelled
    if told.error is not None:
        await end_with(visit, told.error)
        return
    outcome = run.result()
    _count(visit, outcome)
    if isinstance(outcome.step, Failed):
        await end_with(visit, api_error(outcome.step.error))
        return
    answer = answer_of(plan, outcome)
    await visit.captured(answer)
    visit.account(200)
    await visit.send(event("result", answer), more=False)


async def end_with(visit: Visit, error: ApiError) -> None:
    visit.account(error.status, error=error)
    shown = client_error(error, visit.client_id or visit.request_id)
    await visit.send(b"event: error\n" + visit.dialect.render_stream_error(shown), more=False)


async def _next(visit: Visit, queue: asyncio.Queue[bytes]) -> bytes:
    """What there is to tell, or a comment when nothing happens for a while; empty at the end."""
    try:
        async with asyncio.timeout(visit.runtime.stream_keepalive or None):
            data = await queue.get()
    except TimeoutError:
        return KEEP_ALIVE
    while data and not queue.empty():
        following = queue.get_nowait()
        if not following:
            queue.put_nowait(b"")
            break
        data += following
    return data


async def send(visit: Visit, data: bytes) -> None:
    """A client that takes nothing for so long has left."""
    try:
        async with asyncio.timeout(visit.runtime.stream_idle_timeout):
            await visit.send(data, more=True)
    except TimeoutError:
        visit.client_left = True
        raise asyncio.CancelledError from None
