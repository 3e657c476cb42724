"""Clients that wait for runs which others drive: looks into the database for all of this process's at once, tells each
client's watcher what happened, and gives the outcome. So it does not matter who takes the steps, or takes them over.
Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final, cast

from django.db.utils import DatabaseError

from orchestration import store_followed
from orchestration.models import RunState
from orchestration.plan import Due, Outcome
from orchestration.runner import Watcher
from orchestration.steps import Leg, Role
from orchestration.store_followed import Seen
from orchestration.threads import PATIENCE_SECONDS, in_thread
from routing.errors import ApiError
from telemetry.logs import EventLogger

log = EventLogger(__name__)
LOOK_SECONDS: Final = 0.05
RENEW_SECONDS: Final = 1.0
UNATTENDED_SECONDS: Final = 5.0  # without a leg that was begun


class _Followed:
    __slots__ = ("began_at", "begun", "ended", "is_attended", "outcome", "watcher")

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.began_at = monotonic()
        self.is_attended = False
        self.begun = set[int]()
        self.ended = set[int]()


class Following:
    """`unattended` is told of a run that nobody has begun after a while."""

    def __init__(self, unattended: Callable[[str], None]) -> None:
        self._unattended = unattended
        self._runs: dict[str, _Followed] = {}
        self._task: asyncio.Task[None] | None = None
        self._renewed_at = self._seen_at = 0.0

    async def outcome(self, run_id: str, watcher: Watcher) -> Outcome:
        """Raises ApiError when it was cancelled, or the database does not answer for long."""
        followed = self._runs[run_id] = _Followed(watcher)
        try:
            if self._task is None or self._task.done():
                self._seen_at = monotonic()
                self._task = asyncio.get_running_loop().create_task(self._follow())
            return await followed.outcome
        finally:
            self._runs.pop(run_id, None)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while self._runs:
            try:
                await self._look()
                self._seen_at = monotonic()
            except DatabaseError as problem:
                log.warning("plan_runs_not_followed", error=type(problem).__name__)
                if monotonic() - self._seen_at > PATIENCE_SECONDS:
                    self._fail_all(ApiError("overloaded", "The database does not answer.", retry_after_seconds=2))
            except Exception:
                log.exception("plan_runs_not_followed")
                self._fail_all(ApiError("internal_error", "TokenHub failed to follow this plan. The log says why."))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        runs = dict(self._runs)
        told = {leg for one in runs.values() for leg in one.ended}
        found = await in_thread(partial(store_followed.look, list(runs), told=told))
        if monotonic() - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = monotonic()
            await in_thread(partial(store_followed.renew, list(runs)))
        for run_id, followed in runs.items():
            if followed.outcome.done():
                continue
            seen = found.get(run_id)
            if seen is None:
                followed.outcome.set_exception(ApiError("internal_error", "What was kept of this plan is gone."))
                continue
            await _tell(followed, seen)
            if seen.is_over:
                _end(followed, seen)
            elif not followed.is_attended and monotonic() - followed.began_at > UNATTENDED_SECONDS:
                followed.is_attended = True
                if seen.is_held:
                    self._unattended(run_id)

    def _fail_all(self, error: ApiError) -> None:
        for one in self._runs.values():
            if not one.outcome.done():
                one.outcome.set_exception(error)


async def _tell(followed: _Followed, seen: Seen) -> None:
    watcher = followed.watcher
    for leg, result in seen.legs:
        followed.is_attended = True
        if leg.pk not in followed.begun:
            followed.begun.add(leg.pk)
            due = Leg(leg.name, cast(Role, leg.role), model=leg.model_id)
            await watcher.began([Due(due, str(leg.request_id))])
        if result is not None and leg.pk not in followed.ended:
            followed.ended.add(leg.pk)
            if watcher.streams and result.role != "judge" and result.text:
                watcher.heard(result.name, result.text)
            await watcher.ended(result, ())


def _end(followed: _Followed, seen: Seen) -> None:
    if seen.outcome is not None:
        followed.outcome.set_result(seen.outcome)
    elif seen.state == RunState.CANCELLED:
        followed.outcome.set_exception(ApiError("overloaded", "This request was cancelled by the operator."))
    else:
        followed.outcome.set_exception(ApiError("internal_error", "What is kept of this plan cannot be read."))
