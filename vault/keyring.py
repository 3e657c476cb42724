"""The open data key, in memory that all processes of a server share: an anonymous mapping made before they fork. What
unlocks or locks in one is unlocked or locked in all. The key touches neither disk nor environment. No Django.

Layout: generation (8 bytes, odd while the rest is being changed), state (1: untouched, open or locked), vault id (16),
data key (32), moment of the last use (8, of the steady clock, which all processes of a host share)."""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import NoReturn
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.crypto import KEY_BYTES, seal, secret_context, unseal
from vault.errors import VaultLocked

_GENERATION = struct.Struct("=Q")
_STATE = 8
_VAULT_ID = 16
_KEY = 32
_END = _KEY + KEY_BYTES
_USED = struct.Struct("=d")
_USED_AT = _END
OPEN = 1
LOCKED = 2


class Keyring:
    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._writing = threading.Lock()
        _protect(self._page)

    @property
    def is_open(self) -> bool:
        return self._page[_STATE] == OPEN

    @property
    def is_untouched(self) -> bool:
        """Nobody has opened or locked it since the first of the processes that share it began."""
        return self._page[_STATE] not in {OPEN, LOCKED}

    def load(self, data_key: bytes, vault_id: UUID) -> None:
        """Opens the keyring for every process that shares it."""
        if len(data_key) != KEY_BYTES:
            raise ValueError("a data key has 32 bytes")

        def write() -> None:
            self._page[_VAULT_ID : _VAULT_ID + 16] = vault_id.bytes
            self._page[_KEY:_END] = data_key
            self.note_use()
            self._page[_STATE] = OPEN

        self._change(write)

    def wipe(self) -> None:
        """Overwrites the key. Calls that hold their credential already are not affected."""

        def write() -> None:
            self._page[_STATE] = LOCKED
            end = _USED_AT + _USED.size
            self._page[_VAULT_ID:end] = bytes(end - _VAULT_ID)

        self._change(write)

    def note_use(self) -> None:
        """A client's request needs a credential."""
        _USED.pack_into(self._page, _USED_AT, monotonic())

    @property
    def idle_seconds(self) -> float:
        """Since it was opened, or used last."""
        return monotonic() - float(_USED.unpack_from(self._page, _USED_AT)[0])

    def _change(self, write: Callable[[], None]) -> None:
        """Readers of other processes see an odd generation, or a new one, and never half a key."""
        with self._writing:
            generation = _GENERATION.unpack_from(self._page)[0]
            _GENERATION.pack_into(self._page, 0, generation | 1)
            try:
                write()
            finally:
                _GENERATION.pack_into(self._page, 0, (generation | 1) + 1)

    def _read(self) -> bytes:
        """Vault id and data key, of one moment. Raises VaultLocked."""
        for _ in range(1000):
            before = _GENERATION.unpack_from(self._page)[0]
            state, raw = self._page[_STATE], self._page[_VAULT_ID:_END]
            if before % 2 == 0 and before == _GENERATION.unpack_from(self._page)[0]:
                break
        else:
            raise VaultLocked
        if state != OPEN:
            raise VaultLocked
        return raw

    def _cipher(self) -> tuple[AESGCM, UUID]:
        """Made anew each time (1 us): a kept one would outlive a lock. Raises VaultLocked."""
        raw = self._read()
        return AESGCM(raw[_KEY - _VAULT_ID :]), UUID(bytes=raw[:16])

    def seal(self, *, name: str, secret_id: UUID, plaintext: bytes) -> bytes:
        cipher, vault_id = self._cipher()
        return seal(cipher, plaintext, secret_context(vault_id, secret_id, name))

    def open(self, *, name: str, secret_id: UUID, sealed: bytes) -> bytes:
        """Raises VaultLocked, Damaged."""
        cipher, vault_id = self._cipher()
        return unseal(cipher, sealed, secret_context(vault_id, secret_id, name))

    def data_key(self) -> bytes:
        """For the vault's own services. Raises VaultLocked."""
        return self._read()[_KEY - _VAULT_ID :]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyring cannot be pickled")


def _protect(page: mmap.mmap) -> None:
    """Out of core dumps and, where the limits allow it, out of swap. Best effort."""
    if hasattr(mmap, "MADV_DONTDUMP"):
        page.madvise(mmap.MADV_DONTDUMP)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE))
    except (OSError, AttributeError):
        pass


KEYRING = Keyring()


@dataclass(frozen=True, slots=True, repr=False)
class SealedCredential:
    """A provider's credential as the data plane carries it: sealed, and opened for each call."""

    secret_id: UUID
    name: str
    sealed: bytes

    def peek(self) -> str:
        """For TokenHub itself: the automatic lock is not put off. Raises VaultLocked, Damaged."""
        return KEYRING.open(name=self.name, secret_id=self.secret_id, sealed=self.sealed).decode("utf-8")

    def reveal(self) -> str:
        """For a client's request, which puts off the automatic lock. Raises VaultLocked, Damaged."""
        KEYRING.note_use()
        return self.peek()

    def __repr__(self) -> str:
        return "***"
