"""Providers and their credentials: into the vault, out of sight, and never on to a stranger."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.messages import get_messages
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.urls import reverse

from providers.models import CredentialStore, Provider
from routing.models import Model
from tests.admin.conftest import VAULT_PASSWORD
from tests.admin.forms import errors, submit, text, values
from vault import services as vault
from vault.keyring import KEYRING
from vault.models import Secret

pytestmark = pytest.mark.django_db

CREDENTIAL = "sk-a-credential-nobody-may-read"
OTHER = "sk-another-one"
ADDRESS = "https://llm.example:8443/v1"
LIST = reverse("admin:providers_provider_changelist")
ADD = reverse("admin:providers_provider_add")
NEW = {"id": "acme/main", "type": "openai", "base_url": ADDRESS, "credential": CREDENTIAL}


def page(name: str, provider: str = "acme/main") -> str:
    return reverse(f"admin:providers_provider_{name}", args=[quote(provider)])


def add(client: Client, **changes: Any) -> Any:
    return submit(client, ADD, holding="base_url", **{**NEW, **changes})


def change(client: Client, **changes: Any) -> Any:
    return submit(client, page("change"), holding="base_url", **changes)


def stored() -> str | None:
    """The credential as the data plane would open it."""
    sealed = vault.sealed_credentials().get("provider/acme/main")
    return None if sealed is None else sealed.reveal()


@pytest.fixture
def provider(open_vault: None, admin_client: Client) -> Provider:
    """With a credential, made through the admin."""
    assert add(admin_client).status_code == 302
    return Provider.objects.get()


# -- where the credential goes -------------------------------------------------------------------------------------
def test_a_credential_goes_into_the_vault(provider: Provider) -> None:
    assert (provider.id, provider.cred_store, stored()) == ("acme/main", CredentialStore.VAULT, CREDENTIAL)


def test_a_credential_is_nowhere_in_the_database_in_plain_text(provider: Provider, admin_client: Client) -> None:
    change(admin_client, credential=OTHER)
    assert stored() == OTHER
    held = database()
    assert len(held) > 1000
    for secret in (CREDENTIAL, OTHER):
        for form in (secret.encode(), base64.b64encode(secret.encode()), secret.encode().hex().encode()):
            assert form not in held


def test_a_credential_is_asked_for_again_when_the_form_comes_back(provider: Provider, admin_client: Client) -> None:
    opened = values(admin_client.get(page("change")), holding="base_url")
    for again in (
        add(admin_client, id="acme/other", base_url="llm.example"),
        change(admin_client, credential=OTHER, base_url="llm.example"),
        admin_client.post(page("change"), {**opened, "credential": OTHER, "_version": "of another form"}),
    ):
        assert "Give the credential again" in text(again)
        assert OTHER not in text(again)
        assert CREDENTIAL not in text(again)
    assert stored() == CREDENTIAL
    assert "Give the credential again" not in text(change(admin_client, base_url="llm.example"))


def database() -> bytes:
    """Every value of every table."""
    found = b""
    for model in apps.get_models(include_auto_created=True):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(model._meta.db_table)}")  # noqa: S608
            for row in cursor.fetchall():
                found += b"\n".join(one if isinstance(one, bytes) else str(one).encode() for one in row)
    return found


def test_a_credential_is_on_no_page_in_no_session_and_in_no_log_entry(
    open_vault: None, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [
        add(admin_client),
        change(admin_client, credential=OTHER),
        change(admin_client, credential=OTHER, id="b"),
    ]
    answers += [change(admin_client, credential=OTHER, base_url="rubbish")]
    said = [str(message) for answer in answers for message in get_messages(answer.wsgi_request)]
    pages = [LIST, page("change"), page("history"), page("delete"), ADD, reverse("admin:index")]
    pages.append(reverse("admin:vault_vaultstate_changelist"))
    answers += [admin_client.get(url) for url in pages]
    sessions = [json.dumps(one.get_decoded()) for one in Session.objects.all()]
    entries = [f"{one.object_repr} {one.change_message} {one.get_change_message()}" for one in LogEntry.objects.all()]
    assert (len(sessions) > 0, len(entries) > 1) == (True, True)
    cookies = [str(answer.cookies) for answer in answers]
    for place in [*map(text, answers), *said, *sessions, *entries, *cookies, caplog.text]:
        assert CREDENTIAL not in place
        assert OTHER not in place


def test_the_list_says_whether_there_is_a_credential_by_a_fingerprint(provider: Provider, admin_client: Client) -> None:
    add(admin_client, id="bare", credential="")
    add(admin_client, id="free", credential="", cred_store="none")
    answer = text(admin_client.get(LIST))
    assert f"stored · {Secret.objects.get().fingerprint[:6]}" in answer
    assert ("missing" in answer, "none needed" in answer) == (True, True)


def test_an_empty_field_leaves_the_stored_credential_as_it_is(provider: Provider, admin_client: Client) -> None:
    sealed = bytes(Secret.objects.get().sealed)
    assert change(admin_client, dialects="openai-chat").status_code == 302
    assert (bytes(Secret.objects.get().sealed), Provider.objects.get().dialects) == (sealed, ["openai-chat"])


def test_a_new_credential_takes_the_place_of_the_old_one(provider: Provider, admin_client: Client) -> None:
    assert change(admin_client, credential=OTHER).status_code == 302
    assert (stored(), Secret.objects.count()) == (OTHER, 1)


# -- calls that would go elsewhere -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example:8443/v1",
        "https://llm.example.evil.example:8443/v1",
        "https://llm.example:8444/v1",
        "https://llm.example/v1",
        "http://llm.example:8443/v1",
        "",  # the type's own
    ],
)
def test_another_host_port_or_scheme_needs_the_credential_again(
    address: str, provider: Provider, admin_client: Client
) -> None:
    (said,) = errors(change(admin_client, base_url=address))["base_url"]
    assert "Give the credential again to confirm that." in said
    assert Provider.objects.get().base_url == ADDRESS

    assert change(admin_client, base_url=address, credential=OTHER).status_code == 302
    assert (Provider.objects.get().base_url, stored()) == (address, OTHER)


@pytest.mark.parametrize("address", ["https://llm.example:8443/other", "https://llm.example:8443", ADDRESS + "/"])
def test_another_path_does_not(address: str, provider: Provider, admin_client: Client) -> None:
    assert change(admin_client, base_url=address).status_code == 302
    assert (Provider.objects.get().base_url, stored()) == (address, CREDENTIAL)


def test_a_further_endpoint_elsewhere_needs_the_credential_again(provider: Provider, admin_client: Client) -> None:
    answer = change(admin_client, endpoints="https://llm.example:8443/v1\nhttps://evil.example")
    assert "Calls would go to evil.example:443 now." in text(answer)
    assert Provider.objects.get().endpoints == []
    assert change(admin_client, endpoints="https://llm.example:8443/eu").status_code == 302


def test_another_type_whose_own_address_is_elsewhere_needs_the_credential_again(
    open_vault: None, admin_client: Client
) -> None:
    add(admin_client, base_url="")
    answer = change(admin_client, type="anthropic")
    assert "Calls would go to api.anthropic.com:443 now." in text(answer)
    assert Provider.objects.get().type == "openai"


def test_a_provider_without_a_credential_may_go_anywhere(open_vault: None, admin_client: Client) -> None:
    add(admin_client, credential="", cred_store="none")
    assert change(admin_client, base_url="http://10.9.9.9:1").status_code == 302


def test_none_needed_deletes_the_secret_so_that_coming_back_finds_none(
    provider: Provider, admin_client: Client
) -> None:
    assert change(admin_client, cred_store="none").status_code == 302
    assert not Secret.objects.exists()
    assert change(admin_client, cred_store="vault", base_url="https://evil.example").status_code == 302
    assert stored() is None


def test_a_credential_and_none_needed_contradict_each_other(provider: Provider, admin_client: Client) -> None:
    answer = change(admin_client, cred_store="none", credential=OTHER)
    assert list(errors(answer)) == ["cred_store"]
    assert stored() == CREDENTIAL


# -- a locked vault --------------------------------------------------------------------------------------------------
def test_a_locked_vault_says_so_and_loses_nothing_of_the_form(open_vault: None, admin_client: Client) -> None:
    KEYRING.wipe()
    answer = add(admin_client, dialects="openai-chat", endpoints="https://b.example", enabled="")
    assert errors(answer) == {
        "cred_store": [
            "The vault is locked. Unlock it in the admin, with `manage.py vault unlock`, or by TOKENHUB_VAULT_PASSWORD."
        ]
    }
    left = values(answer, holding="base_url")
    kept = {
        name: left[name] for name in ("id", "type", "base_url", "cred_store", "endpoints", "dialects", "credential")
    }
    assert kept == {
        "id": ["acme/main"], "type": ["openai"], "base_url": [ADDRESS], "cred_store": ["vault"],
        "endpoints": ["https://b.example"], "dialects": ["openai-chat"], "credential": [""],
    }  # fmt: skip
    assert (Provider.objects.count(), Secret.objects.count()) == (0, 0)

    vault.unlock(password=VAULT_PASSWORD)
    assert admin_client.post(ADD, {**left, "credential": CREDENTIAL}).status_code == 302
    assert stored() == CREDENTIAL


def test_a_vault_that_was_never_set_up_is_locked_too(admin_client: Client) -> None:
    assert "The vault is locked." in errors(add(admin_client))["cred_store"][0]
    assert not Provider.objects.exists()


def test_all_but_the_credential_can_be_changed_while_the_vault_is_locked(
    provider: Provider, admin_client: Client
) -> None:
    KEYRING.wipe()
    assert change(admin_client, enabled=[]).status_code == 302
    assert not Provider.objects.get().enabled
    assert list(errors(change(admin_client, credential=OTHER))) == ["cred_store"]
    assert admin_client.post(page("delete"), {"post": "yes"}).status_code == 302
    assert not Secret.objects.exists()


# -- what is refused -------------------------------------------------------------------------------------------------
BAD_ADDRESSES = [
    "llm.example", "ftp://llm.example", "https://", "https://user:pass@llm.example", "https://llm.example:99999",
    "https://llm.example:port", "https://[::1", "https://a b.example", "javascript:alert(1)", "//llm.example",
    "https://llm.example/\r\nX: 1", "https://llm.example/?key=1", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_a_bad_address_is_refused_beside_its_field(address: str, provider: Provider, admin_client: Client) -> None:
    """With a stored credential, too: the page compares the addresses then."""
    for answer in (change(admin_client, base_url=address), add(admin_client, id="new", base_url=address)):
        assert list(errors(answer)) == ["base_url"]
    assert Provider.objects.get().base_url == ADDRESS


@pytest.mark.parametrize(
    "address", ["llm.example", "https://llm.example:99999", "https://[::1", "https://u:p@a.example"]
)
def test_a_bad_endpoint_is_refused_beside_its_field(address: str, provider: Provider, admin_client: Client) -> None:
    assert list(errors(change(admin_client, endpoints=f"{ADDRESS}\n{address}"))) == ["endpoints"]


def test_an_unknown_dialect_is_refused_beside_its_field(provider: Provider, admin_client: Client) -> None:
    (said,) = errors(change(admin_client, dialects="openai-chat, klingon"))["dialects"]
    assert "openai-chat" in said


def test_a_type_without_an_address_of_its_own_needs_one(open_vault: None, admin_client: Client) -> None:
    assert list(errors(add(admin_client, type="vllm", base_url=""))) == ["base_url"]


@pytest.mark.parametrize("type_", ["", "no such type"])
def test_an_unknown_type_is_refused_beside_its_field(type_: str, provider: Provider, admin_client: Client) -> None:
    assert list(errors(change(admin_client, type=type_))) == ["type"]


def test_a_name_that_is_taken_is_refused_beside_its_field(provider: Provider, admin_client: Client) -> None:
    assert list(errors(add(admin_client, credential=OTHER))) == ["id"]
    assert stored() == CREDENTIAL


@pytest.mark.parametrize("credential", ["two\nlines", "schlüssel", "with\x00zero", "tab\there"])
def test_a_credential_that_no_header_takes_is_refused_and_not_repeated(
    credential: str, open_vault: None, admin_client: Client
) -> None:
    answer = add(admin_client, credential=credential)
    assert answer.status_code == 200
    assert set(answer.context["adminform"].errors) <= {"cred_store", "credential"}
    assert credential not in text(answer)
    assert not Secret.objects.exists()


def test_several_things_wrong_are_said_at_once(open_vault: None, admin_client: Client) -> None:
    assert set(errors(add(admin_client, id="a b", base_url="rubbish", dialects="klingon"))) == {
        "id", "base_url", "dialects",
    }  # fmt: skip


# -- the end of a provider -------------------------------------------------------------------------------------------
def test_deleting_asks_first_and_names_the_models_that_go_too(provider: Provider, admin_client: Client) -> None:
    Model.objects.create(id="acme/big", provider=provider)
    answer = text(admin_client.get(page("delete")))
    assert "acme/big" in answer
    assert (Provider.objects.count(), Secret.objects.count()) == (1, 1)


def test_deleting_a_provider_deletes_its_secret_and_models(provider: Provider, admin_client: Client) -> None:
    Model.objects.create(id="acme/big", provider=provider)
    vault.put_secret(name="provider/acme", value=OTHER)
    assert admin_client.post(page("delete"), {"post": "yes"}).status_code == 302
    assert (Provider.objects.count(), Model.objects.count()) == (0, 0)
    assert [secret.name for secret in Secret.objects.all()] == ["provider/acme"]


def test_deleting_several_at_once_deletes_their_secrets_too(provider: Provider, admin_client: Client) -> None:
    add(admin_client, id="second", credential=OTHER)
    action = {"action": "delete_selected", "_selected_action": ["acme/main", "second"], "post": "yes"}
    assert admin_client.post(LIST, action).status_code == 302
    assert (Provider.objects.count(), Secret.objects.count()) == (0, 0)
