"""Tells the data plane that the configuration changed: a version in the database, raised in the change's transaction,
which every process polls; within this process the poller is woken as soon as the change is committed.

The version's row is also the turn of tokenhub/turn.py: it is raised, or locked, before any row is written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from django.db import connection, models, transaction
from django.db.models import F
from django.db.models.signals import m2m_changed, post_save, pre_delete, pre_save

from keys.models import Budget, ClientKey, Project
from providers.models import Provider
from routing.models import Alias, AliasVariant, ConfigVersion, Model, Price, RoutingDefaults, RoutingProfile
from tokenhub import turn
from vault.models import Secret

CHANGED = threading.Event()
WATCHED: tuple[type[models.Model], ...] = (
    Provider, Model, Price, Alias, AliasVariant, RoutingProfile, RoutingDefaults, ClientKey, Budget, Project, Secret,
)  # fmt: skip
# what the data plane does not read: saving only these is no change
_UNSEEN = frozenset({"last_used_at", "updated_at", "last_login"})


PROMPTS: list[Callable[[], Mapping[str, str]]] = []
"""Who has prompts for the snapshot, by their names; from above."""


def bump() -> None:
    """To be called inside the transaction of the change. Also needed after `QuerySet.update`, which sends no signal."""
    if not ConfigVersion.objects.filter(pk=1).update(version=F("version") + 1):
        ConfigVersion.objects.get_or_create(pk=1, defaults={"version": 1})
    transaction.on_commit(CHANGED.set)


def lock() -> None:
    """The version's row, until the transaction ends. SQLite has one writer at a time: there, a transaction that may
    write has its turn from its beginning."""
    if not (connection.in_atomic_block and connection.features.has_select_for_update):
        return
    if ConfigVersion.objects.select_for_update().filter(pk=1).first() is None:
        ConfigVersion.objects.get_or_create(pk=1)  # whoever makes it holds it, too


def _before_change(update_fields: frozenset[str] | None = None, **_: Any) -> None:
    if connection.in_atomic_block and not _is_unseen(update_fields):
        bump()


def _after_save(update_fields: frozenset[str] | None = None, **_: Any) -> None:
    """Of a row that is saved outside any transaction: nobody may see the version before the row."""
    if not connection.in_atomic_block and not _is_unseen(update_fields):
        bump()


def _before(update_fields: frozenset[str] | None = None, action: str = "pre_", **_: Any) -> None:
    if action.startswith("pre_") and not _is_unseen(update_fields):
        lock()


def _is_unseen(update_fields: frozenset[str] | None) -> bool:
    return update_fields is not None and update_fields <= _UNSEEN


def connect() -> None:
    turn.TAKEN[:] = [lock]
    for model in WATCHED:
        watch(model)


def watch(model: type[models.Model]) -> None:
    """Its rows are in the snapshot, too. Django deletes in a transaction always."""
    name = model.__name__
    pre_save.connect(_before_change, sender=model, dispatch_uid=f"config-save-{name}")
    post_save.connect(_after_save, sender=model, dispatch_uid=f"config-saved-{name}")
    pre_delete.connect(_before_change, sender=model, dispatch_uid=f"config-delete-{name}")


def in_turn(model: type[models.Model]) -> None:
    """Its rows are not in the snapshot, and are changed one after the other like those that are."""
    name = model.__name__
    pre_save.connect(_before, sender=model, dispatch_uid=f"turn-save-{name}")
    pre_delete.connect(_before, sender=model, dispatch_uid=f"turn-delete-{name}")
    for relation in model._meta.many_to_many:  # noqa: SLF001  Django's documented interface
        through: Any = getattr(model, relation.name).through
        m2m_changed.connect(_before, sender=through, dispatch_uid=f"turn-m2m-{relation}")
