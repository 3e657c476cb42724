"""A run as a workflow: asks its mode what is due, and has activities do it. Deterministic: chance is in the directive,
time is the legs' business, and all else comes from results.

The database decides who drives a run. Where an activity finds that it is not Temporal any more, the workflow ends."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from orchestration.registry import mode_of
    from orchestration.steps import Calls, LegResult
    from orchestration.temporal.messages import VERSION, Asked, Begun, Ended, Progress

LOST: Final = "LostRun"
"""Type of the failure of an activity whose run is driven by others, or was ended."""
LEFT: Final = "left"
HEARTBEAT: Final = timedelta(seconds=6)  # well before the run's lease is over
A_LEG: Final = timedelta(hours=1)  # the engine's own timeouts, model after model, are shorter
A_WRITE: Final = timedelta(seconds=90)  # which is patient with the database
RETRY: Final = RetryPolicy(
    initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=5), maximum_attempts=12
)


@workflow.defn(name="plan")
class PlanWorkflow:
    def __init__(self) -> None:
        self._results: dict[str, LegResult] = {}
        self._under_way: list[str] = []

    @workflow.run
    async def run(self, asked: Begun) -> str:
        """The state in which it ended the run, or that it left it."""
        if asked.version > VERSION:
            return LEFT
        try:
            return await self._steps(asked)
        except ActivityError as problem:
            if isinstance(problem.cause, ApplicationError) and problem.cause.type == LOST:
                return LEFT
            if is_cancelled_exception(problem):
                await self._cancelled(asked)
            raise
        except asyncio.CancelledError:
            await self._cancelled(asked)
            raise

    @workflow.query
    def progress(self) -> Progress:
        return Progress(self._under_way, list(self._results))

    async def _steps(self, asked: Begun) -> str:
        mode = mode_of(asked.directive)
        step = mode.step(asked.directive, self._results)
        while isinstance(step, Calls):
            self._under_way = [leg.name for leg in step.legs]
            found = await self._called(asked, step)
            self._under_way = []
            self._results |= {one.name: one for one in found}
            step = mode.step(asked.directive, self._results)
        ended = Ended(asked.run_id, step, list(self._results))
        state: str = await workflow.execute_activity(
            "record",
            ended,
            result_type=str,
            start_to_close_timeout=A_WRITE,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
        )
        return state

    async def _called(self, asked: Begun, step: Calls) -> list[LegResult]:
        together = Asked(asked.run_id, step.legs)
        if asked.has_ceiling or len(step.legs) == 1:
            return await self._sent(together)
        await workflow.execute_activity(
            "begin",
            together,
            result_type=type(None),
            start_to_close_timeout=A_WRITE,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
        )
        each = await asyncio.gather(*(self._sent(Asked(asked.run_id, [leg])) for leg in step.legs))
        return [result for results in each for result in results]

    @staticmethod
    async def _sent(asked: Asked) -> list[LegResult]:
        results: list[LegResult] = await workflow.execute_activity(
            "send",
            asked,
            result_type=list[LegResult],
            start_to_close_timeout=A_LEG,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
        )
        return results

    @staticmethod
    async def _cancelled(asked: Begun) -> None:
        await workflow.execute_activity(
            "cancel", asked.run_id, result_type=type(None), start_to_close_timeout=A_WRITE, retry_policy=RETRY
        )
