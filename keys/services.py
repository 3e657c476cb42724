"""Every change of client keys. Admin, commands and the API call these and nothing else. Field errors come as Django's
ValidationError."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from keys import calendar
from keys.auth import digest_of
from keys.calendar import span_of
from keys.models import Budget, BudgetPeriod, ClientKey, Every, Project, Subject
from telemetry import audit, webhooks
from tokenhub import turn

DUE_SECONDS: Final = 300.0
SHOWN_PREFIX_LENGTH = 17  # `tokenhub_` and eight digits: enough to tell keys apart, useless to a thief


@dataclass(frozen=True, slots=True, repr=False)
class IssuedKey:
    """A key as its owner sees it, once: only its digest is stored."""

    record: ClientKey
    plaintext: str

    def __repr__(self) -> str:
        return f"<IssuedKey {self.record}>"


def issue(
    *,
    name: str,
    owner: str = "",
    project: str = "",
    tags: Sequence[str] = (),
    scopes: Sequence[str] = (),
    allowed_models: Sequence[str] = (),
    allow_fallback: bool = True,
    allow_directives: bool = True,
    capture: bool = False,
    enabled: bool = True,
    expires_at: datetime | None = None,
    rotation_days: int | None = None,
    **limits: float | None,
) -> IssuedKey:
    """`limits`: some of LIMIT_FIELDS. Raises ValidationError."""
    record = ClientKey(
        name=name,
        owner=owner,
        project=project,
        tags=list(tags),
        scopes=list(scopes),
        allowed_models=list(allowed_models),
        allow_fallback=allow_fallback,
        allow_directives=allow_directives,
        capture=capture,
        enabled=enabled,
        expires_at=expires_at,
        rotation_days=rotation_days,
        **limits,
    )
    return reissue(key=record)


class SecretChanged(Exception):
    """The key has another secret than the one that it had when it was read, or was deleted."""


@transaction.atomic
def reissue(*, key: ClientKey, grace: timedelta | None = None) -> IssuedKey:
    """A fresh secret for a key, saved or not; the old one is refused from now on, or after the grace. One that was in
    its grace already is refused at once. Of a key that was read before, only the secret is taken as it was read. Raises
    ValidationError, SecretChanged."""
    is_new = key._state.adding  # noqa: SLF001  Django's interface
    if not is_new:
        read = key.digest
        if not _read_again(key) or key.digest != read:
            raise SecretChanged
    now = timezone.now()
    key.old_digest, key.old_digest_until = (key.digest, now + grace) if grace and key.digest else ("", None)
    key.rotated_at = now
    plaintext = "tokenhub_" + secrets.token_hex(32)
    key.digest = digest_of(plaintext.encode("ascii"))
    key.key_prefix = plaintext[:SHOWN_PREFIX_LENGTH]
    if is_new:
        key.full_clean()  # what is there already may be older than a rule, and must get its secret nonetheless
    with audit.doing("apikey.issue" if is_new else "apikey.rotate"):
        key.save()
    return IssuedKey(key, plaintext)


@transaction.atomic
def save(*, key: ClientKey) -> None:
    """Raises ValidationError."""
    key.full_clean()
    key.save()


def tell_due(now: datetime) -> int:
    """Publishes key_rotation_due of each key that is due, once for each due date whoever else looks. How many."""
    told = 0
    for key in ClientKey.objects.due(now):
        due_at = key.rotation_due_at
        with transaction.atomic():
            turn.take()
            untold = ClientKey.objects.filter(Q(rotation_told_for=None) | ~Q(rotation_told_for=due_at), pk=key.pk)
            if not untold.update(rotation_told_for=due_at):
                continue
            data = {
                "api_key_id": str(key.pk),
                "api_key_name": key.name,
                "api_key_prefix": key.key_prefix,
                "owner": key.owner,
                "project": key.project,
                "due_at": due_at.isoformat() if due_at is not None else None,
            }
            webhooks.announce("key_rotation_due", data)
            told += 1
    return told


@transaction.atomic
def revoke(*, key: ClientKey) -> None:
    """The key stays in the list, and is refused. One that was deleted meanwhile stays so."""
    if not _read_again(key):
        return
    key.enabled = False
    with audit.doing("apikey.revoke"):
        key.save()  # whatever rules there are by now


def _read_again(key: ClientKey) -> bool:
    """In its turn: whoever read it before may have seen what is no longer so. Whether it is there."""
    turn.take()
    try:
        key.refresh_from_db(from_queryset=ClientKey.objects.select_for_update(no_key=True))
    except ClientKey.DoesNotExist:
        return False
    return True


@transaction.atomic
def delete(*, key: ClientKey) -> None:
    turn.take()
    for budget in Budget.objects.filter(subject=Subject.KEY, subject_id=str(key.pk)):
        delete_budget(budget=budget)
    key.delete()


# -- budgets ---------------------------------------------------------------------------------------------------------
@transaction.atomic
def save_budget(*, budget: Budget) -> None:
    """Raises ValidationError."""
    budget.full_clean()
    budget.save()


@transaction.atomic
def set_budget(*, subject: str, subject_id: str = "", amount_usd: Decimal | None, every: str = Every.MONTH) -> None:
    """The only one of that subject; None: there is none. A changed period begins a count of its own. Raises
    ValidationError."""
    turn.take()
    found = Budget.objects.select_for_update().filter(subject=subject, subject_id=subject_id).first()
    if amount_usd is None:
        if found is not None:
            delete_budget(budget=found)
        return
    budget = found or Budget(subject=subject, subject_id=subject_id)
    budget.amount_usd, budget.every = amount_usd, every
    save_budget(budget=budget)


@transaction.atomic
def delete_budget(*, budget: Budget) -> None:
    lock_money(Budget.objects.filter(pk=budget.pk))
    budget.delete()


def lock_money(budgets: QuerySet[Budget]) -> None:
    """For whoever is about to delete them, before the first of them: the periods of all in one order, and before their
    leases, as whoever spends locks them. A period that is made meanwhile refers to a locked budget, and cannot be
    committed before this is."""
    turn.take()
    locked = list(budgets.select_for_update().order_by("pk").values_list("pk", flat=True))
    list(BudgetPeriod.objects.select_for_update().filter(budget__in=locked).order_by("pk").values_list("pk"))


# -- projects --------------------------------------------------------------------------------------------------------
@transaction.atomic
def save_project(*, project: Project) -> None:
    """Raises ValidationError."""
    project.full_clean(validate_unique=project._state.adding)  # noqa: SLF001  Django's documented interface
    project.save()


@transaction.atomic
def delete_project(*, project: Project) -> None:
    """Its keys stay, without it."""
    turn.take()
    for key in ClientKey.objects.select_for_update().filter(project=project.name):
        key.project = ""
        key.save()
    for budget in Budget.objects.filter(subject=Subject.PROJECT, subject_id=project.name):
        delete_budget(budget=budget)
    project.delete()


# -- how budgets stand -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Standing:
    """Of a budget in the period that is now, in dollars. `resets_at`: None for a budget without periods."""

    budget: Budget
    spent_usd: Decimal
    leased_usd: Decimal
    overrun_usd: Decimal
    resets_at: datetime | None

    @property
    def percent(self) -> float:
        return float(100 * self.spent_usd / self.budget.amount_usd) if self.budget.amount_usd else 100.0


def standings(budgets: Iterable[Budget]) -> list[Standing]:
    """In their order."""
    now, zone = timezone.now(), timezone.get_default_timezone()
    listed = list(budgets)
    spans = {one.pk: span_of(calendar.Every(one.every), now, zone) for one in listed}
    rows = BudgetPeriod.objects.filter(budget__in=listed, starts_at__in={span.starts_at for span in spans.values()})
    found = {(row.budget_id, row.every, row.starts_at): row for row in rows}
    standing = []
    for one in listed:
        span = spans[one.pk]
        row = found.get((one.pk, one.every, span.starts_at)) or BudgetPeriod()
        spent, leased, overrun = (
            Decimal(nano).scaleb(-9) for nano in (row.settled_nano, row.leased_nano, row.overrun_nano)
        )
        standing.append(Standing(one, spent, leased, overrun, span.ends_at))
    return standing


def standings_of(subject: str, ids: Iterable[str]) -> dict[str, Standing]:
    """By the subject's id, of those that have a budget."""
    budgets = Budget.objects.filter(subject=subject, subject_id__in=list(ids))
    return {one.budget.subject_id: one for one in standings(budgets)}
