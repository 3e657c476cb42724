"""`POST /v1/feedback`: a client's judgement of an earlier answer, which the bandit learns from."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import Annotated, Any

import msgspec
from django.db import close_old_connections
from django.db.utils import DatabaseError
from msgspec import Meta

from providers.formats.reading import read_body
from routing import feedback
from routing.consumers import Endpoint
from routing.errors import ApiError
from routing.learning_store import revise
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
        await visit.admitted()
        body = read_body(_decode, await visit.body())
        key, learner = visit.key, visit.runtime.learner
        assert key is not None  # noqa: S101  require_key found one
        note = partial(
            _note,
            key_id=key.id,
            request_id=body.request_id,
            part=feedback.CLIENTS,
            value=body.score,
            comment=body.comment or "",
            reward_of=learner.composed,
            patience_seconds=0.0,
        )
        until = monotonic() + feedback.INGESTED_WITHIN_SECONDS
        try:
            while (noted := await asyncio.to_thread(note)) is None and monotonic() < until:  # noqa: ASYNC110  a row
                await asyncio.sleep(feedback.LOOK_AGAIN_SECONDS)  # not in the thread: others wait for one
        except DatabaseError:
            raise ApiError(
                "overloaded",
                "The judgement cannot be kept at the moment: the database does not answer.",
                hint="Send it again later.",
                retry_after_seconds=5,
            ) from None
        if noted is None:
            raise ApiError(
                "not_found",
                f"This client key has made no request {body.request_id!r}.",
                param="request_id",
                hint="Send the X-TokenHub-Request-ID of an answer, or the X-Request-ID that you sent.",
            )
        if (change := noted.revision) is not None:
            revise(learner, change)
        visit.account(200)
        await visit.respond_json(200, _encode({"ok": True, "request_id": noted.request_id, "score": body.score}))


def _note(**about: Any) -> feedback.Noted | None:
    try:
        return feedback.note(**about)
    finally:
        close_old_connections()
