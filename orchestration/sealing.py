"""What clients asked and models said is kept under a key that every host derives from Django's secret: a run can be
taken up wherever that is known, also while the vault is locked. Bound to its run and its place in it."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from vault import crypto

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


@cache
def _cipher(secret: str) -> AESGCM:
    derived = HKDF(SHA256(), crypto.KEY_BYTES, salt=None, info=b"tokenhub plan runs 1").derive(secret.encode())
    return AESGCM(derived)


def seal(value: object, *, run_id: object, place: str) -> bytes:
    return crypto.seal(_cipher(settings.SECRET_KEY), _encode(value), f"{run_id}/{place}".encode())


def unseal(sealed: bytes | memoryview, kind: type[T], *, run_id: object, place: str) -> T:
    """Raises Damaged, also when another host has another secret."""
    plain = crypto.unseal(_cipher(settings.SECRET_KEY), bytes(sealed), f"{run_id}/{place}".encode())
    return msgspec.json.decode(plain, type=kind)
