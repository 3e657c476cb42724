"""Every change of the vault. Synchronous Django; views, commands and the control socket call these and nothing else."""

from __future__ import annotations

import fcntl
import hmac
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import DatabaseError, transaction
from django.utils import timezone

from telemetry import audit, webhooks
from telemetry.logs import EventLogger
from tokenhub import turn
from vault.crypto import (
    Parameters,
    derive_key,
    new_data_key,
    new_salt,
    seal,
    secret_context,
    unseal,
    unwrap_data_key,
    wrap_data_key,
)
from vault.errors import AlreadyInitialized, NotInitialized, TooManyAttempts, WeakPassword, WrongPassword
from vault.keyring import KEYRING, SealedCredential
from vault.models import Secret, VaultState

log = EventLogger(__name__)
MIN_PASSWORD_LENGTH = 8
FREE_ATTEMPTS = 5
MAX_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Status:
    initialized: bool
    locked: bool
    secrets: int


class Throttle:
    """After five wrong passwords in a row each further one doubles the wait, up to a minute. Also lets only one
    derivation run at a time: each takes 64 MiB."""

    def __init__(self) -> None:
        self.deriving = threading.Lock()
        self._wrong = 0
        self._next_at = 0.0

    def check(self) -> None:
        """Raises TooManyAttempts."""
        if (wait := self._next_at - monotonic()) > 0:
            raise TooManyAttempts(wait)

    def wrong(self) -> None:
        self._wrong += 1
        if self._wrong >= FREE_ATTEMPTS:
            self._next_at = monotonic() + min(2.0 ** (self._wrong - FREE_ATTEMPTS), MAX_WAIT_SECONDS)

    def right(self) -> None:
        self._wrong = 0
        self._next_at = 0.0


THROTTLE = Throttle()


def status() -> Status:
    return Status(VaultState.objects.exists(), not KEYRING.is_open, Secret.objects.count())


def initialize(*, password: str, parameters: Parameters | None = None) -> None:
    """Makes the vault and opens it. Raises WeakPassword, AlreadyInitialized."""
    if len(password) < MIN_PASSWORD_LENGTH:
        raise WeakPassword
    data_key = new_data_key()
    state = _wrapped(data_key, password, parameters or Parameters(), uuid4())
    with transaction.atomic():
        turn.take()
        if VaultState.objects.select_for_update().exists():
            raise AlreadyInitialized
        state.save(force_insert=True)
        audit.record("vault.init", resource="vault")
        _tell("init")
    KEYRING.load(data_key, state.vault_id)
    log.info("vault_initialized")


def unlock(*, password: str) -> None:
    """Raises NotInitialized, WrongPassword, TooManyAttempts."""
    state = VaultState.objects.first()
    if state is None:
        raise NotInitialized
    data_key = _unwrapped(state, password)
    with transaction.atomic():
        turn.take()  # whoever tells webhooks refers to their rows, after the entry
        audit.record("vault.unlock", resource="vault")
        _tell("unlock")
    KEYRING.load(data_key, state.vault_id)
    log.info("vault_unlocked")


def unlock_or_initialize(*, password: str) -> None:
    """As the first unlock in the admin does. Raises WeakPassword, WrongPassword, TooManyAttempts."""
    if VaultState.objects.exists():
        unlock(password=password)
        return
    try:
        initialize(password=password)
    except AlreadyInitialized:  # somebody was faster
        unlock(password=password)


def lock() -> None:
    """Works without the database, too."""
    KEYRING.wipe()
    log.info("vault_locked")
    _record_lock("vault.lock")


def _record_lock(action: str) -> None:
    try:
        with transaction.atomic():
            turn.take()
            audit.record(action, resource="vault")
            _tell(action.removeprefix("vault."))
    except DatabaseError as problem:
        log.warning("audit_failed", action=action, error=type(problem).__name__)


def _tell(action: str, **more: str | int) -> None:
    """Raises DatabaseError."""
    webhooks.announce("vault_change", {"action": action, **more})


