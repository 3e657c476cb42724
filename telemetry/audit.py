"""The audit log: who changed what, from where, and what it was before. Entries are only ever added.

Each entry's hash is the SHA-256 of the previous hash and the entry's canonical JSON: whoever changes, removes or
inserts one breaks the chain, and `verify` says where. Whoever may write to the database could compute it all anew, so
each number and hash also goes to the server's log, which is to be kept elsewhere; `verify(expected=...)` compares.

Changes of rows are recorded by Django's signals, in the transaction of the change: no service can forget it. What
changes no row, such as unlocking the vault, calls `record`."""

from __future__ import annotations

import getpass
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from time import monotonic
from typing import Any, Final

from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError, connection, models, transaction
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save
from django.utils import timezone

from telemetry.logs import EventLogger
from telemetry.models import AuditEntry, AuditHead

log = EventLogger(__name__)
MASK: Final = "***"
FIRST: Final = "0" * 64
MAX_VALUE_CHARS: Final = 4000
_UNSEEN: Final = frozenset({"created_at", "updated_at", "last_used_at", "last_login", "date_joined"})
_SERVER: Final = "server"
_NOTHING: Final = "-"


# -- who does it -----------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Origin:
    """`source`: api, admin, command, socket or server. `user`: read when it is needed, for a view may set it late."""

    source: str
    actor: str = ""
    address: str = ""
    request_id: str = ""
    request: Any = None

    def who(self) -> str:
        return self.actor or str(getattr(self.request, "user", None) or "nobody")


def enter(one: Origin | None) -> None:
    """From here on in this context; for middleware, which has no block to put around a request."""
    _ORIGIN.set(one)


_ORIGIN: ContextVar[Origin | None] = ContextVar("audit_origin", default=None)
_DOING: ContextVar[str] = ContextVar("audit_doing", default="")
_default = Origin("command")


def serve() -> None:
    """This process is a server: what nobody asked for is its own doing."""
    _default.source, _default.actor = _SERVER, "tokenhub"


def origin() -> Origin:
    found = _ORIGIN.get()
    if found is not None:
        return found
    if not _default.actor:
        try:
            _default.actor = getpass.getuser()
        except (OSError, KeyError):
            _default.actor = "unknown"
    return _default


@contextmanager
def acting(one: Origin) -> Iterator[None]:
    """What happens inside is its doing."""
    token = _ORIGIN.set(one)
    try:
        yield
    finally:
        _ORIGIN.reset(token)


