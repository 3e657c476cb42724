"""The vault's cryptography, and nothing else: Argon2id (RFC 9106) makes a key from the password, which wraps a random
data key; AES-256-GCM seals each secret under the data key, bound to its place. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from vault.errors import Damaged, WrongPassword

KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16
FORMAT = b"\x01"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of Argon2id; memory in KiB."""

    passes: int = 3
    memory_kib: int = 65_536
    lanes: int = 4


def derive_key(password: str, salt: bytes, parameters: Parameters) -> bytes:
    """About 0.1 s and `memory_kib` of memory."""
    return Argon2id(
        salt=salt,
        length=KEY_BYTES,
        iterations=parameters.passes,
        lanes=parameters.lanes,
        memory_cost=parameters.memory_kib,
    ).derive(password.encode("utf-8"))


def new_data_key() -> bytes:
    return os.urandom(KEY_BYTES)


def new_salt() -> bytes:
    return os.urandom(SALT_BYTES)


def _bound(purpose: bytes, *parts: bytes) -> bytes:
    """Associated data. Every part carries its length, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in (b"tokenhub", purpose, *parts))


def _wrapping(vault_id: UUID, salt: bytes, parameters: Parameters) -> bytes:
    numbers = (parameters.passes, parameters.memory_kib, parameters.lanes)
    return _bound(b"data-key", vault_id.bytes, salt, *(number.to_bytes(4, "big") for number in numbers))


def wrap_data_key(data_key: bytes, key: bytes, *, vault_id: UUID, salt: bytes, parameters: Parameters) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return FORMAT + nonce + AESGCM(key).encrypt(nonce, data_key, _wrapping(vault_id, salt, parameters))


def unwrap_data_key(wrapped: bytes, key: bytes, *, vault_id: UUID, salt: bytes, parameters: Parameters) -> bytes:
    """Raises WrongPassword: a changed record cannot be told from a wrong key here. Raises Damaged by its shape."""
    if wrapped[:1] != FORMAT or len(wrapped) != 1 + NONCE_BYTES + KEY_BYTES + TAG_BYTES:
        raise Damaged("The vault's data key has an unknown format. Restore it from a backup.")
    nonce, sealed = wrapped[1 : 1 + NONCE_BYTES], wrapped[1 + NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(nonce, sealed, _wrapping(vault_id, salt, parameters))
    except InvalidTag:
        raise WrongPassword from None


def secret_context(vault_id: UUID, secret_id: UUID, name: str) -> bytes:
    """What a sealed secret is bound to: moved to another row, name or vault it does not open."""
    return _bound(b"secret", vault_id.bytes, secret_id.bytes, name.encode("utf-8"))


def capture_context(request_id: UUID) -> bytes:
    """What a captured request is bound to."""
    return _bound(b"capture", request_id.bytes)


def seal(cipher: AESGCM, plaintext: bytes, context: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return FORMAT + nonce + cipher.encrypt(nonce, plaintext, context)


def unseal(cipher: AESGCM, sealed: bytes, context: bytes) -> bytes:
    """Raises Damaged."""
    if sealed[:1] != FORMAT or len(sealed) < 1 + NONCE_BYTES + TAG_BYTES:
        raise Damaged
    try:
        return cipher.decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], context)
    except InvalidTag:
        raise Damaged from None