def lock_when_idle() -> bool:
    """Locks the vault where no client needed a credential for TOKENHUB_VAULT_AUTOLOCK_MINUTES. Every process calls it
    now and then; one does it. Works without the database, too."""
    limit = 60.0 * settings.TOKENHUB_VAULT_AUTOLOCK_MINUTES
    if not limit or not KEYRING.is_open or KEYRING.idle_seconds < limit:
        return False
    with (Path(settings.TOKENHUB_DATA_DIR) / "vault.autolock").open("wb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not KEYRING.is_open or KEYRING.idle_seconds < limit:
            return False
        KEYRING.wipe()
    log.warning("vault_autolocked", idle_minutes=settings.TOKENHUB_VAULT_AUTOLOCK_MINUTES)
    _record_lock("vault.autolock")
    return True


def open_from_environment() -> Status:
    """At start: opens, or makes, the vault if TOKENHUB_VAULT_PASSWORD is set. A wrong one leaves it locked."""
    password: str = settings.TOKENHUB_VAULT_PASSWORD
    if password and not KEYRING.is_open:
        try:
            unlock_or_initialize(password=password)
        except (WrongPassword, WeakPassword, TooManyAttempts) as problem:
            log.error("vault_not_opened", reason=problem.message, source="TOKENHUB_VAULT_PASSWORD")
    return status()


def put_secret(*, name: str, value: str) -> Secret:
    """Seals and stores. Raises VaultLocked."""
    with transaction.atomic():
        turn.take()
        secret = Secret.objects.select_for_update().filter(name=name).first() or Secret(id=uuid4(), name=name)
        secret.sealed = KEYRING.seal(name=name, secret_id=secret.id, plaintext=value.encode("utf-8"))
        secret.fingerprint = fingerprint(KEYRING.data_key(), value)
        secret.save()
        _tell("secret_put", secret=name)
    return secret


def delete_secret(*, name: str) -> bool:
    """Whether there was one."""
    with transaction.atomic():
        turn.take()
        secret = Secret.objects.filter(name=name).first()
        if secret is None:
            return False
        secret.delete()
        _tell("secret_delete", secret=name)
    return True


def sealed_credentials() -> dict[str, SealedCredential]:
    """By name; works while the vault is locked."""
    return {
        secret.name: SealedCredential(secret.id, secret.name, bytes(secret.sealed)) for secret in Secret.objects.all()
    }


def rotate(*, old_password: str, new_password: str) -> int:
    """New salt, new data key, every secret sealed anew, in one transaction: killed at any moment it leaves the old
    state or the new one. The number of secrets. Raises WeakPassword, WrongPassword, NotInitialized, TooManyAttempts,
    Damaged."""
    if len(new_password) < MIN_PASSWORD_LENGTH:
        raise WeakPassword
    old = VaultState.objects.first()
    if old is None:
        raise NotInitialized
    old_key = _unwrapped(old, old_password)
    new_key = new_data_key()
    fresh = _wrapped(new_key, new_password, _parameters(old), old.vault_id)
    before, after = AESGCM(old_key), AESGCM(new_key)
    with transaction.atomic(), audit.unrecorded():
        turn.take()
        current = VaultState.objects.select_for_update().get()
        if bytes(current.wrapped_data_key) != bytes(old.wrapped_data_key):
            raise WrongPassword("The password was changed by somebody else meanwhile. Nothing was changed.")
        count = 0
        for secret in Secret.objects.select_for_update():
            value = unseal(before, bytes(secret.sealed), secret_context(old.vault_id, secret.id, secret.name))
            secret.sealed = seal(after, value, secret_context(old.vault_id, secret.id, secret.name))
            secret.fingerprint = fingerprint(new_key, value.decode("utf-8"))
            secret.save()
            count += 1
        current.salt, current.wrapped_data_key = fresh.salt, fresh.wrapped_data_key
        current.rotated_at = timezone.now()
        current.save()
        audit.record("vault.rotate", resource="vault", changes={"secrets": [count, count]})
        _tell("rotate", secrets=count)
    if KEYRING.is_open:
        KEYRING.load(new_key, old.vault_id)
    log.info("vault_rotated", secrets=count)
    return count


def fingerprint(data_key: bytes, value: str) -> str:
    """Tells values apart; keyed, so that it cannot be tried against a list of guesses."""
    return hmac.new(data_key, b"fingerprint" + value.encode("utf-8"), sha256).hexdigest()[:12]


def _parameters(state: VaultState) -> Parameters:
    return Parameters(state.passes, state.memory_kib, state.lanes)


def _wrapped(data_key: bytes, password: str, parameters: Parameters, vault_id: UUID) -> VaultState:
    """An unsaved state that holds the data key, wrapped with a fresh salt."""
    salt = new_salt()
    with THROTTLE.deriving:
        key = derive_key(password, salt, parameters)
    return VaultState(
        vault_id=vault_id,
        passes=parameters.passes,
        memory_kib=parameters.memory_kib,
        lanes=parameters.lanes,
        salt=salt,
        wrapped_data_key=wrap_data_key(data_key, key, vault_id=vault_id, salt=salt, parameters=parameters),
    )


def _unwrapped(state: VaultState, password: str) -> bytes:
    """The data key. Raises WrongPassword, TooManyAttempts, Damaged."""
    parameters, salt = _parameters(state), bytes(state.salt)
    with THROTTLE.deriving:
        THROTTLE.check()
        key = derive_key(password, salt, parameters)
        try:
            data_key = unwrap_data_key(
                bytes(state.wrapped_data_key), key, vault_id=state.vault_id, salt=salt, parameters=parameters
            )
        except WrongPassword:
            THROTTLE.wrong()
            log.warning("vault_wrong_password")
            audit.refused("vault.refused")
            raise
        THROTTLE.right()
    return data_key
