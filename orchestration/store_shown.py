"""What is shown of runs to those who may see them. For threads."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from django.utils import timezone

from orchestration.models import PlanLeg, PlanRun
from orchestration.plan import Outcome, Plan
from orchestration.sealing import unseal
from orchestration.steps import LegError, LegResult
from vault.errors import Damaged


@dataclass(slots=True)
class View:
    """A run of the client that asks."""

    run: PlanRun
    legs: list[PlanLeg]
    plan: Plan | None
    outcome: Outcome | None


def view(run_id: UUID, *, key_id: str) -> View | None:
    """Of a run in the background, by the key that started it. Raises Damaged."""
    run = PlanRun.objects.filter(
        pk=run_id, api_key_id=key_id, is_background=True, expires_at__gt=timezone.now()
    ).first()
    if run is None:
        return None
    outcome = plan = None
    if run.sealed_outcome is not None and run.sealed_plan is not None:
        outcome = unseal(run.sealed_outcome, Outcome, run_id=run.pk, place="outcome")
        plan = unseal(run.sealed_plan, Plan, run_id=run.pk, place="plan")
    return View(run, list(run.legs.order_by("id")), plan, outcome)


def said(leg: PlanLeg) -> LegResult:
    """Of one that is over."""
    with suppress(Damaged):
        if leg.sealed_result is not None:
            return unseal(leg.sealed_result, LegResult, run_id=leg.run_id, place=leg.name)
    error = LegError(leg.error_code or leg.state, "It has no answer.")
    return LegResult(leg.name, leg.role, model=leg.model_id, error=error)
