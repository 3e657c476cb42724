"""Providers and models from a file that is there before the server is."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from providers import services as providers
from providers.models import Provider
from routing.models import Model
from tests.admin.conftest import keyring, open_vault, quick_passwords  # noqa: F401  fixtures
from tests.support.gateway import Gateway
from tests.support.upstream import Upstream
from tokenhub import checks, credentials_file
from tokenhub.credentials_file import Unusable
from vault import services as vault
from vault.models import Secret

SECRET = "sk-a-secret-that-nobody-may-see"
DOCUMENT: dict[str, list[dict[str, Any]]] = {
    "providers": [
        {"id": "open", "type": "vllm", "base_url": "http://10.0.0.5:8000", "cred_store": "none"},
        {"id": "acme", "type": "openai", "api_key": SECRET},
    ],
    "models": [{"id": "m", "provider_id": "open"}, {"id": "n", "provider_id": "acme", "weight": 7}],
}


def file(folder: Path, document: Any = DOCUMENT, mode: int = 0o600) -> Path:
    path = folder / "credentials"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Unusable, match="chmod 600"):
        credentials_file.read(file(tmp_path, mode=mode))


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"models": {}}', '{"providers": ["x"]}', "[" * 100_000])
def test_what_is_no_such_file_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(Unusable) as caught:
        credentials_file.read(file(tmp_path, text))
    assert "credentials" in caught.value.message
    assert text not in caught.value.message.replace("{}", "")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no file"):
        credentials_file.read(tmp_path)


@pytest.mark.django_db
def test_what_is_missing_is_made_and_what_was_edited_stays(open_vault: None, tmp_path: Path) -> None:  # noqa: F811
    document = credentials_file.read(file(tmp_path))
    outcome = credentials_file.apply(document)
    assert outcome.created == ["provider open", "provider acme", "model m", "model n"]
    acme = Provider.objects.get(pk="acme")
    fingerprint = Secret.objects.get(name=acme.secret_name).fingerprint
    Model.objects.filter(pk="n").update(weight=1)
    acme.enabled = False
    providers.save(provider=acme)
    document["providers"][1]["api_key"] = "another"
    again = credentials_file.apply(document)
    assert (again.created, len(again.kept), again.problems) == ([], 4, [])
    assert Model.objects.get(pk="n").weight == 1
    assert not Provider.objects.get(pk="acme").enabled
    assert Secret.objects.get(name=acme.secret_name).fingerprint == fingerprint


@pytest.mark.django_db
def test_what_needs_the_vault_waits_for_it(open_vault: None, tmp_path: Path) -> None:  # noqa: F811
    vault.lock()
    document = credentials_file.read(file(tmp_path))
    outcome = credentials_file.apply(document)
    assert (outcome.created, outcome.waiting) == (["provider open", "model m"], ["provider acme", "model n"])
    with pytest.raises(CommandError, match="locked"):
        call_command("import_credentials", tmp_path / "credentials", stdout=StringIO())


@pytest.mark.django_db
def test_one_bad_entry_does_not_spoil_the_others(open_vault: None, tmp_path: Path) -> None:  # noqa: F811
    document = {
        "providers": [{"id": "a", "type": "wrong", "api_key": SECRET}, DOCUMENT["providers"][0]],
        "models": [{"id": "m", "provider_id": "open", "weight": 99}, {"id": "k", "provider_id": "open"}],
    }
    path = file(tmp_path, document)
    out = StringIO()
    with pytest.raises(CommandError, match=r"providers\[0\].type") as caught:
        call_command("import_credentials", path, stdout=out)
    assert "models[0].weight" in str(caught.value)
    assert SECRET not in str(caught.value) + out.getvalue()
    assert (Provider.objects.get().pk, Model.objects.get().pk) == ("open", "k")


@pytest.mark.django_db
def test_models_are_loaded_where_that_is_asked_for_and_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr("routing.catalogue.look_up", lambda asked: [None] * len(asked))
    with Upstream(models=("one", "two")) as upstream:
        entry = {
            "id": "p", "type": "openai", "base_url": upstream.url, "cred_store": "none", "autoload_models": True,
        }  # fmt: skip
        document = {"providers": [entry]}
        assert credentials_file.apply(document).created == ["provider p", "model one", "model two"]
        Model.objects.get(pk="two").delete()
        assert credentials_file.apply(document).created == []


def test_a_server_reads_it_at_its_start_and_when_the_vault_opens(tmp_path: Path) -> None:
    with Upstream() as upstream:
        document = {
            "providers": [{"id": "p", "type": "openai", "base_url": upstream.url, "api_key": SECRET}],
            "models": [{"id": "m", "provider_id": "p"}],
        }
        file(tmp_path, document)
        with Gateway(tmp_path, env={"TOKENHUB_VAULT_PASSWORD": ""}, workers=2) as gateway:
            assert gateway.chat("m").status_code == 404
            token = (tmp_path / "admin-token").read_text().strip()
            opened = gateway.post(
                "/admin/v1/vault/unlock", {"admin_password": "of eight"}, headers={"Authorization": f"Bearer {token}"}
            )
            assert opened.status_code == 200
            gateway.wait_until(lambda: gateway.chat("m").status_code == 200, seconds=20)
            assert upstream.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
            assert SECRET not in gateway.log()
            (entry,) = gateway.query("SELECT * FROM telemetry_auditentry WHERE action = 'model.upsert'")
            assert (entry["actor"], entry["source"]) == ("credentials-file", "server")


def test_check_tells_of_a_file_that_cannot_be_used(tmp_path: Path, settings: Settings) -> None:
    settings.TOKENHUB_CREDENTIALS_FILE = tmp_path / "credentials"
    assert checks.credentials_file_is_usable() == []
    file(tmp_path, mode=0o644)
    (warning,) = checks.credentials_file_is_usable()
    assert "chmod 600" in warning.msg
