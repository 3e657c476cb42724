"""The configuration as one JSON document: out, and in again. Secrets stay behind. An import creates what is missing and
changes what differs, by the same serializers and services as the API; what the document does not name stays.

    {"version": 1, "providers": [...], "models": [...], ..., "routing_config": {...}, "budget": {...} or null}

Client keys come with their settings and without a secret: one that is not there yet works when it was rotated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model as Row
from django.db.models import QuerySet
from django.db.utils import DataError, IntegrityError
from django.utils.dateparse import parse_datetime
from rest_framework import exceptions, serializers

from keys import services as keys
from keys.models import ClientKey, Every, Project, Subject
from keys.serializers import BudgetSerializer, KeySettingsSerializer, ProjectSerializer
from providers.models import Provider
from providers.serializers import ProviderSerializer
from routing.models import DEFAULT_FIELDS, Alias, Model, Price, RoutingDefaults, RoutingProfile
from routing.serializers import (
    AliasSerializer,
    DefaultsSerializer,
    ModelSettingsSerializer,
    PriceSettingsSerializer,
    ProfileSerializer,
)
from telemetry.models import Webhook
from telemetry.serializers import WebhookSettingsSerializer
from tokenhub import turn
from tokenhub.apierrors import leaves
from vault.errors import VaultError

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Section:
    """A list of the document. `key`: what its rows are known by. `defaults`: an item is the whole row, and what it
    leaves out has these values; none: it may be a part. `only`: what rows of the configuration have."""

    name: str
    model: type[Row]
    serializer: type[serializers.Serializer[Any]]
    key: tuple[str, ...] = ("id",)
    left_out: tuple[str, ...] = ()
    only: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] | None = None

    def rows(self) -> QuerySet[Row]:
        return self.model._default_manager.filter(**(self.only or {})).order_by("pk")  # noqa: SLF001

    def shown(self, row: Row) -> dict[str, Any]:
        """What an import could set."""
        serializer = self.serializer(row)
        for name, field in list(serializer.fields.items()):
            if field.read_only or field.write_only or name in self.left_out:
                serializer.fields.pop(name)
        return dict(serializer.data)

    def find(self, item: Mapping[str, Any], *, lock: bool = False) -> Row | None:
        """The row that an item means. Raises ValidationError when the item does not say."""
        wanted = {}
        for name in self.key:
            value = item.get(name)
            if value is None or isinstance(value, (list, dict)) or "\0" in str(value):
                raise exceptions.ValidationError({name: ["It tells which one is meant: it is needed."]})
            wanted[name] = _KEYS.get(name, str)(value)
        if None in wanted.values():
            return None
        rows = self.model._default_manager.filter(**wanted)  # noqa: SLF001
        return rows.select_for_update(no_key=True).first() if lock else rows.first()


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        raise exceptions.ValidationError({"id": ["This is no UUID."]}) from None


def _moment(value: Any) -> Any:
    try:
        found = parse_datetime(str(value))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise exceptions.ValidationError({"starts_at": ["A moment such as 2026-01-31T00:00:00Z is needed."]})
    return found


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise exceptions.ValidationError({"above_input_tokens": ["A whole number is needed."]})
    return value


_KEYS: Final[dict[str, Callable[[Any], Any]]] = {"starts_at": _moment, "above_input_tokens": _whole}
_ALIAS: Final = {"enabled": True, "sticky_by": "request"}


class _ByUUID(Section):
    def find(self, item: Mapping[str, Any], *, lock: bool = False) -> Row | None:
        if "id" in item:
            _uuid(item["id"])
        return super().find(item, lock=lock)


SECTIONS: Final = (
    Section("providers", Provider, ProviderSerializer),
    Section("models", Model, ModelSettingsSerializer),
    Section("prices", Price, PriceSettingsSerializer, key=("model_id", "starts_at", "above_input_tokens")),
    Section("aliases", Alias, AliasSerializer, key=("name",), defaults=_ALIAS),
    Section("profiles", RoutingProfile, ProfileSerializer, key=("name",)),
    Section("projects", Project, ProjectSerializer, key=("name",), left_out=("monthly_budget_usd",)),
    _ByUUID(
        "apikeys", ClientKey, KeySettingsSerializer, left_out=("monthly_budget_usd",), only={"is_playground": False}
    ),
    _ByUUID("webhooks", Webhook, WebhookSettingsSerializer),
)
_SINGLE: Final = ("routing_config", "budget")
FIELDS: Final = ("version", *(one.name for one in SECTIONS), *_SINGLE)


@dataclass(frozen=True, slots=True)
class Problem:
    """`path` as clients write it: `models[3].weight`."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Item:
    """`action`: created, changed, unchanged, kept (it was there, and only new ones were wanted) or refused."""

    path: str
    id: str
    action: str
    problems: tuple[Problem, ...] = ()


