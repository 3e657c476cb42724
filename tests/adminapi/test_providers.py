"""Providers and their credentials by the API: into the vault, out of sight, and never on to a stranger."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from providers.models import Provider
from tests.adminapi.api import Api, ok, refused
from vault import services as vault
from vault.models import Secret

pytestmark = pytest.mark.django_db

CREDENTIAL = "sk-a-credential-nobody-may-read"
NEW = {"id": "acme/main", "type": "openai", "base_url": "https://llm.example:8443/v1", "api_key": CREDENTIAL}


def stored() -> str:
    return vault.sealed_credentials()["provider/acme/main"].reveal()


def test_a_credential_goes_into_the_vault_and_never_comes_back(
    api: Api, open_vault: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [
        api.post("providers", NEW),
        api.get("providers"),
        api.get("providers/acme/main"),
        api.get("vault/secrets"),
    ]
    shown = ok(answers[0])
    assert (shown["id"], shown["enabled"], shown["cred_store"], shown["credential"]) == (
        "acme/main", True, "vault", "stored",
    )  # fmt: skip
    assert shown["credential_fingerprint"] == Secret.objects.get().fingerprint
    assert stored() == CREDENTIAL
    assert not [one for one in answers if CREDENTIAL in one.content.decode()]
    lines = " ".join(f"{one.getMessage()} {getattr(one, 'data', '')}" for one in caplog.records)
    assert CREDENTIAL not in lines


def test_a_second_post_changes_the_fields_that_are_given(api: Api, open_vault: None) -> None:
    ok(api.post("providers", NEW))
    shown = ok(api.post("providers", {"id": "acme/main", "enabled": False}))
    assert (shown["enabled"], shown["base_url"], shown["type"]) == (False, NEW["base_url"], "openai")
    assert stored() == CREDENTIAL
    ok(api.patch("providers/acme/main", {"api_key": "sk-another", "enabled": True}))
    assert stored() == "sk-another"
    ok(api.patch("providers/acme/main", {"api_key": None, "dialects": ["openai-chat"]}))
    assert stored() == "sk-another"


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "https://evil.example/v1"},
        {"base_url": "http://llm.example:8443/v1"},
        {"base_url": "https://llm.example/v1"},
        {"base_url": ""},
        {"endpoints": ["https://evil.example"]},
    ],
)
def test_a_changed_origin_asks_for_the_credential_again(api: Api, open_vault: None, change: dict[str, Any]) -> None:
    ok(api.post("providers", NEW))
    for answer in (api.patch("providers/acme/main", change), api.post("providers", {"id": "acme/main", **change})):
        error = refused(answer, "invalid_request", "base_url")
        assert "credential again" in error["message"]
    assert Provider.objects.get().bases == [NEW["base_url"]]
    ok(api.patch("providers/acme/main", {**change, "api_key": "sk-for-there"}))
    assert stored() == "sk-for-there"


def test_a_locked_vault_takes_no_credential(api: Api, open_vault: None) -> None:
    ok(api.post("providers", NEW))
    vault.lock()
    refused(api.patch("providers/acme/main", {"api_key": "sk-another"}), "vault_locked")
    refused(api.post("providers", {**NEW, "id": "other"}), "vault_locked")
    assert not Provider.objects.filter(id="other").exists()
    ok(api.patch("providers/acme/main", {"enabled": False}))


def test_a_provider_without_a_credential_needs_no_vault(api: Api) -> None:
    shown = ok(api.post("providers", {"id": "box", "type": "vllm", "base_url": "http://h:1", "cred_store": "none"}))
    assert shown["credential"] == "none"
    assert ok(api.post("providers", {"id": "ant", "type": "anthropic"}))["credential"] == "missing"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"type": "openai"}, "id"),
        ({"id": "a"}, "type"),
        ({"id": "a b", "type": "openai"}, "id"),
        ({"id": "x" * 201, "type": "openai"}, "id"),
        ({"id": "a", "type": "gopher"}, "type"),
        ({"id": "a", "type": "vllm"}, "base_url"),
        ({"id": "a", "type": "openai", "base_url": "ftp://h"}, "base_url"),
        ({"id": "a", "type": "openai", "base_url": "https://u:p@h"}, "base_url"),
        ({"id": "a", "type": "openai", "endpoints": "https://h"}, "endpoints"),
        ({"id": "a", "type": "openai", "endpoints": ["nowhere"]}, "endpoints"),
        ({"id": "a", "type": "openai", "dialects": ["latin"]}, "dialects[0]"),
        ({"id": "a", "type": "openai", "dialects": [["x"]]}, "dialects[0]"),
        ({"id": "a", "type": "openai", "enabled": "perhaps"}, "enabled"),
        ({"id": "a", "type": "openai", "cred_store": "drawer"}, "cred_store"),
        ({"id": "a", "type": "openai", "cred_store": "none", "api_key": "sk"}, "cred_store"),
        ({"id": "a", "type": "openai", "api_key": "two\nlines"}, "cred_store"),
        ({"id": "a", "type": "openai", "api_key": ["sk"]}, "api_key"),
    ],
)
def test_a_wrong_field_is_named(api: Api, open_vault: None, body: dict[str, Any], param: str) -> None:
    refused(api.post("providers", body), "invalid_request", param)
    assert not Provider.objects.exists()


def test_an_id_stays(api: Api, provider: Provider) -> None:
    refused(api.patch("providers/org/box", {"id": "org/other"}), "invalid_request", "id")
    ok(api.patch("providers/org/box", {"id": "org/box", "enabled": False}))


def test_a_deleted_provider_takes_its_credential_along(api: Api, open_vault: None) -> None:
    ok(api.post("providers", NEW))
    assert ok(api.delete("providers/acme/main")) == {"ok": True}
    assert not Secret.objects.exists()
    for answer in (api.get("providers/acme/main"), api.delete("providers/acme/main"), api.patch("providers/acme/main")):
        refused(answer, "not_found")


def test_a_long_list_costs_no_more_queries(api: Api, django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        Provider.objects.create(id=f"p{number}", type="openai")
    with django_assert_max_num_queries(3):
        assert len(ok(api.get("providers"))["items"]) == 20
