"""Runs in the database. Each function is one transaction, and synchronous Django: for threads, never on the event loop.

A run belongs to its holder until the lease is over. Every write of a holder looks first whether it still is the holder:
whoever was too slow, or whose run was cancelled, gets LostRun and stops. So each leg's result counts once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from keys.auth import KeyRecord
from orchestration.models import DURABLE as DURABLE
from orchestration.models import OPEN_STATES, LegState, PlanLeg, PlanRun, RunState
from orchestration.plan import Due, Outcome, Plan
from orchestration.sealing import seal, unseal
from orchestration.statements import insert, update
from orchestration.steps import Done, Failed, LegError, LegResult
from orchestration.threads import PATIENCE_SECONDS
from telemetry.logs import EventLogger
from telemetry.models import RequestLog
from vault.errors import Damaged

log = EventLogger(__name__)
LEASE_SECONDS: Final = 10.0
DURABLE_LEASE_SECONDS: Final = 20.0  # another of its workers goes on before that
FORSAKEN_SECONDS: Final = 5.0  # without a sign from its workers, while Temporal itself is gone
CLIENT_SECONDS: Final = 1.5 * PATIENCE_SECONDS  # without a sign from the server that its client waits at
MAX_ATTEMPTS: Final = 2
LOST_TWICE: Final = LegError(
    "internal_error", "The server ended twice while this step was under way.", 500, "Start the plan again."
)


class LostRun(Exception):
    """It is held by somebody else, or was ended."""


@dataclass(slots=True)
class Taken:
    """A run to be worked on. `attempts`: calls of each leg that were begun so far."""

    plan: Plan
    known: dict[str, LegResult] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    lost_nano: int | None = None


def dollars(nano: int | None) -> Decimal | None:
    return None if nano is None else Decimal(nano).scaleb(-9)


def nano(amount: Decimal | None) -> int | None:
    return None if amount is None else int(amount.scaleb(9))


def _lease(holder: str) -> datetime:
    return timezone.now() + timedelta(seconds=DURABLE_LEASE_SECONDS if holder == DURABLE else LEASE_SECONDS)


def begin(
    plan: Plan, key: KeyRecord, *, holder: str, host: str, is_background: bool, is_followed: bool = False
) -> None:
    """Without a holder it is queued. Of a run that ends with its client's connection, nothing is kept that was said;
    if it is followed, because others take its steps, until it has ended."""
    now = timezone.now()
    PlanRun.objects.create(
        id=UUID(plan.id),
        state=RunState.RUNNING if holder else RunState.QUEUED,
        mode=plan.directive.mode,
        is_background=is_background,
        api_key_id=key.id,
        api_key_name=key.name,
        project=key.project,
        created_at=now,
        expires_at=now + timedelta(hours=settings.TOKENHUB_PLAN_RETENTION_HOURS),
        estimated_cost_usd=dollars(plan.estimated_cost_nano),
        holder=holder,
        host=host,
        lease_until=_lease(holder) if holder else now,
        client_until=now + timedelta(seconds=CLIENT_SECONDS) if is_followed else None,
        sealed_plan=seal(plan, run_id=plan.id, place="plan") if is_background or is_followed else None,
    )


def held_run(run_id: str, holder: str) -> PlanRun:
    """To be called in a transaction. Raises LostRun."""
    found = PlanRun.objects.select_for_update().filter(pk=run_id, holder=holder, state=RunState.RUNNING).first()
    if found is None:
        raise LostRun
    return found


@transaction.atomic
def advance(
    run_id: str,
    *,
    holder: str,
    result: LegResult | None,
    following: Sequence[Due],
    attempts: Mapping[str, int],
    cost_nano: int | None = None,
    is_kept: bool,
) -> None:
    """Keeps what came of a leg, and which are called next. `cost_nano`: of the run so far. `is_kept`: with what was
    said. Raises LostRun."""
    changed = update(
        PlanRun,
        where={"id": UUID(run_id), "holder": holder, "state": RunState.RUNNING},
        changes={"cost_usd": dollars(cost_nano), "lease_until": _lease(holder)},
    )
    if not changed:
        raise LostRun
    if result is not None:
        keep_result(UUID(run_id), result, is_kept=is_kept)
    add_legs(UUID(run_id), following, attempts)


def keep_result(run_id: UUID, result: LegResult, *, is_kept: bool) -> None:
    update(
        PlanLeg,
        where={"run": run_id, "request_id": UUID(result.request_id)},
        changes={
            "state": LegState.COMPLETED if result.error is None else LegState.FAILED,
            "model_id": result.model[:200],
            "provider_id": result.provider[:200],
            "finished_at": timezone.now(),
            "latency_ms": result.latency_ms,
            "input_tokens": result.input_tokens,
            "output_tokens": result.output_tokens,
            "cost_usd": dollars(result.cost_nano),
            "error_code": result.error.code if result.error is not None else "",
            "sealed_result": seal(result, run_id=run_id, place=result.name) if is_kept else None,
        },
    )


def add_legs(run_id: UUID, due: Sequence[Due], attempts: Mapping[str, int]) -> None:
    now = timezone.now()
    for leg, request_id in due:
        insert(
            PlanLeg(
                run_id=run_id,
                name=leg.name,
                attempt=attempts.get(leg.name, 0) + 1,
                role=leg.role,
                model_id=leg.model,
                request_id=UUID(request_id),
                started_at=now,
            )
        )


@transaction.atomic
def finish(run_id: str, *, holder: str, outcome: Outcome) -> None:
    """Raises LostRun."""
    run = held_run(run_id, holder)
    match outcome.step:
        case Done():
            run.state, run.is_partial = RunState.COMPLETED, outcome.step.is_partial
        case Failed():
            run.state, run.error_code = RunState.FAILED, outcome.step.error.code
    run.cost_usd = dollars(outcome.cost_nano)
    if run.is_kept:
        run.sealed_outcome = seal(outcome, run_id=run_id, place="outcome")
    _close(run)


@transaction.atomic
def cancel(run_id: UUID | str, *, key_id: str = "", holder: str = "") -> PlanRun | None:
    """Ends an open run, whoever holds it: its holder will notice. `holder`: only as this one. None: there is none."""
    mine = {"api_key_id": key_id} if key_id else {}
    run = PlanRun.objects.select_for_update().filter(pk=run_id, **mine).first()
    if run is not None and run.state in OPEN_STATES and holder in {"", run.holder}:
        run.state = RunState.CANCELLED
        run.legs.filter(state=LegState.RUNNING).update(state=LegState.CANCELLED, finished_at=timezone.now())
        _close(run)
        if run.client_until is not None:
            forget(run.pk)
    return run


def forget(run_id: UUID | str) -> None:
    """What was asked and said in a run that its client, or nobody any more, waits for."""
    PlanRun.objects.filter(pk=run_id).update(sealed_plan=None, sealed_outcome=None, client_until=None)
    PlanLeg.objects.filter(run_id=UUID(str(run_id))).update(sealed_result=None)


def _close(run: PlanRun) -> None:
    run.finished_at, run.holder, run.lease_until = timezone.now(), "", None
    run.save()


# -- leases ------------------------------------------------------------------------------------------------------------
def tend(runs: Collection[str], *, holder: str) -> set[str]:
    """Renews the leases of runs that this process works on. Those that it still holds."""
    mine = PlanRun.objects.filter(pk__in=list(runs), holder=holder, state=RunState.RUNNING)
    mine.update(lease_until=_lease(holder))
    return {str(one) for one in mine.values_list("pk", flat=True)}


def cancelled(runs: Collection[str]) -> set[str]:
    """Those of them that somebody cancelled."""
    if not runs:
        return set()
    found = PlanRun.objects.filter(pk__in=list(runs), state=RunState.CANCELLED)
    return {str(one) for one in found.values_list("pk", flat=True)}


def release(*, holder: str) -> None:
    """Of a process that ends: others may go on at once."""
    PlanRun.objects.filter(holder=holder, state=RunState.RUNNING).update(holder="", lease_until=timezone.now())


def forsake(run_id: str = "") -> None:
    """Of runs that Temporal drives: this one, or all that show no sign of it any more. Others may go on at once."""
    runs = PlanRun.objects.filter(holder=DURABLE, state=RunState.RUNNING)
    if run_id:
        runs = runs.filter(pk=run_id)
    else:
        silent = timezone.now() + timedelta(seconds=DURABLE_LEASE_SECONDS - FORSAKEN_SECONDS)
        runs = runs.filter(lease_until__lte=silent)
    runs.update(lease_until=timezone.now())


def take(
    *,
    holder: str,
    host: str,
    living: Callable[[], Collection[str]],
    most: int,
    unreadable: set[str],
    mine: Collection[str] = (),
) -> list[Taken]:
    """Runs that nobody works on, at most so many; from now on they are this process's. Of this host it is known which
    processes live; whoever is elsewhere lives until its lease is over. `mine`: what this process works on."""
    candidates = _open(host).exclude(pk__in=[*unreadable, *mine]).order_by("created_at")
    seen = list(candidates.values_list("pk", "holder"))
    alive = living() if seen else ()  # after the look: a process has a journal before it has a run
    taken: list[Taken] = []
    for pk, whose in seen:
        if len(taken) >= most:
            break
        try:
            one = _take(pk, whose, holder=holder, host=host, is_alive=whose in alive)
        except Damaged:
            log.error("plan_run_unreadable", plan=str(pk), hint="Do all hosts have the same TOKENHUB_SECRET_KEY?")
            unreadable.add(str(pk))
            continue
        if one is not None:
            taken.append(one)
    return taken


def _open(host: str) -> QuerySet[PlanRun]:
    return PlanRun.objects.filter(Q(host=host) | Q(lease_until__lte=timezone.now()), state__in=OPEN_STATES)


@transaction.atomic
def _take(pk: UUID, whose: str, *, holder: str, host: str, is_alive: bool) -> Taken | None:
    run = _open("" if is_alive else host).select_for_update().filter(pk=pk, holder=whose).first()
    if run is None:
        return None
    lose_legs(run.legs.all())
    if not run.is_kept:  # its client's connection ended with its worker
        run.state, run.error_code = RunState.FAILED, "internal_error"
        _close(run)
        return None
    taken = read_run(run)
    run.resumed += run.state == RunState.RUNNING
    run.state, run.holder, run.host, run.lease_until = RunState.RUNNING, holder, host, _lease(holder)
    run.cost_usd = paid(run)
    run.save()
    return taken


def paid(run: PlanRun) -> Decimal | None:
    """For all its legs, also those that were lost."""
    costs = [one.cost_usd for one in run.legs.all() if one.cost_usd is not None]
    return sum(costs, Decimal(0)) if costs else None


def lose_legs(legs: QuerySet[PlanLeg]) -> None:
    """What was under way when its worker died. Perhaps its answer had come, and was paid for: the log knows."""
    under_way = list(legs.filter(state=LegState.RUNNING))
    rows = RequestLog.objects.filter(request_id__in=[leg.request_id for leg in under_way])
    costs = dict(rows.values_list("request_id", "cost_usd"))
    for leg in under_way:
        leg.state, leg.finished_at, leg.cost_usd = LegState.LOST, timezone.now(), costs.get(leg.request_id)
        leg.save()


def read_run(run: PlanRun) -> Taken:
    """Raises Damaged."""
    if run.sealed_plan is None:
        raise Damaged
    taken = Taken(unseal(run.sealed_plan, Plan, run_id=run.pk, place="plan"))
    lost: list[int] = []
    for leg in run.legs.order_by("id"):
        taken.attempts[leg.name] = max(leg.attempt, taken.attempts.get(leg.name, 0))
        if leg.sealed_result is not None:
            taken.known[leg.name] = unseal(leg.sealed_result, LegResult, run_id=run.pk, place=leg.name)
        elif leg.state == LegState.LOST:
            if (cost := nano(leg.cost_usd)) is not None:
                lost.append(cost)
            if leg.attempt >= MAX_ATTEMPTS:
                taken.known[leg.name] = LegResult(leg.name, leg.role, model=leg.model_id, error=LOST_TWICE)
    taken.lost_nano = sum(lost) if lost else None
    return taken


def prune() -> int:
    """What is kept no longer. How many runs."""
    return PlanRun.objects.filter(expires_at__lte=timezone.now()).delete()[1].get("orchestration.PlanRun", 0)
