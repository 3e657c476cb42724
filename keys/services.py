"""Every change of client keys. Admin, commands and the API call these and nothing else. Field errors come as Django's
ValidationError."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import transaction

from keys.auth import digest_of
from keys.models import Budget, ClientKey, Every, Project, Subject

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
    enabled: bool = True,
    expires_at: datetime | None = None,
) -> IssuedKey:
    """Raises ValidationError."""
    record = ClientKey(
        name=name,
        owner=owner,
        project=project,
        tags=list(tags),
        scopes=list(scopes),
        allowed_models=list(allowed_models),
        allow_fallback=allow_fallback,
        allow_directives=allow_directives,
        enabled=enabled,
        expires_at=expires_at,
    )
    return reissue(key=record)


def reissue(*, key: ClientKey) -> IssuedKey:
    """A fresh secret for a key, saved or not; the old one is refused from now on. Raises ValidationError."""
    plaintext = "tokenhub_" + secrets.token_hex(32)
    key.digest = digest_of(plaintext.encode("ascii"))
    key.key_prefix = plaintext[:SHOWN_PREFIX_LENGTH]
    save(key=key)
    return IssuedKey(key, plaintext)


@transaction.atomic
def save(*, key: ClientKey) -> None:
    """Raises ValidationError."""
    key.full_clean()
    key.save()


def revoke(*, key: ClientKey) -> None:
    """The key stays in the list, and is refused."""
    key.enabled = False
    save(key=key)


@transaction.atomic
def delete(*, key: ClientKey) -> None:
    for budget in Budget.objects.filter(subject=Subject.KEY, subject_id=str(key.pk)):
        budget.delete()
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
    found = Budget.objects.select_for_update().filter(subject=subject, subject_id=subject_id).first()
    if amount_usd is None:
        if found is not None:
            found.delete()
        return
    budget = found or Budget(subject=subject, subject_id=subject_id)
    budget.amount_usd, budget.every = amount_usd, every
    save_budget(budget=budget)


def delete_budget(*, budget: Budget) -> None:
    budget.delete()


# -- projects --------------------------------------------------------------------------------------------------------
@transaction.atomic
def save_project(*, project: Project) -> None:
    """A new name goes along to its keys and its budget. Raises ValidationError."""
    project.full_clean()
    before = Project.objects.select_for_update().filter(pk=project.pk).first()
    project.save()
    if before is not None and before.name != project.name:
        for key in ClientKey.objects.select_for_update().filter(project=before.name):
            key.project = project.name
            key.save()
        for budget in Budget.objects.filter(subject=Subject.PROJECT, subject_id=before.name):
            budget.subject_id = project.name
            budget.save()


@transaction.atomic
def delete_project(*, project: Project) -> None:
    """Its keys stay, without it."""
    for key in ClientKey.objects.select_for_update().filter(project=project.name):
        key.project = ""
        key.save()
    for budget in Budget.objects.filter(subject=Subject.PROJECT, subject_id=project.name):
        budget.delete()
    project.delete()
