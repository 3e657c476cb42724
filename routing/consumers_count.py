"""`POST /v1/messages/count_tokens`: the provider's own count where it has one, else an estimate that says so."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Final

import msgspec

from providers.formats.registry import DIALECTS
from providers.outcomes import ErrorClass
from routing.attempt import AttemptFailed, Delivery
from routing.call import Call
from routing.consumers import Chat, delivery_headers
from routing.failures import rejected
from routing.snapshot import Target
from routing.visit import Visit
from telemetry.journal import Attempt
from vault.errors import VaultLocked

COUNT: Final = DIALECTS["anthropic-count-tokens"]
ASK_AGAIN_SECONDS: Final = 300.0
_JSON = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode


class CountTokens(Chat):
    """Costs nothing, and leaves no mark on a provider's health: many a compatible server lacks this endpoint."""

    path = "/v1/messages/count_tokens"
    dialect = DIALECTS["anthropic-messages"]

    def capture(self, visit: Visit, body: bytes) -> None:
        """Nothing is answered, and the request itself comes next."""

    async def answer(self, visit: Visit) -> None:
        call = await self.call(visit)
        engine, without = visit.runtime.engine, visit.runtime.without_count
        target = visit.target = engine.first_choice(call)
        delivery = Delivery(target, {}, (), visit.started_at, reason="model-hint" if call.hint else "routed")
        body = b""
        if target.dialect_for(COUNT) is COUNT and without.get(target.provider.id, 0.0) < monotonic():
            body = await self._counted(visit, call, target)
        visit.attempts.append(Attempt(model=target.model_id, provider=target.provider.id))
        told = delivery_headers(visit, delivery)
        visit.account(200)
        headers = [*visit.base_headers(), *told, _JSON]
        if not body:
            ratio = visit.runtime.health.stats(target.provider.id, target.model_id).tokens_per_guess
            body = _encode({"input_tokens": max(round(call.needs.input_tokens * ratio), 1)})
            headers.append((b"x-tokenhub-estimated", b"true"))
        await visit.respond(200, body, headers)

    async def _counted(self, visit: Visit, call: Call, target: Target) -> bytes:
        """The provider's answer; empty when it gives none. Raises ApiError when it refuses the request itself."""
        try:
            delivery = await visit.runtime.engine.ask(replace(call, dialect=COUNT), target)
        except AttemptFailed as failure:
            if failure.error is ErrorClass.INVALID_REQUEST and failure.status in {400, 422}:
                raise rejected(failure) from None
            if failure.status in {404, 405, 501}:
                visit.runtime.without_count[target.provider.id] = monotonic() + ASK_AGAIN_SECONDS
            return b""
        except VaultLocked:
            return b""
        return delivery.answer.body if delivery.answer is not None else b""
