"""Budgets in the database: leases out of them, what was charged, what comes back. Every method is one transaction; the
row of a period is locked first, so that its sums are right whoever else is at it.

Of a period, settled + leased never exceeds the budget when a lease is granted. A lease ends in one of two ways: its
process gives the rest back and its last charges come in by the journal; or the process dies, its journal is read to the
end, and then the rest is returned."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from math import inf
from pathlib import Path
from secrets import token_hex
from typing import Final
from uuid import uuid4

from django.db import DatabaseError, IntegrityError, transaction
from django.utils import timezone

from keys.calendar import Every, span_of
from keys.ledger import BudgetGone, Grant, OutcomeUnknown, Return
from keys.models import NANO, Budget, BudgetPeriod, Lease
from telemetry import webhooks
from telemetry.journal import Entry, living_holders
from telemetry.logs import EventLogger

log = EventLogger(__name__)
LEASED_SHARE: Final = 16  # of what is left, a lease takes no more than one part, if that is enough
ALERTS: Final = (50, 80, 100)  # percent


class DatabaseBank:
    """`holder`: this process; `host`: whoever reads its journal."""

    def __init__(self, *, holder: str, host: str) -> None:
        self._holder = holder
        self._host = host

    def grant(self, budget_id: int, lease: str, *, most: int, least: int, have: int = 0) -> Grant:
        """For the lease, or for a new one where it is empty or of another period. `have` is what the lease had free:
        it is handed in, so that nobody sits on a part of what another one waits for. Raises BudgetGone,
        OutcomeUnknown."""
        try:
            with _committed():
                return self._granted(budget_id, lease, most, least, have)
        except IntegrityError:  # it was deleted while this waited for its period
            if Budget.objects.filter(pk=budget_id).exists():
                raise
            raise BudgetGone from None

    def _granted(self, budget_id: int, lease: str, most: int, least: int, have: int) -> Grant:
        budget = Budget.objects.filter(pk=budget_id).first()
        if budget is None:
            raise BudgetGone
        period = current_period(budget, timezone.now())
        mine = Lease.objects.select_for_update().filter(pk=lease or None, period=period, is_closed=False).first()
        handed_in = have if mine is not None else 0
        left = budget.amount_nano - period.settled_nano - period.leased_nano
        elsewhere = period.leased_nano - (mine.remaining_nano if mine is not None else 0)
        whole = left + handed_in
        amount = min(whole, max(most, handed_in + max(left, 0) // LEASED_SHARE)) if whole >= least else 0
        if amount < most and elsewhere:
            period.recalled_at = timezone.now()
        if mine is None:
            mine = Lease(id=uuid4().hex, period=period, holder=self._holder, host=self._host)
        mine.remaining_nano += amount - handed_in
        period.leased_nano += amount - handed_in
        mine.save()
        period.save()
        return Grant(
            mine.id,
            period.id,
            period.starts_at.timestamp(),
            period.ends_at.timestamp() if period.ends_at is not None else inf,
            amount,
            handed_in,
            mine.remaining_nano,
            period.settled_nano,
            elsewhere,
        )

    def give_back(self, one: Return) -> None:
        """Raises OutcomeUnknown; then it must not be given back again."""
        with _committed():
            lease = Lease.objects.filter(pk=one.lease).first()
            if lease is None:
                return
            period = BudgetPeriod.objects.select_for_update().filter(pk=lease.period_id).first()
            lease = Lease.objects.filter(pk=one.lease).first()
            if period is None or lease is None:
                return
            lease.remaining_nano -= one.amount
            lease.is_closed = lease.is_closed or one.is_last
            period.leased_nano -= one.amount
            period.save()
            _keep_or_drop(lease)


@contextlib.contextmanager
def _committed() -> Iterator[None]:
    """A transaction. Raises OutcomeUnknown where the connection broke in the midst of its commit."""
    is_committing = False
    try:
        with transaction.atomic():
            yield
            is_committing = True
    except DatabaseError as problem:
        if is_committing and not isinstance(problem, IntegrityError):  # which is a refusal
            raise OutcomeUnknown(*problem.args) from problem
        raise


def current_period(budget: Budget, now: datetime) -> BudgetPeriod:
    """Locked. To be called in a transaction."""
    span = span_of(Every(budget.every), now, timezone.get_default_timezone())
    period, _ = BudgetPeriod.objects.select_for_update().get_or_create(
        budget=budget, every=budget.every, starts_at=span.starts_at, defaults={"ends_at": span.ends_at}
    )
    return period


def recalled(periods: Collection[int], since: datetime) -> list[int]:
    """Of which other processes need what is free."""
    found = BudgetPeriod.objects.filter(pk__in=list(periods), recalled_at__gt=since)
    return list(found.values_list("pk", flat=True))


def settled(periods: Collection[int]) -> dict[int, int]:
    return dict(BudgetPeriod.objects.filter(pk__in=list(periods)).values_list("pk", "settled_nano"))


# -- from the journal ------------------------------------------------------------------------------------------------
def book(entries: Sequence[Entry]) -> None:
    """The charges of requests that were not seen before. To be called in the transaction that takes them out of the
    journal: then each is booked once."""
    by_charged: defaultdict[tuple[str, int], int] = defaultdict(int)
    overruns: defaultdict[int, int] = defaultdict(int)
    for entry in entries:
        for charge in entry.charges:
            by_charged[charge.lease, charge.period] += charge.nano
            if charge.overrun:
                overruns[charge.period] += charge.overrun
                log.warning("budget_overrun", request=entry.id, model=entry.model, usd=f"{charge.overrun / NANO:.9f}")
    if not by_charged:
        return
    by_period: defaultdict[int, int] = defaultdict(int)
    by_lease: defaultdict[str, int] = defaultdict(int)
    for (name, pk), nano in by_charged.items():
        by_period[pk] += nano
        by_lease[name] += nano
    periods = {one.pk: one for one in _locked(by_period)}
    leases = {one.pk: one for one in Lease.objects.filter(pk__in=list(by_lease))}
    for name, nano in by_lease.items():
        if (lease := leases.get(name)) is not None:
            lease.remaining_nano -= nano
            if (period := periods.get(lease.period_id)) is not None:
                period.leased_nano -= nano
            _keep_or_drop(lease)
    for pk, period in periods.items():
        before = period.settled_nano
        period.settled_nano += by_period[pk]
        period.overrun_nano += overruns[pk]
        _alert(period, before)
        if overruns[pk]:
            webhooks.announce("budget_overrun", {**_told(period), "overrun_usd": overruns[pk] / NANO})
        period.save()


def _locked(periods: Iterable[int]) -> Iterable[BudgetPeriod]:
    found = BudgetPeriod.objects.select_for_update(of=("self",)).select_related("budget")
    return found.filter(pk__in=list(periods)).order_by("pk")


def _keep_or_drop(lease: Lease) -> None:
    if lease.is_closed and lease.remaining_nano <= 0:
        lease.delete()
    else:
        lease.save()


def _alert(period: BudgetPeriod, before: int) -> None:
    amount, usd = period.budget.amount_nano, f"{period.settled_nano / NANO:.6f}"
    for percent in ALERTS:
        edge = amount * percent // 100
        if before < edge <= period.settled_nano and percent > period.alerted_percent:
            period.alerted_percent = percent
            log.warning("budget_threshold", budget=str(period.budget), percent=percent, spent_usd=usd)
            webhooks.announce("budget_threshold", {**_told(period), "percent": percent})


def _told(period: BudgetPeriod) -> dict[str, object]:
    budget = period.budget
    return {
        "budget": str(budget),
        "subject": budget.subject,
        "subject_id": budget.subject_id,
        "amount_usd": float(budget.amount_usd),
        "spent_usd": period.settled_nano / NANO,
        "period": period.every,
        "starts_at": period.starts_at.isoformat(),
        "ends_at": period.ends_at.isoformat() if period.ends_at else None,
    }


def sweep(folder: Path) -> None:
    release_dead(folder, host_of(folder))


def release_dead(folder: Path, host: str) -> int:
    """Leases of this host's processes that are gone, and whose journals were read to the end. How many they were."""
    names = list(Lease.objects.filter(host=host).values_list("holder", flat=True).distinct())
    if not names:
        return 0
    living = living_holders(folder)  # after the leases: a process has a journal before it has a lease
    return sum(_release(holder) for holder in names if holder not in living)


