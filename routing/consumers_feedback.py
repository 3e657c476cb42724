"""`POST /v1/feedback`: a client's judgement of an earlier answer, which the bandit learns from."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta

from providers.formats.reading import read_body
from routing import feedback
from routing.bandit import Reward
from routing.consumers import Endpoint
from routing.errors import ApiError
from routing.visit import Visit

_encode = msgspec.json.Encoder().encode


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    request_id: Annotated[str, Meta(min_length=1, max_length=128)]
    score: Annotated[float, Meta(ge=0, le=1)]
    comment: Annotated[str, Meta(max_length=10_000)] | None = None


_decode = msgspec.json.Decoder(_Body).decode


class Feedback(Endpoint):
    """Idempotent: the same judgement again changes nothing, another one takes its place."""

    path = "/v1/feedback"

    async def answer(self, visit: Visit) -> None:
        self.require_key(visit)
        body = read_body(_decode, await visit.body())
        key, learner = visit.key, visit.runtime.learner
        assert key is not None  # noqa: S101  require_key found one

        def reward_of(score: float, latency_ms: float) -> Reward:
            return learner.with_feedback(score, latency_ms=latency_ms)

        noted = await asyncio.to_thread(
            partial(
                feedback.note,
                key_id=key.id,
                request_id=body.request_id,
                score=body.score,
                comment=body.comment or "",
                reward_of=reward_of,
            )
        )
        if noted is None:
            raise ApiError(
                "not_found",
                f"This client key has made no request {body.request_id!r}.",
                param="request_id",
                hint="Send the X-TokenHub-Request-ID of an answer, or the X-Request-ID that you sent.",
            )
        if (change := noted.revision) is not None:
            learner.revise(change.context, change.model_id, change.reward, before=change.before, at=change.at)
        visit.account(200)
        await visit.respond_json(200, _encode({"ok": True, "request_id": noted.request_id, "score": body.score}))