class Refused(Exception):
    """The document cannot be taken over; nothing was changed."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


# -- out -------------------------------------------------------------------------------------------------------------
@transaction.atomic
def export() -> dict[str, Any]:
    """Of one moment. Raises DatabaseError."""
    lists = {section.name: [section.shown(row) for row in section.rows()] for section in SECTIONS}
    return {"version": VERSION, **lists, "routing_config": _routing_config(), "budget": _budget()}


def _routing_config() -> dict[str, Any]:
    found = RoutingDefaults.current()
    shown = DefaultsSerializer(found).data
    return {name: shown[name] if name in shown["overridden"] else None for name in DEFAULT_FIELDS}


def _budget() -> dict[str, Any] | None:
    known = keys.standings_of(Subject.INSTALLATION, [""]).get("")
    if known is None:
        return None
    shown = BudgetSerializer(known).data
    return {name: shown[name] for name in ("budget_usd", "budget_period")}


# -- in --------------------------------------------------------------------------------------------------------------
class _Undo(Exception):
    pass


def take(document: Any, *, dry_run: bool = False) -> list[Item]:
    """All of it or nothing. Raises Refused, DatabaseError."""
    _check_outside(document)
    items: list[Item] = []
    problems: list[Problem] = []
    try:
        with transaction.atomic():
            items = list(take_each(document))
            problems = [problem for item in items for problem in item.problems]
            if problems or dry_run:
                raise _Undo
    except _Undo:
        if problems:
            raise Refused(problems) from None
    return items


def _check_outside(document: Any) -> None:
    if not isinstance(document, dict):
        raise Refused([Problem("", "The configuration must be a JSON object.")])
    found = [
        Problem(str(name), f"Not known here. Known: {', '.join(FIELDS)}.") for name in document if name not in FIELDS
    ]
    if document.get("version", VERSION) != VERSION:
        found.append(Problem("version", f"Only version {VERSION} can be read."))
    lists = [one.name for one in SECTIONS]
    found += [Problem(name, "A list is needed.") for name in lists if not isinstance(document.get(name, []), list)]
    if found:
        raise Refused(found)


def take_each(document: Mapping[str, Any], *, only_new: bool = False, held: Collection[str] = ()) -> Iterator[Item]:
    """Each by itself: what cannot be taken is told and leaves nothing behind. `held`: paths to leave out."""
    for section in SECTIONS:
        for number, item in enumerate(document.get(section.name, ())):
            path = f"{section.name}[{number}]"
            if path not in held:
                yield _guarded(path, item, lambda item=item, section=section: _take(section, item, only_new))  # type: ignore[misc]
    for name, save in (("routing_config", _take_routing_config), ("budget", _take_budget)):
        if name in document:
            yield _guarded(name, document[name], lambda save=save, name=name: save(document[name]))  # type: ignore[misc]


def _guarded(path: str, item: Any, save: Callable[[], tuple[str, str]]) -> Item:
    try:
        with transaction.atomic():
            name, action = save()
    except (ValidationError, exceptions.ValidationError) as problem:
        found = [Problem(f"{path}.{inner}" if inner else path, text) for inner, text in leaves(problem)]
    except VaultError as problem:
        found = [Problem(path, problem.message)]
    except DataError:
        found = [Problem(path, "The database takes no such value.")]
    except IntegrityError:
        found = [Problem(path, "It does not fit what is there.")]
    else:
        return Item(path, name, action)
    shown = item.get("id") or item.get("name") if isinstance(item, dict) else ""
    return Item(path, str(shown or ""), "refused", tuple(found))


def _take(section: Section, item: Any, only_new: bool) -> tuple[str, str]:
    if not isinstance(item, dict):
        raise exceptions.ValidationError("A JSON object is needed.")
    data = item if section.defaults is None else {**section.defaults, **item}

    def is_there(row: Row | None) -> bool:
        before = section.shown(row) if row is not None else {}
        return all(one in before and before[one] == value for one, value in data.items())

    found = section.find(item)
    name = " ".join(str(item[one]) for one in section.key)
    if found is not None and only_new:
        return name, "kept"
    if is_there(found):  # holds nobody up
        return name, "unchanged"
    turn.take()
    found = section.find(item, lock=True)
    if is_there(found):
        return name, "unchanged"
    before = section.shown(found) if found is not None else None
    serializer = section.serializer(found, data=data, partial=found is not None and section.defaults is None)
    serializer.is_valid(raise_exception=True)
    after = section.shown(serializer.save())
    has_secret = any(field.write_only and one in item for one, field in serializer.fields.items())
    if before is None:
        return name, "created"
    return name, "unchanged" if before == after and not has_secret else "changed"


def _take_routing_config(item: Any) -> tuple[str, str]:
    before = _routing_config()
    if isinstance(item, dict) and all(name in before and before[name] == value for name, value in item.items()):
        return "", "unchanged"
    turn.take()
    RoutingDefaults.objects.get_or_create(pk=1)
    serializer = DefaultsSerializer(RoutingDefaults.objects.select_for_update(no_key=True).get(pk=1), data=item)
    serializer.is_valid(raise_exception=True)
    serializer.save()
    return "", "unchanged" if _routing_config() == before else "changed"


def _take_budget(item: Any) -> tuple[str, str]:
    before = _budget()
    if item == before:
        return "", "unchanged"
    if item is None:
        keys.set_budget(subject=Subject.INSTALLATION, amount_usd=None)
        return "", "changed"
    serializer = BudgetSerializer(data=item)
    serializer.is_valid(raise_exception=True)
    given = serializer.validated_data["budget"]
    keys.set_budget(subject=Subject.INSTALLATION, amount_usd=given["amount_usd"], every=given.get("every", Every.MONTH))
    return "", "created" if before is None else "changed"
