"""Prompts and answers that were captured: sealed before the journal, kept for a few days, opened for who may read them.
How they are sealed is the vault's business: it lends `OPENERS` its function."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from django.conf import settings
from django.utils import timezone

from telemetry import audit
from telemetry.journal import Entry
from telemetry.models import Capture

_PRUNED_AT_ONCE: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class NotCaptured(Exception):
    """Nothing is kept of that request."""


class Locked(Exception):
    """The vault is."""


class Unreadable(Exception):
    """It was changed, or its key is gone."""


class Captured(msgspec.Struct, array_like=True):
    """What a client sent and got, as text."""

    prompt: str
    answer: str


OPENERS: list[Callable[[bytes, UUID], bytes]] = []
"""The one that opens what was sealed for a request. Raises Locked, Unreadable."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Captured).decode


def pack(captured: Captured) -> bytes:
    return zlib.compress(_encode(captured), 1)


def unpack(packed: bytes) -> Captured:
    return _decode(zlib.decompress(packed))


def store(entries: Sequence[Entry]) -> None:
    """In the transaction that takes them out of the journal. Raises DatabaseError."""
    kept = timedelta(days=settings.TOKENHUB_CAPTURE_DAYS)
    moments = [(entry, _EPOCH + timedelta(microseconds=entry.at)) for entry in entries if entry.capture]
    rows = [
        Capture(request_id=UUID(entry.id), sealed=entry.capture, captured_at=at, expires_at=at + kept)
        for entry, at in moments
    ]
    if rows:
        Capture.objects.bulk_create(rows, ignore_conflicts=True)


def read(*, request_id: UUID) -> tuple[Capture, Captured]:
    """Each reading is in the audit log. Raises NotCaptured, Locked, Unreadable, DatabaseError."""
    row = Capture.objects.filter(pk=request_id, expires_at__gt=timezone.now()).first()
    if row is None:
        raise NotCaptured
    (opener,) = OPENERS
    captured = unpack(opener(bytes(row.sealed), row.request_id))
    audit.record("capture.read", resource=f"logs/{request_id}")
    return row, captured


def prune() -> int:
    """Removes what has expired, a little at a time. How many. Raises DatabaseError."""
    removed = 0
    old = Capture.objects.filter(expires_at__lt=timezone.now())
    while keys := list(old.values_list("pk", flat=True)[:_PRUNED_AT_ONCE]):
        removed += old.filter(pk__in=keys).delete()[0]
    return removed
