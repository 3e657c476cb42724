"""Two who change the same: whoever sends the tag of what he read does not overwrite what he did not see."""

from __future__ import annotations

from typing import Any

import pytest

from keys import services as keys
from keys.models import ClientKey, Project
from routing.models import Alias, AliasVariant, Model, RoutingProfile
from tests.adminapi.api import Api, ok, refused
from vault import services as vault

pytestmark = pytest.mark.django_db


@pytest.fixture
def records(model: Model, open_vault: None) -> dict[str, dict[str, Any]]:
    """Path to a change of it."""
    alias = Alias.objects.create(name="team/main")
    AliasVariant.objects.create(alias=alias, model=model)
    RoutingProfile.objects.create(name="ours", cost=1, latency=0, failure=0, capability=0)
    keys.save_project(project=Project(name="shop"))
    key = keys.issue(name="a key").record
    return {
        "models/org/model/one": {"weight": 9},
        "profiles/ours": {"cost": 0.5, "latency": 0.5},
        "projects/shop": {"budget_usd": 5},
        f"apikeys/{key.pk}": {"name": "another"},
        "providers/org/box": {"enabled": False},  # the last: it takes its models along
    }


def test_every_record_has_a_tag_that_changes_with_it(api: Api, records: dict[str, dict[str, Any]]) -> None:
    for path, change in records.items():
        before = api.get(path).headers["ETag"]
        assert before == api.get(path).headers["ETag"]
        after = api.patch(path, change)
        ok(after)
        assert after.headers["ETag"] == api.get(path).headers["ETag"] != before


def test_a_change_of_what_was_changed_meanwhile_is_refused(api: Api, records: dict[str, dict[str, Any]]) -> None:
    for path, change in records.items():
        tag = api.get(path).headers["ETag"]
        ok(api.call("PATCH", path, change, if_match=tag))
        for method, body in (("PATCH", change), ("DELETE", None)):
            error = refused(api.call(method, path, body, if_match=tag), "precondition_failed")
            assert "Read it again" in error["hint"]
        ok(api.call("DELETE", path, if_match=api.get(path).headers["ETag"]))


def test_an_alias_is_replaced_only_as_it_was_read(api: Api, records: Any) -> None:
    body = {"variants": [{"model_id": "org/model/one", "weight": 3}]}
    tag = api.get("aliases/team/main").headers["ETag"]
    ok(api.call("PUT", "aliases/team/main", body, if_match=tag))
    refused(api.call("PUT", "aliases/team/main", body, if_match=tag), "precondition_failed")
    refused(api.call("PUT", "aliases/new", body, if_match=tag), "precondition_failed")
    assert not Alias.objects.filter(pk="new").exists()


def test_an_upsert_minds_the_tag_too(api: Api, records: Any) -> None:
    refused(api.call("POST", "models", {"id": "org/model/one", "weight": 1}, if_match='"x"'), "precondition_failed")
    body = {"id": "fresh", "provider_id": "org/box"}
    refused(api.call("POST", "models", body, if_match="*"), "precondition_failed")
    assert Model.objects.get().weight == 6


def test_routing_config_and_budget_have_tags(api: Api, db: None) -> None:
    tag = api.get("routing-config").headers["ETag"]
    fresh = api.call("PUT", "routing-config", {"default_mode": "cheap"}, if_match=tag)
    ok(fresh)
    refused(api.call("PUT", "routing-config", {"default_mode": "normal"}, if_match=tag), "precondition_failed")
    refused(api.call("PUT", "budget", {"budget_usd": 5}, if_match="*"), "precondition_failed")
    tag = api.put("budget", {"budget_usd": 5}).headers["ETag"]
    ok(api.call("PUT", "budget", {"budget_usd": 6}, if_match=tag))
    refused(api.call("DELETE", "budget", if_match=tag), "precondition_failed")


def test_a_secret_is_replaced_only_as_it_was(api: Api, open_vault: None) -> None:
    tag = api.put("vault/secrets/a", {"value": "one"}).headers["ETag"]
    ok(api.call("PUT", "vault/secrets/a", {"value": "two"}, if_match=tag))
    refused(api.call("DELETE", "vault/secrets/a", if_match=tag), "precondition_failed")
    assert vault.status().secrets == 1


def test_a_key_is_rotated_only_as_it_was(api: Api, db: None) -> None:
    made = api.post("apikeys", {"name": "shop"})
    key, tag = ok(made)["id"], made.headers["ETag"]
    assert tag == api.get(f"apikeys/{key}").headers["ETag"]
    ok(api.call("POST", f"apikeys/{key}/rotate", {}, if_match=tag))
    refused(api.call("POST", f"apikeys/{key}/rotate", {}, if_match=tag), "precondition_failed")


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_tags_are_read_as_clients_send_them(api: Api, model: Model, form: str) -> None:
    tag = api.get("models/org/model/one").headers["ETag"]
    ok(api.call("PATCH", "models/org/model/one", {"weight": 1}, if_match=form.format(tag)))


def test_use_is_no_change(api: Api, db: None) -> None:
    """Or a busy key could never be changed with a tag."""
    from django.utils import timezone

    key = keys.issue(name="busy").record
    tag = api.get(f"apikeys/{key.pk}").headers["ETag"]
    ClientKey.objects.update(last_used_at=timezone.now())
    ok(api.call("PATCH", f"apikeys/{key.pk}", {"name": "still"}, if_match=tag))
