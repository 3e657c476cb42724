"""What clients say of answers. Synchronous Django; runs in a thread, never on the event loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import monotonic, sleep
from typing import Final, NamedTuple
from uuid import UUID

from django.db import close_old_connections, transaction
from django.db.models import Q

from routing.bandit import Reward
from routing.models import Feedback
from telemetry.models import RequestLog

INGESTED_WITHIN_SECONDS: Final = 3.0
LOOK_AGAIN_SECONDS: Final = 0.1


class Revision(NamedTuple):
    """A reward that takes the place of an earlier one. `at`: when the model was chosen, in Unix time."""

    context: str
    model_id: str
    reward: Reward
    before: float
    at: float


class Noted(NamedTuple):
    """`request_id` is TokenHub's own."""

    request_id: str
    revision: Revision | None


def note(
    *, key_id: str, request_id: str, score: float, comment: str, reward_of: Callable[[float, float], Reward]
) -> Noted | None:
    """Once per request and key: the last score holds. `reward_of`: of a score and a latency in milliseconds. None when
    the key has no such request, also not in the next seconds: an answer may be judged before its row is written."""
    try:
        until = monotonic() + INGESTED_WITHIN_SECONDS
        while (row := _find(key_id, request_id)) is None:
            if monotonic() >= until:
                return None
            sleep(LOOK_AGAIN_SECONDS)
        return _note(row, key_id, score, comment, reward_of)
    finally:
        close_old_connections()


def _find(key_id: str, request_id: str) -> RequestLog | None:
    """By either id, the newest first."""
    wanted = Q(client_request_id=request_id)
    with contextlib.suppress(ValueError):
        wanted |= Q(request_id=UUID(request_id))
    return RequestLog.objects.filter(wanted, api_key_id=key_id).order_by("-id").first()


@transaction.atomic
def _note(
    row: RequestLog, key_id: str, score: float, comment: str, reward_of: Callable[[float, float], Reward]
) -> Noted:
    found, is_new = Feedback.objects.select_for_update().get_or_create(
        request_id=row.request_id,
        api_key_id=key_id,
        defaults={"score": score, "comment": comment, "model_id": row.model_id},
    )
    identity = str(row.request_id)
    if not is_new and (found.score, found.comment) == (score, comment):
        return Noted(identity, None)
    before = row.detail.get("reward") if is_new else found.reward
    found.score, found.comment = score, comment
    revision = None
    if before is not None and (context := row.detail.get("context")):
        reward = reward_of(score, float(row.latency_ms))
        found.reward = reward.value
        found.parts = {part.name: {"value": part.value, "weight": part.weight} for part in reward.parts}
        revision = Revision(context, row.model_id, reward, before, row.created_at.timestamp())
    found.save()
    return Noted(identity, revision)
