"""The key under which prompts and answers are captured: a secret of the vault like any other, so that a change of its
password seals it anew, and what was captured stays readable. While the vault is locked it does nothing."""

from __future__ import annotations

import base64
import contextlib
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import IntegrityError

from telemetry.captures import Locked, Unreadable
from vault import crypto, services
from vault.errors import Damaged, VaultLocked
from vault.keyring import SealedCredential
from vault.models import Secret

NAME: Final = "captures"


def make() -> None:
    """Where there is none. Raises VaultLocked, DatabaseError."""
    if not Secret.objects.filter(name=NAME).exists():
        value = base64.b64encode(crypto.new_data_key()).decode("ascii")
        with contextlib.suppress(IntegrityError):  # another worker was faster
            services.put_secret(name=NAME, value=value)


def seal(key: SealedCredential, plaintext: bytes, *, request_id: str) -> bytes:
    """Raises VaultLocked, Damaged."""
    return crypto.seal(_cipher(key), plaintext, crypto.capture_context(UUID(request_id)))


def opened(sealed: bytes, request_id: UUID) -> bytes:
    """Raises Locked, Unreadable."""
    key = services.sealed_credentials().get(NAME)
    try:
        if key is None:
            raise Unreadable
        return crypto.unseal(_cipher(key), sealed, crypto.capture_context(request_id))
    except VaultLocked:
        raise Locked from None
    except Damaged:
        raise Unreadable from None


def _cipher(key: SealedCredential) -> AESGCM:
    return AESGCM(base64.b64decode(key.peek()))
