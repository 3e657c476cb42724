"""What workflows have done, in the process of `manage.py temporal_worker`: legs through the whole of routing, and
writing down. While legs are under way, the run's lease is renewed and Temporal told; a run that is cancelled, or driven
by others, ends them within a second or two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from django.db.utils import DatabaseError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from orchestration import store, store_durable
from orchestration.legs import Legs
from orchestration.payers import Payers
from orchestration.plan import Due
from orchestration.purse import Funds
from orchestration.steps import LegResult
from orchestration.store import DURABLE, LostRun
from orchestration.temporal.messages import Asked, Ended
from orchestration.temporal.workflow import LOST
from orchestration.threads import in_thread, patiently
from routing.runtime import Runtime
from telemetry.logs import REQUEST_ID, EventLogger

T = TypeVar("T")
log = EventLogger(__name__)
RENEW_SECONDS: Final = 1.0


class Activities:
    def __init__(self, held: Runtime) -> None:
        self._runtime = held
        self._payers = Payers(held)

    @activity.defn(name="begin")
    async def begin(self, asked: Asked) -> None:
        """Several legs get their rows in one order, whoever calls which first."""
        work = patiently(partial(store_durable.open_legs, asked.run_id, asked.legs, again=False))
        await _unless_lost(_while(work, _held(asked.run_id)))

    @activity.defn(name="send")
    async def send(self, asked: Asked) -> list[LegResult]:
        """A leg that has a result is not called again."""
        REQUEST_ID.set(asked.run_id)
        return await _unless_lost(_while(self._called(asked), _held(asked.run_id)))

    @activity.defn(name="record")
    async def record(self, ended: Ended) -> str:
        work = patiently(partial(store_durable.record, ended.run_id, ended.step, ended.legs))
        return await _unless_lost(_while(work, _held(ended.run_id)))

    @activity.defn(name="cancel")
    async def cancel(self, run_id: str) -> None:
        await patiently(partial(store.cancel, run_id, holder=DURABLE))

    async def _called(self, asked: Asked) -> list[LegResult]:
        again = activity.info().attempt > 1
        opened = await patiently(partial(store_durable.open_legs, asked.run_id, asked.legs, again=again))
        plan = opened.plan
        funds = Funds(plan.ceiling, opened.spent_nano)
        legs = Legs(self._runtime, plan, partial(self._payers.key, plan.key_id), funds)
        found = dict(opened.known)

        async def one(due: Due) -> None:
            result = await legs.ask(due.leg, due.request_id)
            if not await patiently(partial(store_durable.settle, asked.run_id, result)):
                raise LostRun
            found[result.name] = result

        if opened.due:
            funds.divide(len(opened.due))
            try:
                async with asyncio.TaskGroup() as group:
                    for due in opened.due:
                        group.create_task(one(due))
            except BaseExceptionGroup as problems:
                raise problems.exceptions[0] from None
        return [found[leg.name] for leg in asked.legs]


async def _held(run_id: str) -> None:
    """Returns when the run is not Temporal's any more."""
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        activity.heartbeat()
        try:
            if not await in_thread(partial(store_durable.renew, run_id)):
                return
        except DatabaseError as problem:
            log.warning("plan_runs_not_tended", error=type(problem).__name__)


async def _while(work: Coroutine[Any, Any, T], held: Coroutine[Any, Any, None]) -> T:
    """Raises LostRun when `held` returns first."""
    working, holding = asyncio.ensure_future(work), asyncio.ensure_future(held)
    try:
        await asyncio.wait({working, holding}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise LostRun
    finally:
        working.cancel()
        holding.cancel()
        await asyncio.gather(working, holding, return_exceptions=True)


async def _unless_lost(work: Awaitable[T]) -> T:
    try:
        return await work
    except LostRun:
        raise ApplicationError("Others drive this run, or it was ended.", type=LOST, non_retryable=True) from None
