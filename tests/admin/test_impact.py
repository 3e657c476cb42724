"""Dangerous actions ask first, and say who would notice."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from keys import services as keys
from keys.models import ClientKey
from providers.models import Provider
from routing.models import Alias, AliasVariant, Model, RoutingProfile
from tests.admin.forms import submit, text
from tests.admin.samples import budget, client_key, model, profile
from tests.admin.test_pages import url_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def used(db: None) -> Model:
    """One model, which two aliases and one key use; one of the aliases has another one, too."""
    found = model(1)
    for name in ("lonely", "pair"):
        AliasVariant.objects.create(alias=Alias.objects.create(name=name), model=found)
    AliasVariant.objects.create(alias=Alias.objects.get(name="pair"), model=model(2))
    keys.issue(name="shop", allowed_models=[found.pk, "pair"])
    keys.issue(name="free")
    return found


TOLD = ["2 aliases use it: lonely, pair.", "lonely would have nobody left to answer.", "1 client key lists it: shop."]


def selected(client: Client, rows: Any, action: str, *, sure: bool = False) -> Any:
    chosen = [row.pk for row in rows]
    post = {"action": action, "_selected_action": chosen, **({"sure": "yes"} if sure else {})}
    return client.post(url_of(type(rows[0]), "changelist"), post)


def test_a_model_is_deleted_after_its_impact_was_told(admin_client: Client, used: Model) -> None:
    answers = (
        admin_client.get(url_of(Model, "delete", used)), selected(admin_client, [used], "delete_selected")
    )  # fmt: skip
    for answer in answers:
        assert [one for one in TOLD if one not in text(answer)] == []
    assert Model.objects.filter(pk=used.pk).exists()


def test_a_model_is_disabled_after_its_impact_was_told(admin_client: Client, used: Model) -> None:
    asked = selected(admin_client, [used], "disable")
    assert [one for one in TOLD if one not in text(asked)] == []
    assert Model.objects.get(pk=used.pk).enabled
    assert selected(admin_client, [used], "disable", sure=True).status_code == 302
    assert not Model.objects.get(pk=used.pk).enabled
    assert selected(admin_client, [used], "enable").status_code == 302
    assert Model.objects.get(pk=used.pk).enabled


def test_what_nobody_uses_has_no_impact(admin_client: Client) -> None:
    row = model(1)
    assert 'id="impact"' not in text(admin_client.get(url_of(Model, "delete", row)))


def test_impact_of_the_other_rows_is_told(admin_client: Client, used: Model) -> None:
    key = client_key(name="busy", project="paid/1")
    ClientKey.objects.filter(pk=key.pk).update(last_used_at=timezone.now())
    owned = budget(1)
    RoutingProfile.objects.create(name="normal", cost=0.1, latency=0.2, failure=0.3, capability=0.4)
    from keys.models import Project

    said = {
        url_of(Provider, "delete", used.provider): "1 model would go with it.",
        url_of(Alias, "delete", Alias.objects.get(name="pair")): "1 client key lists it: shop.",
        url_of(RoutingProfile, "delete", RoutingProfile.objects.get(name="normal")): "normal is the default mode.",
        url_of(ClientKey, "delete", key): "It was used within the last week, busy at",
        url_of(Project, "delete", Project.objects.get(name="paid/1")): "1 client keys go on without its limits.",
        url_of(type(owned), "delete", owned): "From then on nothing stops what it stops now.",
    }
    assert {url: words for url, words in said.items() if words not in text(admin_client.get(url))} == {}
    assert 'id="impact"' not in text(admin_client.get(url_of(RoutingProfile, "delete", profile(1))))


def test_the_last_provider_is_told_to_be_the_last(admin_client: Client) -> None:
    row = model(1)
    words = "No enabled model would be left to answer anybody."
    assert words in text(admin_client.get(url_of(Provider, "delete", row.provider)))
    model(2)
    assert words not in text(admin_client.get(url_of(Provider, "delete", row.provider)))


def test_keys_are_revoked_after_a_question_and_stay_in_the_list(admin_client: Client) -> None:
    key = client_key(1)
    assert "Revoke these client keys?" in text(selected(admin_client, [key], "revoke"))
    assert ClientKey.objects.get().enabled
    assert selected(admin_client, [key], "revoke", sure=True).status_code == 302
    assert not ClientKey.objects.get().enabled


def test_an_action_changes_all_rows_or_none_and_says_so(admin_client: Client) -> None:
    first, second = client_key(1), client_key(2)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER refusing BEFORE UPDATE ON keys_clientkey WHEN (SELECT count(*) FROM keys_clientkey"
            " WHERE NOT enabled) > 0 BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    refused = selected(admin_client, [first, second], "revoke", sure=True)
    assert refused.status_code == 409
    assert "An action on several rows of a list has changed none of them." in text(refused)
    assert ClientKey.objects.filter(enabled=True).count() == 2


def test_the_vault_is_locked_after_a_question(admin_client: Client, open_vault: None) -> None:
    from vault import services as vault

    asked = admin_client.post("/admin/vault/vaultstate/", {"do": "lock"})
    assert "Lock it?" in text(asked)
    assert not vault.status().locked
    assert admin_client.post("/admin/vault/vaultstate/", {"do": "lock", "sure": "yes"}).status_code == 302
    assert vault.status().locked


# -- switches and sliders in the list of models ------------------------------------------------------------------------
def test_weight_and_state_are_changed_in_the_list(admin_client: Client) -> None:
    row = model(1, weight=3)
    changed = submit(
        admin_client, url_of(Model, "changelist"), holding="form-0-weight", **{"form-0-weight": "8", "_save": "Save"}
    )
    assert changed.status_code == 302
    row.refresh_from_db()
    assert (row.weight, row.enabled) == (8, True)
    refused = submit(
        admin_client, url_of(Model, "changelist"), holding="form-0-weight", **{"form-0-weight": "11", "_save": "Save"}
    )
    assert refused.status_code == 200
    row.refresh_from_db()
    assert row.weight == 8
