"""`POST /v1/chat` where Temporal drives chats: each whole answer is a run of one leg, which others finish if its worker
dies. Streams, and all of them while Temporal is away, are answered as ever. Loaded only where it is switched on."""

from __future__ import annotations

from time import time
from typing import Final

from keys.auth import KeyRecord
from orchestration.chat import CHAT, LEG
from orchestration.consumers import Silent
from orchestration.form import without_model
from orchestration.legs import TRACE
from orchestration.plan import Outcome, Plan, api_error
from orchestration.steps import Delivered, Directive, Failed
from orchestration.worker import worker
from providers.formats.errors import InvalidRequest
from routing.call import forwardable_headers, forwardable_query
from routing.consumers_chat import TokenHubChat, told
from routing.eligibility import needs_of
from routing.errors import ApiError
from routing.policy import Policy
from routing.pricing import dollars
from routing.shaped import require_usable
from routing.visit import Visit

_JSON: Final = (b"content-type", b"application/json")


class DurableChat(TokenHubChat):
    async def answer(self, visit: Visit) -> None:
        runs = worker()
        runs.start()
        if not runs.is_durable:
            await super().answer(visit)
            return
        self.require_key(visit, counts=False)
        self.require_journal(visit)
        visit.kept_body = raw = await visit.body()
        self.capture(visit, raw)
        try:
            body, policy = self.asked(visit, raw)
            envelope = self.envelope(visit, body)
        except (ApiError, InvalidRequest):
            visit.requested_model = self.named(raw)
            raise
        if envelope.stream:
            visit.shape = visit.plain = None
            await super().answer(visit)
            return
        visit.watch_client()
        if visit.shape is not None:
            await require_usable(visit.shape)
        needs = needs_of(envelope)
        visit.tokens_elsewhere = needs.input_tokens + needs.output_tokens
        if visit.key is not None and (visit.runtime.shared_limits is not None or visit.key.limits):
            visit.admit(visit.key, visit.tokens_elsewhere)
            await visit.admitted()
        TRACE.set(visit.trace)
        key = visit.key
        assert key is not None  # noqa: S101  the endpoint asked for one
        plan = _planned(visit, key, envelope.model, body, policy)
        visit.plan, visit.requested_model = plan.id, envelope.model[:200]
        await _told(visit, await runs.foreground(plan, key, Silent()))


def _planned(visit: Visit, key: KeyRecord, model: str, body: bytes, policy: Policy) -> Plan:
    return Plan(
        id=visit.request_id,
        key_id=key.id,
        directive=Directive(CHAT.name, 0, primary=model, has_form=visit.shape is not None),
        body=without_model(body),
        policy=policy,
        shape=visit.shape,
        started_at=time(),
        client_id=visit.client_id,
        is_strict=visit.headers.get(b"x-tokenhub-strict", b"").lower() == b"true",
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in forwardable_headers(visit.headers)},
        query=forwardable_query(visit.scope["query_string"]).decode("latin-1"),
    )


async def _told(visit: Visit, outcome: Outcome) -> None:
    """Under the id of the leg, whose row in the request log has the model and the cost. Raises ApiError."""
    if isinstance(outcome.step, Failed):
        if (failed := outcome.results.get(LEG)) is not None:
            visit.attempts = failed.attempts
        raise api_error(outcome.step.error)
    result = outcome.results[LEG]
    delivered = result.delivered or Delivered("")
    visit.tokens_elsewhere = result.input_tokens + result.output_tokens
    visit.reason = delivered.reason
    await visit.captured(bytes(result.body))
    visit.account(200)
    visit.request_id = result.request_id
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in delivered.headers.items()]
    if (cost := outcome.cost_nano) is not None:
        headers.append((b"x-tokenhub-cost-usd", dollars(cost).encode("ascii")))
    answer = told(
        bytes(result.body),
        model=result.model,
        reason=delivered.reason,
        estimated_cost_nano=delivered.estimated_cost_nano,
        cost_nano=cost,
        request_id=result.request_id,
        attempts=result.attempts,
    )
    await visit.respond(200, answer, [*visit.base_headers(), *headers, _JSON])
