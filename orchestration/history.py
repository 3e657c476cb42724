"""What happened in a run, in order, out of its rows."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from orchestration.models import LegState, PlanLeg, PlanRun, RunState


class Happening(NamedTuple):
    at: datetime
    event: str
    leg: PlanLeg | None = None


def history(run: PlanRun) -> list[Happening]:
    found = [Happening(run.created_at, "run_started")]
    for leg in run.legs.all():
        found.append(Happening(leg.started_at, "leg_started", leg))
        if leg.finished_at is not None and leg.state != LegState.RUNNING:
            found.append(Happening(leg.finished_at, f"leg_{LegState(leg.state).value}", leg))
    if run.finished_at is not None:
        found.append(Happening(run.finished_at, f"run_{RunState(run.state).value}"))
    return sorted(found, key=lambda one: one.at)
