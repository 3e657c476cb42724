"""Runs in the database, as Temporal's workers write them: each function is one transaction, may be called again by
whoever takes the place of a worker that died, and raises LostRun when the run is not Temporal's any more. For threads.

Before a leg is called, a row says so; its result is kept in that row before anybody is told. So a leg that has a result
is not called again, and of one that was called twice the first answer that was lost counts as cost only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from orchestration.models import LegState, PlanRun, RunState
from orchestration.plan import Due, Outcome, Plan
from orchestration.steps import Done, Failed, Leg, LegResult
from orchestration.store import (
    DURABLE,
    add_legs,
    dollars,
    finish,
    held_run,
    keep_result,
    lose_legs,
    nano,
    paid,
    read_run,
    tend,
)
from routing.identity import new_request_id


@dataclass(slots=True)
class Opened:
    """`due`: legs that are to be called. `known`: those that are not, because they were."""

    plan: Plan
    due: list[Due]
    known: dict[str, LegResult]
    spent_nano: int


@transaction.atomic
def open_legs(run_id: str, legs: Sequence[Leg], *, again: bool) -> Opened:
    """`again`: whoever called them before is gone, and with it what it did not keep. Raises LostRun, Damaged."""
    run = held_run(run_id, DURABLE)
    names = [leg.name for leg in legs]
    if again:
        lose_legs(run.legs.filter(name__in=names))
        run.cost_usd = paid(run)
        run.save(update_fields=["cost_usd"])
    taken = read_run(run)
    running = dict(run.legs.filter(state=LegState.RUNNING, name__in=names).values_list("name", "request_id"))
    due = [
        Due(leg, str(running.get(leg.name) or new_request_id())) for leg in legs if leg.name not in taken.known
    ]  # fmt: skip
    add_legs(run.pk, [one for one in due if one.leg.name not in running], taken.attempts)
    known = {name: taken.known[name] for name in names if name in taken.known}
    return Opened(taken.plan, due, known, nano(run.cost_usd) or 0)


@transaction.atomic
def settle(run_id: str, result: LegResult) -> bool:
    """Whether the result counts: not when another worker was sent to call the leg again. Raises LostRun."""
    run = held_run(run_id, DURABLE)
    leg = run.legs.select_for_update().get(request_id=UUID(result.request_id))
    if leg.state == LegState.RUNNING:
        keep_result(run.pk, result, is_kept=run.is_kept)
        if result.cost_nano is not None:
            run.cost_usd = dollars((nano(run.cost_usd) or 0) + result.cost_nano)
    elif leg.state == LegState.LOST:
        leg.cost_usd = dollars(result.cost_nano)
        leg.save(update_fields=["cost_usd"])
        run.cost_usd = paid(run)
    run.save(update_fields=["cost_usd"])
    return leg.state != LegState.LOST


@transaction.atomic
def record(run_id: str, step: Done | Failed, legs: Sequence[str]) -> str:
    """Ends it, once. Its state. Raises LostRun, Damaged."""
    run = PlanRun.objects.select_for_update().filter(pk=run_id).first()
    if run is not None and run.state in {RunState.COMPLETED, RunState.FAILED}:
        return str(run.state)
    taken = read_run(held_run(run_id, DURABLE))
    outcome = Outcome(step, {name: taken.known[name] for name in legs}, taken.lost_nano)
    finish(run_id, holder=DURABLE, outcome=outcome)
    return str(RunState.COMPLETED if isinstance(step, Done) else RunState.FAILED)


def renew(run_id: str) -> bool:
    """Whether the run still is Temporal's."""
    return bool(tend([run_id], holder=DURABLE))