@contextmanager
def doing(action: str) -> Iterator[None]:
    """Names the change of a row inside: say, `apikey.rotate` in place of `apikey.upsert`."""
    token = _DOING.set(action)
    try:
        yield
    finally:
        _DOING.reset(token)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Rows that are saved inside are told of by an entry that is recorded by hand."""
    with doing(_NOTHING):
        yield


# -- writing ---------------------------------------------------------------------------------------------------------
def record(
    action: str, *, resource: str = "", name: str = "", changes: dict[str, Any] | None = None, actor: str = ""
) -> None:
    """Adds an entry, in the transaction that is open. `changes`: field to [before, after]. Raises DatabaseError."""
    who = origin()
    with transaction.atomic():
        AuditHead.objects.get_or_create(pk=1, defaults={"number": 0, "hash": FIRST})
        head = AuditHead.objects.select_for_update().get(pk=1)
        entry = AuditEntry(
            number=head.number + 1,
            created_at=timezone.now(),
            actor=(actor or who.who())[:200],
            source=who.source,
            source_address=who.address[:64],
            request_id=who.request_id,
            action=action,
            resource=resource[:300],
            resource_name=name[:300],
            changes=_canonical(changes or {}),
        )
        entry.hash = head.hash = hash_of(entry, head.hash)
        head.number = entry.number
        entry.save(force_insert=True)
        head.save()
        transaction.on_commit(
            lambda: log.info(
                "audit", number=entry.number, action=action, actor=entry.actor, resource=resource, hash=entry.hash
            )
        )


def hash_of(entry: AuditEntry, previous: str) -> str:
    told = {
        "number": entry.number,
        "created_at": entry.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
        **{name: getattr(entry, name) for name in AuditEntry.TOLD},
    }
    return sha256(previous.encode() + _canonical(told).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, cls=DjangoJSONEncoder, sort_keys=True, separators=(",", ":"))


# -- refusals --------------------------------------------------------------------------------------------------------
@dataclass
class Refusals:
    """Wrong passwords and tokens are recorded too, but a guesser must not fill the disk: one in ten seconds for each
    address, sixty a minute in all; how many were left out stands in the next one."""

    per_address_seconds: float = 10.0
    per_minute: int = 60
    _next: dict[str, float] = field(default_factory=dict)
    _minute: float = 0.0
    _count: int = 0
    _left_out: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, address: str, now: float) -> int | None:
        """How many were left out since the last one that was let in; None: leave this one out."""
        with self._lock:
            if now - self._minute >= 60:
                self._minute, self._count = now, 0
                self._next = {one: until for one, until in self._next.items() if until > now}
            if self._next.get(address, 0.0) > now or self._count >= self.per_minute:
                self._left_out += 1
                return None
            self._next[address] = now + self.per_address_seconds
            self._count += 1
            found, self._left_out = self._left_out, 0
            return found


_refusals = Refusals()


def refused(action: str, *, address: str = "", **told: Any) -> None:
    """A refusal: never fails, whatever the database does."""
    left_out = _refusals.take(address or origin().address, monotonic())
    if left_out is None:
        return
    changes = {name: [None, value] for name, value in told.items()}
    if left_out:
        changes["left_out_before"] = [None, left_out]
    try:
        record(action, changes=changes)
    except DatabaseError as problem:
        log.warning("audit_failed", action=action, error=type(problem).__name__)


# -- changes of rows -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Watch:
    noun: str
    masked: frozenset[str]


_watched: dict[type[models.Model], _Watch] = {}


def watch(model: type[models.Model], noun: str, *, masked: Iterable[str] = ()) -> None:
    """Every later change of such a row is recorded as `<noun>.upsert` or `<noun>.delete`. `masked`: fields whose values
    are not told, only that they changed; binary ones never are."""
    binary = {one.attname for one in model._meta.concrete_fields if isinstance(one, models.BinaryField)}  # noqa: SLF001
    _watched[model] = _Watch(noun, frozenset(masked) | binary)
    name = model._meta.label  # noqa: SLF001  Django's documented interface
    pre_save.connect(_before_save, sender=model, dispatch_uid=f"audit-before-{name}")
    post_save.connect(_after_save, sender=model, dispatch_uid=f"audit-save-{name}")
    pre_delete.connect(_before_delete, sender=model, dispatch_uid=f"audit-before-delete-{name}")
    post_delete.connect(_after_delete, sender=model, dispatch_uid=f"audit-delete-{name}")
    for relation in model._meta.many_to_many:  # noqa: SLF001
        m2m_changed.connect(
            _members_changed, sender=getattr(model, relation.name).through, dispatch_uid=f"audit-m2m-{relation}"
        )


def _before_save(sender: type[models.Model], instance: Any, raw: bool = False, **_: Any) -> None:
    if raw:
        return
    stored = sender._default_manager.filter(pk=instance.pk).first() if instance.pk is not None else None  # noqa: SLF001
    instance._audit_before = None if stored is None else values_of(stored)  # noqa: SLF001


def _after_save(
    sender: type[models.Model], instance: Any, update_fields: Iterable[str] | None = None, raw: bool = False, **_: Any
) -> None:
    if raw:
        return
    watch = _watched[sender]
    before = instance.__dict__.pop("_audit_before", None)
    after = values_of(instance)
    if update_fields is not None:
        after = {**(before or {}), **{one: value for one, value in after.items() if one in set(update_fields)}}
    changes = diff(before or {}, after, watch.masked)
    if changes or before is None:
        _record_row(instance, _DOING.get() or f"{watch.noun}.upsert", changes)


def _before_delete(sender: type[models.Model], instance: Any, **_: Any) -> None:
    instance._audit_before = values_of(instance)  # noqa: SLF001  its key is gone afterwards
    instance._audit_key = str(instance.pk)  # noqa: SLF001


def _after_delete(sender: type[models.Model], instance: Any, **_: Any) -> None:
    watch = _watched[sender]
    before = instance.__dict__.pop("_audit_before", {})
    changes = diff(before, {}, watch.masked)
    _record_row(instance, f"{watch.noun}.delete", changes, key=instance.__dict__.pop("_audit_key", ""))


def _members_changed(instance: Any, action: str, model: Any, pk_set: set[Any] | None, reverse: bool, **_: Any) -> None:
    """Of a group's or user's rights."""
    watch = _watched.get(type(instance))
    if watch is None or reverse or action not in {"post_add", "post_remove", "pre_clear"}:
        return
    named = model._default_manager.filter(pk__in=pk_set) if pk_set else []  # noqa: SLF001
    names = sorted(map(str, named))
    what = str(model._meta.verbose_name_plural)  # noqa: SLF001
    if action == "pre_clear":
        _record_row(instance, f"{watch.noun}.upsert", {what: ["all", []]})
    elif names:
        _record_row(instance, f"{watch.noun}.upsert", {what: [[], names] if action == "post_add" else [names, []]})


def _record_row(instance: Any, action: str, changes: dict[str, Any], key: str = "") -> None:
    if action == _NOTHING:
        return
    resource = f"{instance._meta.model_name}/{key or instance.pk}"  # noqa: SLF001
    record(action, resource=resource, name=str(instance), changes=changes)


def values_of(row: models.Model) -> dict[str, Any]:
    """Its fields as JSON knows them."""
    deferred = row.get_deferred_fields()
    return {
        one.attname: _plain(getattr(row, one.attname))
        for one in row._meta.concrete_fields  # noqa: SLF001
        if one.attname not in deferred and one.attname not in _UNSEEN
    }


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            shown = value
        case bytes() | memoryview() | bytearray():
            shown = sha256(bytes(value)).hexdigest()  # is masked later; tells only that it changed
        case float():
            shown = repr(value)  # its text is the same on both databases
        case Decimal():
            shown = f"{value.normalize():f}"
        case datetime():
            shown = value.astimezone(UTC).isoformat()
        case timedelta():
            shown = str(value)
        case list() | dict():
            shown = json.loads(json.dumps(value, cls=DjangoJSONEncoder))
        case _:
            shown = str(value)
    return f"{shown[:MAX_VALUE_CHARS]}…" if isinstance(shown, str) and len(shown) > MAX_VALUE_CHARS else shown


def diff(before: dict[str, Any], after: dict[str, Any], masked: Iterable[str]) -> dict[str, list[Any]]:
    """Field to [before, after], of those that differ; None where there was none."""
    found = {}
    hidden = frozenset(masked)
    for name in before | after:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name in hidden:
            old, new = (MASK if one not in (None, "") else one for one in (old, new))
        found[name] = [old, new]
    return found


# -- reading ---------------------------------------------------------------------------------------------------------
def changes_since(resources: Iterable[str], moment: datetime) -> list[AuditEntry]:
    """Newest first."""
    found = AuditEntry.objects.filter(resource__in=list(resources), created_at__gte=moment)
    return list(found.order_by("-number")[:200])


@dataclass(frozen=True, slots=True)
class Verdict:
    """`number` and `hash`: of the last entry that is right. `problem`: what is wrong with the next; empty: nothing."""

    number: int
    hash: str
    problem: str = ""


def verify(*, expected: dict[int, str] | None = None) -> Verdict:
    """Reads the whole chain. `expected`: hashes by number that were noted elsewhere."""
    wanted = dict(expected or {})
    number, previous = 0, FIRST
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        if connection.vendor == "postgresql" and is_outermost:  # one moment of the chain and its head
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        head = AuditHead.objects.filter(pk=1).first()
        for entry in AuditEntry.objects.order_by("number").iterator(chunk_size=1000):
            if entry.number != number + 1:
                return Verdict(number, previous, f"Entry {number + 1} is missing.")
            if entry.hash != hash_of(entry, previous):
                return Verdict(number, previous, f"Entry {entry.number} was changed, or one before it was removed.")
            if wanted.pop(entry.number, entry.hash) != entry.hash:
                return Verdict(number, previous, f"Entry {entry.number} has another hash than was noted.")
            number, previous = entry.number, entry.hash
    if head is not None and (head.number, head.hash) != (number, previous):
        return Verdict(number, previous, f"Entries {number + 1} to {head.number} are missing.")
    if wanted:
        return Verdict(number, previous, f"Entry {min(wanted)}, whose hash was noted, is missing.")
    return Verdict(number, previous)
