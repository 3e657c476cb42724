from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import OperationalError
from pytest_django import Settings

from telemetry import audit, webhooks
from telemetry.models import AuditEntry
from tests.support.gateway import VAULT_PASSWORD, Gateway
from vault import keyring, services
from vault.crypto import Parameters, new_data_key
from vault.errors import (
    AlreadyInitialized,
    Damaged,
    NotInitialized,
    TooManyAttempts,
    VaultLocked,
    WeakPassword,
    WrongPassword,
)
from vault.keyring import KEYRING
from vault.models import Secret, VaultState

pytestmark = pytest.mark.django_db

PASSWORD = "the first password"
OTHER = "the second password"
WRONG = "not the password"
CHEAP = Parameters(passes=1, memory_kib=64, lanes=1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The throttle's, which is reset; so is the keyring, which afterwards is what it was."""
    clock = Clock()
    before = KEYRING._page[:]
    KEYRING.wipe()
    services.THROTTLE.right()
    monkeypatch.setattr(services, "monotonic", clock)
    yield clock
    services.THROTTLE.right()
    KEYRING._page[:] = before


@pytest.fixture
def vault() -> None:
    """Made, open, with two secrets."""
    services.initialize(password=PASSWORD, parameters=CHEAP)
    services.put_secret(name="provider:a", value="sk-a")
    services.put_secret(name="provider:b", value="sk-b")


def revealed() -> dict[str, str]:
    return {name: credential.reveal() for name, credential in services.sealed_credentials().items()}


def stored() -> list[tuple[object, ...]]:
    """All that the database holds of the vault."""
    states = VaultState.objects.values_list("salt", "wrapped_data_key", "rotated_at")
    secrets = Secret.objects.values_list("id", "name", "sealed", "fingerprint")
    return [*states, *secrets]


def guess_wrongly(times: int) -> None:
    for _ in range(times):
        with pytest.raises(WrongPassword):
            services.unlock(password=WRONG)


def test_a_new_vault_is_open_and_empty() -> None:
    assert services.status() == services.Status(initialized=False, locked=True, secrets=0)
    services.initialize(password=PASSWORD, parameters=CHEAP)
    assert services.status() == services.Status(initialized=True, locked=False, secrets=0)


def test_a_password_of_seven_characters_makes_no_vault() -> None:
    with pytest.raises(WeakPassword):
        services.initialize(password="1234567", parameters=CHEAP)
    assert not services.status().initialized


@pytest.mark.usefixtures("vault")
def test_a_vault_cannot_be_made_over_another() -> None:
    before = stored()
    with pytest.raises(AlreadyInitialized):
        services.initialize(password=OTHER, parameters=CHEAP)
    assert stored() == before
    assert revealed() == {"provider:a": "sk-a", "provider:b": "sk-b"}


def test_what_is_not_there_cannot_be_unlocked_or_rotated() -> None:
    with pytest.raises(NotInitialized):
        services.unlock(password=PASSWORD)
    with pytest.raises(NotInitialized):
        services.rotate(old_password=PASSWORD, new_password=OTHER)


@pytest.mark.usefixtures("vault")
def test_a_locked_vault_lists_its_secrets_but_neither_reveals_nor_stores() -> None:
    services.lock()
    assert services.status() == services.Status(initialized=True, locked=True, secrets=2)
    credentials = services.sealed_credentials()
    assert repr(credentials) == "{'provider:a': ***, 'provider:b': ***}"
    with pytest.raises(VaultLocked):
        credentials["provider:a"].reveal()
    with pytest.raises(VaultLocked):
        services.put_secret(name="provider:c", value="sk-c")
    assert services.status().secrets == 2


@pytest.mark.usefixtures("vault")
def test_only_the_password_unlocks() -> None:
    services.lock()
    with pytest.raises(WrongPassword):
        services.unlock(password=PASSWORD + " ")
    assert services.status().locked
    services.unlock(password=PASSWORD)
    assert revealed() == {"provider:a": "sk-a", "provider:b": "sk-b"}


@pytest.mark.usefixtures("vault")
def test_a_wrong_password_does_not_lock_what_is_open() -> None:
    guess_wrongly(1)
    assert not services.status().locked


@pytest.mark.usefixtures("vault")
def test_a_secret_put_again_is_replaced_in_its_row() -> None:
    before = Secret.objects.get(name="provider:a")
    services.put_secret(name="provider:a", value="sk-new")
    after = Secret.objects.get(name="provider:a")
    assert after.id == before.id
    assert after.fingerprint != before.fingerprint
    assert revealed()["provider:a"] == "sk-new"


@pytest.mark.usefixtures("vault")
def test_a_deleted_secret_is_gone_and_deleting_says_whether_there_was_one() -> None:
    assert services.delete_secret(name="provider:a")
    assert not services.delete_secret(name="provider:a")
    assert revealed() == {"provider:b": "sk-b"}


@pytest.mark.usefixtures("vault")
def test_fingerprints_tell_values_apart_and_nothing_else() -> None:
    services.put_secret(name="provider:c", value="sk-a")
    prints = dict(Secret.objects.values_list("name", "fingerprint"))
    assert prints["provider:a"] == prints["provider:c"] != prints["provider:b"]
    assert prints["provider:a"] != services.fingerprint(b"another key", "sk-a")


@pytest.mark.usefixtures("vault")
def test_records_swapped_in_the_database_do_not_open() -> None:
    one, other = Secret.objects.all()
    Secret.objects.filter(id=one.id).update(sealed=other.sealed)
    Secret.objects.filter(id=other.id).update(sealed=one.sealed)
    for credential in services.sealed_credentials().values():
        with pytest.raises(Damaged):
            credential.reveal()


@pytest.mark.usefixtures("vault")
def test_a_record_renamed_in_the_database_does_not_open() -> None:
    Secret.objects.filter(name="provider:a").update(name="provider:z")
    with pytest.raises(Damaged):
        services.sealed_credentials()["provider:z"].reveal()


@pytest.mark.usefixtures("vault")
def test_cheaper_argon2_parameters_written_into_the_database_do_not_unlock() -> None:
    VaultState.objects.update(lanes=2)
    with pytest.raises(WrongPassword):
        services.unlock(password=PASSWORD)


# -- rotate ------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("vault")
def test_rotate_seals_everything_anew_under_the_new_password() -> None:
    state, *secrets = stored()
    assert services.rotate(old_password=PASSWORD, new_password=OTHER) == 2
    fresh_state, *fresh_secrets = stored()
    assert not set(state) & set(fresh_state)
    for (key, name, sealed, fingerprint), fresh in zip(secrets, fresh_secrets, strict=True):
        assert fresh[:2] == (key, name)
        assert sealed != fresh[2]
        assert fingerprint != fresh[3]
    assert revealed() == {"provider:a": "sk-a", "provider:b": "sk-b"}


@pytest.mark.usefixtures("vault")
def test_after_rotate_the_old_password_fails_and_the_new_one_opens() -> None:
    services.rotate(old_password=PASSWORD, new_password=OTHER)
    services.lock()
    with pytest.raises(WrongPassword):
        services.unlock(password=PASSWORD)
    services.unlock(password=OTHER)
    assert revealed() == {"provider:a": "sk-a", "provider:b": "sk-b"}


@pytest.mark.usefixtures("vault")
def test_after_rotate_the_old_data_key_opens_nothing() -> None:
    old_key, vault_id = KEYRING.data_key(), VaultState.objects.get().vault_id
    services.rotate(old_password=PASSWORD, new_password=OTHER)
    KEYRING.load(old_key, vault_id)
    for credential in services.sealed_credentials().values():
        with pytest.raises(Damaged):
            credential.reveal()


@pytest.mark.usefixtures("vault")
def test_rotate_does_not_open_a_locked_vault() -> None:
    services.lock()
    services.rotate(old_password=PASSWORD, new_password=OTHER)
    assert services.status().locked


@pytest.mark.usefixtures("vault")
def test_rotate_with_a_wrong_or_a_weak_password_changes_nothing() -> None:
    before = stored()
    with pytest.raises(WrongPassword):
        services.rotate(old_password=WRONG, new_password=OTHER)
    with pytest.raises(WeakPassword):
        services.rotate(old_password=PASSWORD, new_password="short")
    assert stored() == before


@pytest.mark.usefixtures("vault")
def test_rotate_that_fails_amid_the_secrets_leaves_the_old_state() -> None:
    last = Secret.objects.order_by("name").last()
    assert last is not None
    Secret.objects.filter(id=last.id).update(sealed=bytes(last.sealed)[:-1])
    before = stored()
    with pytest.raises(Damaged):
        services.rotate(old_password=PASSWORD, new_password=OTHER)
    assert stored() == before
    services.lock()
    services.unlock(password=PASSWORD)
    assert services.sealed_credentials()["provider:a"].reveal() == "sk-a"


@pytest.mark.usefixtures("vault")
def test_the_slower_of_two_rotations_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    make = new_data_key

    def rotated_meanwhile() -> bytes:
        monkeypatch.setattr(services, "new_data_key", make)
        services.rotate(old_password=PASSWORD, new_password=OTHER)
        return make()

    monkeypatch.setattr(services, "new_data_key", rotated_meanwhile)
    with pytest.raises(WrongPassword, match="meanwhile"):
        services.rotate(old_password=PASSWORD, new_password="the third password")
    services.lock()
    services.unlock(password=OTHER)
    assert revealed() == {"provider:a": "sk-a", "provider:b": "sk-b"}


# -- the throttle ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("vault")
def test_after_five_wrong_passwords_even_the_right_one_has_to_wait(clock: Clock) -> None:
    services.lock()
    guess_wrongly(5)
    with pytest.raises(TooManyAttempts) as caught:
        services.unlock(password=PASSWORD)
    assert caught.value.retry_after_seconds == 1.0
    with pytest.raises(TooManyAttempts):
        services.rotate(old_password=PASSWORD, new_password=OTHER)
    assert services.status().locked
    clock.now += 1.0
    services.unlock(password=PASSWORD)
    assert not services.status().locked


@pytest.mark.usefixtures("vault")
def test_each_further_wrong_password_doubles_the_wait_up_to_a_minute(clock: Clock) -> None:
    guess_wrongly(4)
    waits = []
    for _ in range(9):
        guess_wrongly(1)
        with pytest.raises(TooManyAttempts) as caught:
            services.unlock(password=PASSWORD)
        waits.append(caught.value.retry_after_seconds)
        clock.now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.usefixtures("vault")
def test_attempts_during_the_wait_do_not_lengthen_it(clock: Clock) -> None:
    guess_wrongly(5)
    clock.now += 0.5
    for _ in range(3):
        with pytest.raises(TooManyAttempts) as caught:
            services.unlock(password=WRONG)
        assert caught.value.retry_after_seconds == 0.5


@pytest.mark.usefixtures("vault")
def test_the_right_password_ends_the_count() -> None:
    guess_wrongly(4)
    services.unlock(password=PASSWORD)
    guess_wrongly(4)
    services.unlock(password=PASSWORD)


# -- the environment ---------------------------------------------------------------------------------------------
def test_the_environment_makes_the_vault_and_opens_it_the_next_time(settings: Settings) -> None:
    settings.TOKENHUB_VAULT_PASSWORD = PASSWORD
    for _ in range(2):
        assert services.open_from_environment() == services.Status(initialized=True, locked=False, secrets=0)
        services.lock()


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize("password", ["", WRONG])
def test_a_missing_or_wrong_password_in_the_environment_leaves_the_vault_locked(
    settings: Settings, password: str
) -> None:
    services.lock()
    settings.TOKENHUB_VAULT_PASSWORD = password
    assert services.open_from_environment().locked


# -- what never leaves -------------------------------------------------------------------------------------------
def test_neither_passwords_nor_credentials_are_logged(caplog: pytest.LogCaptureFixture, settings: Settings) -> None:
    caplog.set_level(logging.DEBUG)
    services.initialize(password=PASSWORD, parameters=CHEAP)
    services.put_secret(name="provider:a", value="sk-a-credential")
    guess_wrongly(1)
    services.rotate(old_password=PASSWORD, new_password=OTHER)
    services.lock()
    settings.TOKENHUB_VAULT_PASSWORD = WRONG
    services.open_from_environment()
    lines = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "vault_wrong_password" in lines
    assert [word for word in (PASSWORD, OTHER, WRONG, "sk-a-credential") if word in lines] == []


def test_no_file_of_the_data_folder_holds_a_credential_or_the_password(tmp_path: Path) -> None:
    credential = "sk-live-0123456789abcdef"
    provider = {"id": "p", "type": "openai", "base_url": "http://127.0.0.1:9", "credential": credential}
    gateway = Gateway(tmp_path, providers=[provider])
    (row,) = gateway.query("SELECT name, length(sealed) AS size FROM vault_secret")
    assert row["size"] == 1 + 12 + len(credential) + 16
    held = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert row["name"].encode() in held
    for secret in (credential, VAULT_PASSWORD):
        for encoding in ("utf-8", "utf-16-le"):
            assert secret.encode(encoding) not in held
        assert secret.encode().hex().encode() not in held.lower()


# -- the automatic lock ----------------------------------------------------------------------------------------------
@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Clock:
    """The keyring's clock, and 30 minutes."""
    clock = Clock()
    monkeypatch.setattr(keyring, "monotonic", clock)
    settings.TOKENHUB_VAULT_AUTOLOCK_MINUTES = 30
    return clock


def test_the_vault_locks_when_no_credential_was_used_for_so_long(steady: Clock, vault: None) -> None:
    steady.now += 29 * 60
    assert not services.lock_when_idle()
    revealed()
    steady.now += 29 * 60
    assert not services.lock_when_idle()
    steady.now += 61
    assert services.lock_when_idle()
    assert services.status().locked
    assert not services.lock_when_idle()
    assert AuditEntry.objects.filter(action="vault.autolock").count() == 1


def test_a_probe_is_no_use_and_unlocking_is(steady: Clock, vault: None) -> None:
    credential = services.sealed_credentials()["provider:a"]
    steady.now += 31 * 60
    KEYRING.open(name=credential.name, secret_id=credential.secret_id, sealed=credential.sealed)
    assert services.lock_when_idle()
    services.unlock(password=PASSWORD)
    assert not services.lock_when_idle()


def test_zero_minutes_never_lock(steady: Clock, vault: None, settings: Settings) -> None:
    settings.TOKENHUB_VAULT_AUTOLOCK_MINUTES = 0
    steady.now += 1e9
    assert not services.lock_when_idle()


def test_the_vault_locks_itself_without_a_database(steady: Clock, vault: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(audit, "record", gone)
    steady.now += 31 * 60
    assert services.lock_when_idle()
    assert not KEYRING.is_open


# -- who is told ---------------------------------------------------------------------------------------------------
def test_every_change_is_announced_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []

    def announce(event: str, data: dict[str, object]) -> None:
        assert event == "vault_change"
        told.append(data)

    monkeypatch.setattr(webhooks, "announce", announce)
    services.initialize(password=PASSWORD, parameters=CHEAP)
    services.put_secret(name="provider:a", value="sk-a")
    services.rotate(old_password=PASSWORD, new_password=OTHER)
    services.lock()
    services.unlock(password=OTHER)
    services.delete_secret(name="provider:a")
    assert services.delete_secret(name="provider:a") is False
    assert [one["action"] for one in told] == ["init", "secret_put", "rotate", "lock", "unlock", "secret_delete"]
    assert (told[1]["secret"], told[2]["secrets"]) == ("provider:a", 1)
    assert not [one for one in told if "sk-a" in str(one) or PASSWORD in str(one)]


def test_the_vault_locks_though_nobody_can_be_told(vault: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(event: str, data: object) -> None:
        raise OperationalError

    monkeypatch.setattr(webhooks, "announce", fail)
    services.lock()
    assert not KEYRING.is_open
