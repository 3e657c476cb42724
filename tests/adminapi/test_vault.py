"""The vault by the API: opened, locked, its password changed; secrets go in and never come out."""

from __future__ import annotations

import logging

import pytest

from tests.admin.conftest import VAULT_PASSWORD
from tests.adminapi.api import Api, ok, refused
from vault import crypto, services
from vault.keyring import KEYRING
from vault.models import Secret

pytestmark = pytest.mark.django_db


def test_the_first_unlock_makes_the_vault(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "Parameters", lambda: crypto.Parameters(passes=1, memory_kib=64, lanes=1))
    refused(api.post("vault/unlock", {"admin_password": "short"}), "invalid_request", "admin_password")
    assert not services.status().initialized
    state = ok(api.post("vault/unlock", {"admin_password": VAULT_PASSWORD}))
    assert state == {"ok": True, "vault_initialized": True, "vault_locked": False, "secrets": 0}


def test_it_is_locked_and_opened_again(api: Api, open_vault: None) -> None:
    assert ok(api.post("vault/lock"))["vault_locked"] is True
    assert ok(api.get("info"))["vault_locked"] is True
    refused(api.post("vault/unlock", {"admin_password": "not the password"}), "wrong_password")
    assert not KEYRING.is_open
    assert ok(api.post("vault/unlock", {"admin_password": VAULT_PASSWORD}))["vault_locked"] is False


def test_wrong_passwords_are_slowed_down(api: Api, open_vault: None) -> None:
    for _ in range(services.FREE_ATTEMPTS):
        refused(api.post("vault/unlock", {"admin_password": "not the password"}), "wrong_password")
    answer = api.post("vault/unlock", {"admin_password": VAULT_PASSWORD})
    refused(answer, "rate_limit_exceeded")
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_new_password_seals_every_secret_anew(api: Api, open_vault: None) -> None:
    services.put_secret(name="provider/a", value="sk-one")
    new = "another password"
    refused(api.post("vault/rotate", {"old_password": "wrong one", "new_password": new}), "wrong_password")
    weak = {"old_password": VAULT_PASSWORD, "new_password": "short"}
    refused(api.post("vault/rotate", weak), "invalid_request", "new_password")
    assert ok(api.post("vault/rotate", {"old_password": VAULT_PASSWORD, "new_password": new}))["secrets"] == 1
    services.lock()
    ok(api.post("vault/unlock", {"admin_password": new}))
    assert services.sealed_credentials()["provider/a"].reveal() == "sk-one"


def test_there_must_be_a_vault_to_change_its_password(api: Api) -> None:
    refused(api.post("vault/rotate", {"old_password": "x" * 8, "new_password": "y" * 8}), "conflict")


@pytest.mark.parametrize("body", [{}, {"admin_password": None}, {"admin_password": ["x"]}, {"admin_password": ""}])
def test_unlock_needs_a_password(api: Api, body: dict[str, object]) -> None:
    refused(api.post("vault/unlock", body), "invalid_request", "admin_password")


def test_a_secret_goes_in_and_never_comes_out(api: Api, open_vault: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [api.put("vault/secrets/provider/org/a", {"value": "sk-secret-one"}), api.get("vault/secrets")]
    shown = ok(answers[0])
    assert (shown["name"], shown["last_used_at"]) == ("provider/org/a", None)
    assert ok(answers[1])["items"] == [shown]
    changed = ok(api.put("vault/secrets/provider/org/a", {"value": "sk-secret-two"}))
    assert changed["fingerprint"] != shown["fingerprint"]
    assert services.sealed_credentials()["provider/org/a"].reveal() == "sk-secret-two"
    lines = " ".join(f"{one.getMessage()} {getattr(one, 'data', '')}" for one in caplog.records)
    assert "sk-secret" not in lines + "".join(one.content.decode() for one in answers)
    assert ok(api.delete("vault/secrets/provider/org/a")) == {"ok": True}
    refused(api.delete("vault/secrets/provider/org/a"), "not_found")
    assert not Secret.objects.exists()


@pytest.mark.parametrize("value", ["", " sk", "sk\n", "sk\u2013x", None, ["sk"], {"a": 1}])
def test_a_value_must_fit_into_a_header(api: Api, open_vault: None, value: object) -> None:
    refused(api.put("vault/secrets/a", {"value": value}), "invalid_request", "value")


def test_a_name_must_be_one(api: Api, open_vault: None) -> None:
    refused(api.put(f"vault/secrets/{'x' * 261}", {"value": "sk"}), "invalid_request", "name")
    refused(api.put("vault/secrets/%00", {"value": "sk"}), "invalid_request", "name")
    refused(api.delete("vault/secrets/%00"), "not_found")


def test_a_locked_vault_takes_no_secret(api: Api, open_vault: None) -> None:
    services.lock()
    refused(api.put("vault/secrets/a", {"value": "sk"}), "vault_locked")
