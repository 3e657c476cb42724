"""What the bandit learned, in the database: one row per worker and second in which something was. Every worker reads
the others' rows; all of them together are what a restart begins with. Rows that everybody has read become one (`fold`).
Synchronous Django; belongs to the poller's thread."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from secrets import token_hex
from time import monotonic
from typing import Final

import msgspec
from django.db import transaction
from django.utils import timezone

from routing.feedback import Revision, note
from routing.learning import Learner, folded
from routing.models import BanditDelta
from telemetry.logs import EventLogger

log = EventLogger(__name__)
LATE_SECONDS: Final = 30.0
READ_BY_ALL: Final = timedelta(hours=1)
FOLD_FROM: Final = 100


class LearningStore:
    """`post`: runs a function on the thread that owns the learner."""

    def __init__(self, learner: Learner, *, post: Callable[[Callable[[], None]], object]) -> None:
        self._learner = learner
        self._post = post
        self._origin = token_hex(8)
        self._read_to = 0

    def load(self) -> None:
        """Before anything is served: all that was learned so far."""
        self._read(lambda call: call())

    def sync(self) -> None:
        self._post(self._learner.send)
        self._settle()
        self._write()
        self._read(self._post)

    def end(self) -> None:
        """When the event loop learns nothing any more."""
        self._learner.send()
        self._write()

    def _settle(self) -> None:
        """What came to be known late, of answers whose rows are in the log by now; the others wait a while."""
        late, waiting = self._learner.late, []
        while late:
            one = late.popleft()
            noted = note(
                key_id=one.key_id,
                request_id=one.request_id,
                part=one.part,
                value=one.value,
                reward_of=self._learner.composed,
                patience_seconds=0.0,
            )
            if noted is None and monotonic() - one.since < LATE_SECONDS:
                waiting.append(one)
            elif noted is not None and noted.revision is not None:
                self._post(partial(revise, self._learner, noted.revision))
        late.extend(waiting)

    def _write(self) -> None:
        while self._learner.outgoing:
            BanditDelta.objects.create(origin=self._origin, payload=self._learner.outgoing[0].decode())
            self._learner.outgoing.popleft()

    def _read(self, hand_over: Callable[[Callable[[], None]], object]) -> None:
        for row in BanditDelta.objects.filter(pk__gt=self._read_to).order_by("pk"):
            self._read_to = row.pk
            if row.origin != self._origin:
                hand_over(partial(self._merge, row.payload.encode()))

    def _merge(self, payload: bytes) -> None:
        try:
            self._learner.merge(payload)
        except msgspec.MsgspecError as problem:
            log.error("learning_unreadable", error=str(problem)[:200])


def revise(learner: Learner, change: Revision) -> None:
    learner.revise(change.context, change.model_id, change.reward, before=change.before, at=change.at)


@transaction.atomic
def fold() -> int:
    """Rows that every worker has read become one, under the id of the last. How many they were."""
    old = list(
        BanditDelta.objects.select_for_update().filter(created_at__lt=timezone.now() - READ_BY_ALL).order_by("pk")
    )
    if len(old) < FOLD_FROM:
        return 0
    try:
        payload = folded([row.payload.encode() for row in old])
    except msgspec.MsgspecError as problem:
        log.error("learning_unreadable", error=str(problem)[:200])
        return 0
    BanditDelta.objects.filter(pk=old[-1].pk).update(payload=payload.decode(), origin="")
    BanditDelta.objects.filter(pk__in=[row.pk for row in old[:-1]]).delete()
    return len(old)