@transaction.atomic
def _release(holder: str) -> int:
    leases = list(Lease.objects.filter(holder=holder))
    periods = {one.pk: one for one in _locked({lease.period_id for lease in leases})}
    leases = list(Lease.objects.filter(holder=holder))
    rest: defaultdict[int, int] = defaultdict(int)
    for lease in leases:
        rest[lease.period_id] += lease.remaining_nano
        lease.delete()
    for pk, nano in rest.items():
        periods[pk].leased_nano -= nano
        periods[pk].save()
    return len(leases)


def release_host(host: str) -> int:
    """Of a host that never comes back: what its journals still hold is lost. How many leases they were."""
    names = list(Lease.objects.filter(host=host).values_list("holder", flat=True).distinct())
    return sum(_release(holder) for holder in names)


def leased_by_host(budget: Budget) -> dict[str, int]:
    """Who holds what of it, in nano-dollars."""
    hosts: defaultdict[str, int] = defaultdict(int)
    for lease in Lease.objects.filter(period__budget=budget):
        hosts[lease.host] += lease.remaining_nano
    return dict(hosts)


def host_of(folder: Path) -> str:
    """A name for the processes that share a journal folder; made with the first of them."""
    path = folder / "host"
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        pass
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = folder / f"host.{token_hex(4)}"
    fresh.write_text(token_hex(8), encoding="ascii")
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(fresh)  # whoever is first wins
    fresh.unlink()
    return path.read_text(encoding="ascii")
