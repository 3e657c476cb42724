"""What comes to be known of an answer after it was given: what its client says of it, that it was asked for again, what
a judge says. Synchronous Django; runs in a thread, never on the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic, sleep
from typing import Final, NamedTuple

from django.db import transaction

from routing.bandit import Reward
from routing.idempotency import REASON
from routing.models import Feedback
from telemetry import search
from telemetry.models import RequestLog

INGESTED_WITHIN_SECONDS: Final = 3.0
LOOK_AGAIN_SECONDS: Final = 0.1
CLIENTS: Final = "feedback"  # the part that a client says


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


RewardOf = Callable[[Mapping[str, float]], Reward | None]


def note(
    *,
    key_id: str,
    request_id: str,
    part: str,
    value: float,
    reward_of: RewardOf,
    comment: str = "",
    patience_seconds: float = INGESTED_WITHIN_SECONDS,
) -> Noted | None:
    """`part` of the reward, from 0 to 1; the last value of each holds. `reward_of`: all known parts. None when the key
    has no such request, also not within the patience: an answer may be judged before its row is written. PostgreSQL
    takes no NUL character: no request has one, and in a comment it becomes U+FFFD."""
    if "\0" in request_id:
        return None
    comment = comment.replace("\0", "\ufffd")
    until = monotonic() + patience_seconds
    while (row := _find(key_id, request_id)) is None:
        if monotonic() >= until:
            return None
        sleep(LOOK_AGAIN_SECONDS)
    return _note(row, key_id, part, value, comment, reward_of)


def _find(key_id: str, request_id: str) -> RequestLog | None:
    """By either id, the newest first."""
    asked = RequestLog.objects.exclude(client_request_id=request_id, routing_reason=REASON)
    terms = [search.named(request_id), search.equal("api_key_id", key_id)]
    return search.search(asked, terms).rows.first()


@transaction.atomic
def _note(row: RequestLog, key_id: str, part: str, value: float, comment: str, reward_of: RewardOf) -> Noted:
    found, _ = Feedback.objects.select_for_update().get_or_create(
        request_id=row.request_id, api_key_id=key_id, defaults={"model_id": row.model_id}
    )
    identity = str(row.request_id)
    if part == CLIENTS:
        if (found.score, found.comment) == (value, comment):
            return Noted(identity, None)
        found.score, found.comment = value, comment
    before = row.detail.get("reward") if found.reward is None else found.reward
    revision = None
    if before is not None and (context := row.detail.get("context")):
        known = {"success": 1.0, **_values(found.parts or row.detail.get("reward_parts", {})), part: value}
        if (reward := reward_of(known)) is not None and (not found.parts or reward.value != before):
            found.reward, found.parts = reward.value, reward.shown()
            revision = Revision(context, row.model_id, reward, before, row.created_at.timestamp())
    found.save()
    return Noted(identity, revision)


def _values(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: told["value"] for name, told in parts.items()}
