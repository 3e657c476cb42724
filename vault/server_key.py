"""Sealing for what is kept for a while and must open on every host, whether or not the vault is open: under keys that
each host derives (HKDF-SHA-256) from Django's secret, one for each purpose. Whoever reads the database alone reads
nothing; whoever has the secret as well reads all of it."""

from __future__ import annotations

import hmac
from functools import cache
from hashlib import sha256

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from vault import crypto


def seal(purpose: str, plaintext: bytes, context: bytes) -> bytes:
    """`context`: the record's identity; moved to another one it does not open."""
    return crypto.seal(AESGCM(_key(settings.SECRET_KEY, purpose)), plaintext, context)


def unseal(purpose: str, sealed: bytes, context: bytes) -> bytes:
    """Raises Damaged, also where another secret sealed it."""
    return crypto.unseal(AESGCM(_key(settings.SECRET_KEY, purpose)), sealed, context)


def digest(purpose: str, data: bytes) -> str:
    """Tells whether two are the same, and cannot be tried against guesses without the key."""
    return hmac.new(_key(settings.SECRET_KEY, f"{purpose} digest"), data, sha256).hexdigest()


@cache
def _key(secret: str, purpose: str) -> bytes:
    derived = HKDF(SHA256(), crypto.KEY_BYTES, salt=None, info=f"tokenhub {purpose}".encode())
    return derived.derive(secret.encode())
