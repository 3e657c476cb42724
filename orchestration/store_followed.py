"""Runs whose client waits at this server, while others take their steps: what there is to tell of them. They end with
their client, and nothing that was said outlives them. For threads."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from django.utils import timezone

from orchestration import store, store_shown
from orchestration.models import OPEN_STATES, LegState, PlanLeg, PlanRun
from orchestration.plan import Outcome
from orchestration.sealing import unseal
from orchestration.steps import LegResult
from vault.errors import Damaged


@dataclass(slots=True)
class Seen:
    """`is_held`: by whom drives it from elsewhere, still. `outcome`: of a run that is over, if it was not cancelled."""

    state: str
    is_held: bool
    legs: list[tuple[PlanLeg, LegResult | None]] = field(default_factory=list)
    """That are not told of yet, in the order in which they were begun, with what came of each."""
    outcome: Outcome | None = None

    @property
    def is_over(self) -> bool:
        return self.state not in OPEN_STATES


def look(runs: Collection[str], *, told: Collection[int]) -> dict[str, Seen]:
    """By id, those that there are. `told`: legs that are over, and told of."""
    rows = PlanRun.objects.filter(pk__in=list(runs)).values_list("pk", "state", "holder")
    found = {pk: Seen(state, holder == store.DURABLE) for pk, state, holder in rows}
    for leg in PlanLeg.objects.filter(run__in=list(found)).exclude(pk__in=list(told)).order_by("pk"):
        found[leg.run_id].legs.append((leg, None if leg.state == LegState.RUNNING else store_shown.said(leg)))
    over = [pk for pk, one in found.items() if one.is_over]
    if over:
        for pk, sealed in PlanRun.objects.filter(pk__in=over).values_list("pk", "sealed_outcome"):
            found[pk].outcome = _opened(sealed, str(pk))
    return {str(pk): one for pk, one in found.items()}


def _opened(sealed: bytes | memoryview | None, run_id: str) -> Outcome | None:
    try:
        return unseal(sealed, Outcome, run_id=run_id, place="outcome") if sealed is not None else None
    except Damaged:
        return None


def renew(runs: Collection[str]) -> None:
    """Their clients still wait."""
    until = timezone.now() + timedelta(seconds=store.CLIENT_SECONDS)
    PlanRun.objects.filter(pk__in=list(runs), client_until__isnull=False).update(client_until=until)


def end_abandoned() -> None:
    """Runs that the client's server left without a word."""
    for pk in PlanRun.objects.filter(client_until__lte=timezone.now()).values_list("pk", flat=True):
        store.cancel(pk)
        store.forget(pk)
