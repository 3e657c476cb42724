"""Who would notice if models, providers, aliases or modes went, in sentences for the page that asks first. Synchronous
Django: a few queries, whatever the number of rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from keys.models import ClientKey
from routing.models import AliasVariant, RoutingDefaults

NAMED = 3


def of_models(ids: Collection[str]) -> list[str]:
    variants = AliasVariant.objects.filter(alias__in=AliasVariant.objects.filter(model__in=ids).values("alias"))
    left: dict[str, int] = {}
    for alias, model, is_shadow in variants.values_list("alias_id", "model_id", "is_shadow"):
        left[alias] = left.get(alias, 0) + (model not in ids and not is_shadow)
    told = []
    if left:
        told.append(_told(sorted(left), "alias uses", "aliases use", _it(ids)))
    if orphans := sorted(alias for alias, count in left.items() if not count):
        told.append(f"{_named(orphans)} would have nobody left to answer.")
    return told + _of_keys(ids, _it(ids))


def of_aliases(names: Collection[str]) -> list[str]:
    return _of_keys(names, _it(names))


def of_profiles(names: Collection[str]) -> list[str]:
    mode = RoutingDefaults.current().effective()["default_mode"][0]
    return [f"{mode} is the default mode."] if mode in names else []


def _of_keys(names: Collection[str], them: str) -> list[str]:
    wanted = set(names)
    rows = ClientKey.objects.lasting().filter(enabled=True).exclude(allowed_models=[])
    keys = [name for name, allowed in rows.values_list("name", "allowed_models") if wanted & set(allowed)]
    return [_told(sorted(keys), "client key lists", "client keys list", them)] if keys else []


def _it(names: Collection[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _told(names: Sequence[str], one: str, several: str, them: str) -> str:
    return f"{len(names)} {one if len(names) == 1 else several} {them}: {_named(names)}."


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
