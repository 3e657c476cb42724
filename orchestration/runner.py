"""Who takes a run from its plan to its outcome by the steps of its mode: a Protocol, and the runner that does it in
this process. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestration.legs import KeyOf, Legs
from orchestration.plan import Due, Outcome, Plan, cost_of
from orchestration.purse import Funds
from orchestration.registry import mode_of
from orchestration.steps import Calls, Leg, LegResult, Step
from routing.identity import new_request_id
from routing.runtime import Runtime


class Watcher(Protocol):
    """Who follows a run, and keeps what must outlive its worker. What it raises ends the run."""

    streams: bool
    """Whether texts are told as they come."""

    async def began(self, due: Sequence[Due]) -> None:
        """Before they are called."""

    async def ended(self, result: LegResult, following: Sequence[Due]) -> None:
        """Before those that follow are called."""

    def heard(self, leg: str, text: str) -> None: ...


class Runner(Protocol):
    async def run(
        self,
        plan: Plan,
        key_of: KeyOf,
        watcher: Watcher,
        *,
        known: Mapping[str, LegResult] | None = None,
        lost_nano: int | None = None,
    ) -> Outcome:
        """`known`: results of an earlier worker, which are not asked for again; `lost_nano`: what was paid for answers
        that were lost with it. Raises what the watcher raises."""


class InProcess:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def run(
        self,
        plan: Plan,
        key_of: KeyOf,
        watcher: Watcher,
        *,
        known: Mapping[str, LegResult] | None = None,
        lost_nano: int | None = None,
    ) -> Outcome:
        results = dict(known or {})
        funds = Funds(plan.ceiling, cost_of(results, lost_nano) or 0)
        legs = Legs(self._runtime, plan, key_of, funds)
        mode = mode_of(plan.directive)
        step, due = _after(mode.step(plan.directive, results))
        if due:
            await watcher.began(due)
        while isinstance(step, Calls):
            funds.divide(len(due))
            step, due = await self._side_by_side(plan, legs, due, results, watcher)
        return Outcome(step, results, lost_nano)

    async def _side_by_side(
        self, plan: Plan, legs: Legs, due: Sequence[Due], results: dict[str, LegResult], watcher: Watcher
    ) -> tuple[Step, list[Due]]:
        """Calls them all; what is due after the last of them."""
        mode = mode_of(plan.directive)
        found: dict[str, LegResult] = {}
        following: tuple[Step, list[Due]] | None = None

        async def one(leg: Leg, request_id: str) -> None:
            nonlocal following
            hear = (lambda text: watcher.heard(leg.name, text)) if watcher.streams and leg.role != "judge" else None
            result = await legs.ask(leg, request_id, hear)
            found[leg.name] = result
            if len(found) == len(due):
                results.update((other.name, found[other.name]) for other, _ in due)
                following = _after(mode.step(plan.directive, results))
            await watcher.ended(result, following[1] if following is not None else ())

        if len(due) == 1:
            await one(*due[0])
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    for each in due:
                        group.create_task(one(*each))
            except BaseExceptionGroup as problems:
                raise problems.exceptions[0] from None
        assert following is not None  # noqa: S101  the last one set it
        return following


def _after(step: Step) -> tuple[Step, list[Due]]:
    if not isinstance(step, Calls):
        return step, []
    return step, [Due(leg, new_request_id()) for leg in step.legs]
