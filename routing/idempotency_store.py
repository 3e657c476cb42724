"""Calls with an Idempotency-Key in the database: who runs which, and what came of it, sealed under the server key.
Synchronous; the data plane calls it in threads.

A call is claimed before it runs. The claim is a lease that its process renews; a process of this host that is gone
holds none, and neither does one of another host whose lease ran out. Every change asks for the claim it found, so of
several who want the same one gets it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from keys.bank import host_of
from routing.models import IdempotentCall
from telemetry.journal import living_holders
from vault import server_key
from vault.errors import Damaged

KEPT: Final = timedelta(hours=24)
LEASE: Final = timedelta(seconds=60)
MAX_ANSWER_BYTES: Final = 1_048_576
PURPOSE: Final = "idempotency 1"
_PRUNED_AT_ONCE: Final = 200
_host_of = cache(host_of)


class StillRunning(Exception):
    """The first call with this key has not ended."""


class OtherBody(Exception):
    """The key was used for another request."""


class AnswerGone(Exception):
    """There was an answer, which cannot be repeated: too large, or sealed under another secret. Its argument is the
    first call's request id."""


@dataclass(frozen=True, slots=True)
class Claim:
    identity: str
    token: str
    request_id: str


class Kept(msgspec.Struct, array_like=True):
    """An answer as it was given."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    request_id: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


def identity_of(*, key_id: str, method: str, path: str, name: str) -> str:
    """Of the record. The client's name for it may say something, and is not stored."""
    return sha256("\0".join((key_id, method, path, name)).encode()).hexdigest()


def claim(*, identity: str, body: bytes, request_id: str, holder: str, journals: Path) -> Claim | Kept:
    """The right to run the call, or the answer that it had. `holder`: this process, by its journal. Raises OtherBody,
    StillRunning, AnswerGone, DatabaseError."""
    now, host = timezone.now(), _host_of(journals)
    mine = Claim(identity, uuid4().hex, request_id)
    fresh = {
        "claim": mine.token,
        "request_id": request_id,
        "body_digest": server_key.digest(PURPOSE, identity.encode() + body),
        "holder": holder,
        "host": host,
        "leased_until": now + LEASE,
        "expires_at": now + KEPT,
        "status": None,
        "answer": b"",
    }
    for _ in range(3):
        record = IdempotentCall.objects.filter(pk=identity).first()
        if record is None:
            try:
                with transaction.atomic():
                    IdempotentCall.objects.create(id=identity, **fresh)
            except IntegrityError:  # another one was faster
                continue
            return mine
        if record.expires_at > now:
            if record.body_digest != fresh["body_digest"]:
                raise OtherBody
            if record.status is not None:
                return _kept(record)
            is_gone = record.host == host and record.holder not in living_holders(journals)
            if record.leased_until > now and not is_gone:
                raise StillRunning
        if IdempotentCall.objects.filter(pk=identity, claim=record.claim, status=record.status).update(**fresh):
            return mine
    raise StillRunning


def renew(claim: Claim) -> None:
    _of(claim).update(leased_until=timezone.now() + LEASE)


def keep(claim: Claim, answer: Kept) -> None:
    """One that is too large leaves only that it was there."""
    sealed = b""
    if len(answer.body) <= MAX_ANSWER_BYTES:
        sealed = server_key.seal(PURPOSE, _encode(answer), _context(claim.identity, claim.request_id))
    _of(claim).update(status=answer.status, answer=sealed, expires_at=timezone.now() + KEPT)


def release(claim: Claim) -> None:
    """The next one runs anew."""
    _of(claim).delete()


def prune() -> int:
    """Removes what has expired, a little at a time; the number of records. Raises DatabaseError."""
    removed, now = 0, timezone.now()
    old = IdempotentCall.objects.filter(expires_at__lt=now)
    while keys := list(old.values_list("pk", flat=True)[:_PRUNED_AT_ONCE]):
        removed += old.filter(pk__in=keys).delete()[0]
    return removed


def _of(claim: Claim) -> QuerySet[IdempotentCall]:
    return IdempotentCall.objects.filter(pk=claim.identity, claim=claim.token, status=None)


def _kept(record: IdempotentCall) -> Kept:
    try:
        return _decode(server_key.unseal(PURPOSE, bytes(record.answer), _context(record.pk, str(record.request_id))))
    except (Damaged, msgspec.MsgspecError):
        raise AnswerGone(str(record.request_id)) from None


def _context(identity: str, request_id: str) -> bytes:
    return f"{identity}/{request_id}".encode()
