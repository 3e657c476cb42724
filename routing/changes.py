"""Tells the data plane that the configuration changed: a version in the database, raised in the change's transaction,
which every process polls; within this process the poller is woken as soon as the change is committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from django.db import models, transaction
from django.db.models import F
from django.db.models.signals import post_delete, post_save

from keys.models import Budget, ClientKey, Project
from providers.models import Provider
from routing.models import Alias, AliasVariant, ConfigVersion, Model, Price, RoutingDefaults, RoutingProfile
from vault.models import Secret

CHANGED = threading.Event()
WATCHED: tuple[type[models.Model], ...] = (
    Provider, Model, Price, Alias, AliasVariant, RoutingProfile, RoutingDefaults, ClientKey, Budget, Project, Secret,
)  # fmt: skip
# what the data plane does not read: saving only these is no change
_UNSEEN = frozenset({"last_used_at", "updated_at"})


PROMPTS: list[Callable[[], Mapping[str, str]]] = []
"""Who has prompts for the snapshot, by their names; from above."""


def bump() -> None:
    """To be called inside the transaction of the change. Also needed after `QuerySet.update`, which sends no signal."""
    if not ConfigVersion.objects.filter(pk=1).update(version=F("version") + 1):
        ConfigVersion.objects.get_or_create(pk=1, defaults={"version": 1})
    transaction.on_commit(CHANGED.set)


def _on_change(update_fields: frozenset[str] | None = None, **_: Any) -> None:
    if update_fields is not None and update_fields <= _UNSEEN:
        return
    bump()


def connect() -> None:
    for model in WATCHED:
        watch(model)


def watch(model: type[models.Model]) -> None:
    """Its rows are in the snapshot, too."""
    post_save.connect(_on_change, sender=model, dispatch_uid=f"config-save-{model.__name__}")
    post_delete.connect(_on_change, sender=model, dispatch_uid=f"config-delete-{model.__name__}")
