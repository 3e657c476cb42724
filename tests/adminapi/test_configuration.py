"""The configuration as one document: out, and in again."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from keys import services as keys
from keys.models import ClientKey, Project
from providers.models import Provider
from routing import services as routing
from routing.models import Alias, Model, Price, PriceSource
from routing.snapshot_build import config_version
from telemetry.models import AuditEntry, Webhook
from tests.adminapi.api import Api, ok, refused
from vault import services as vault

pytestmark = pytest.mark.django_db
SECRET = "sk-a-secret-that-nobody-may-see"


@pytest.fixture
def filled(api: Api, model: Model, open_vault: None) -> Any:
    """Something of everything, and its export."""
    ok(api.post("providers", {"id": "acme", "type": "openai", "api_key": SECRET, "endpoints": ["http://10.0.0.6"]}))
    Model.objects.filter(pk=model.pk).update(price_source=PriceSource.CATALOGUE)
    tier = Price(model=model, starts_at="2026-01-31T00:00:00Z", above_input_tokens=1000, input_per_1k="0.002")
    routing.save_price(price=tier, source=PriceSource.CATALOGUE)
    ok(api.put("aliases/team/main", {"variants": [{"model_id": model.pk, "weight": 3}], "sticky_by": "api_key"}))
    ok(api.post("profiles", {"name": "ours", "cost": 1, "latency": 0, "failure": 0, "capability": 0}))
    ok(api.post("projects", {"name": "shop", "rate_limit_rpm": 60, "budget_usd": 12.5, "budget_period": "day"}))
    ok(api.post("apikeys", {"name": "shop", "project": "shop", "tags": ["a"], "monthly_budget_usd": 3}))
    ok(api.post("webhooks", {"url": "https://example.com/hook", "events": ["test"]}))
    ok(api.put("routing-config", {"default_mode": "ours"}))
    ok(api.put("budget", {"budget_usd": 100, "budget_period": "month"}))
    return ok(api.get("config/export"))


def empty() -> None:
    vault.delete_secret(name="provider/acme")
    for one in (Alias, Model, Provider, ClientKey, Project, Webhook):
        one.objects.all().delete()
    keys.set_budget(subject="installation", amount_usd=None)


def test_an_export_holds_everything_but_secrets(api: Api, filled: Any) -> None:
    text = json.dumps(filled)
    assert {name: len(rows) for name, rows in filled.items() if isinstance(rows, list)} == {
        "providers": 2, "models": 1, "prices": 1, "aliases": 1, "profiles": 1, "projects": 1, "apikeys": 1,
        "webhooks": 1,
    }  # fmt: skip
    digest = ClientKey.objects.get().digest
    assert not [word for word in (SECRET, digest, "whsec_", "fingerprint", "spent_usd") if word in text]


def test_importing_an_export_changes_nothing(api: Api, filled: Any) -> None:
    version, entries = config_version(), AuditEntry.objects.count()
    outcome = ok(api.post("config/import", filled))
    assert (outcome["created"], outcome["changed"], outcome["unchanged"]) == (0, 0, 11)
    assert (config_version(), AuditEntry.objects.count()) == (version, entries)
    assert ok(api.get("config/export")) == filled


def test_an_empty_installation_becomes_the_same(api: Api, filled: Any) -> None:
    empty()
    ok(api.put("routing-config", {"default_mode": None}))
    ok(api.delete("profiles/ours"))
    outcome = ok(api.post("config/import", filled))
    assert (outcome["created"], outcome["changed"], outcome["unchanged"]) == (10, 1, 0)
    assert ok(api.get("config/export")) == filled
    assert ok(api.get("providers/acme"))["credential"] == "missing"
    key = ok(api.post(f"apikeys/{filled['apikeys'][0]['id']}/rotate"))["key"]
    assert key.startswith("tokenhub_")


def test_a_dry_run_tells_and_changes_nothing(api: Api, filled: Any) -> None:
    changed = copy.deepcopy(filled)
    changed["models"][0]["weight"] = 1
    changed["models"].append({"id": "second", "provider_id": "acme"})
    entries = AuditEntry.objects.count()
    outcome = ok(api.post("config/import?dry_run=true", changed))
    assert (outcome["dry_run"], outcome["created"], outcome["changed"]) == (True, 1, 1)
    assert [one for one in outcome["items"] if one["action"] != "unchanged"] == [
        {"path": "models[0]", "id": "org/model/one", "action": "changed"},
        {"path": "models[1]", "id": "second", "action": "created"},
    ]
    assert ok(api.get("config/export")) == filled
    assert AuditEntry.objects.count() == entries
    refused(api.post("config/import?dry_run=perhaps", changed), "invalid_request", "dry_run")


def test_all_or_nothing_and_each_problem_has_its_path(api: Api, filled: Any) -> None:
    bad = {
        "providers": [{"id": "fine", "type": "openai", "cred_store": "none"}, {"id": "b", "type": "vllm", "nmae": 1}],
        "models": [{"id": "m", "provider_id": "fine"}, {"id": "org/model/one", "weight": 11}, {"weight": 1}, "text"],
        "aliases": [{"name": "a", "variants": [{"model_id": "nowhere"}]}],
        "profiles": [{"name": "x", "cost": 1, "latency": 1, "failure": 0, "capability": 0}],
        "apikeys": [{"id": "no-uuid", "name": "x"}, {"name": "x"}],
        "prices": [{"model_id": "org/model/one", "starts_at": "soon", "above_input_tokens": 0}],
        "budget": {"budget_usd": -1},
        "routing_config": {"default_mode": "wild"},
    }
    error = api.post("config/import", bad).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "providers[1].nmae")
    assert [one["path"] for one in error["errors"]] == [
        "providers[1].nmae", "models[1].weight", "models[2].id", "models[3]", "prices[0].starts_at",
        "aliases[0].variants[0].model_id", "profiles[0]", "apikeys[0].id", "apikeys[1].id",
        "routing_config.default_mode", "budget.budget_usd",
    ]  # fmt: skip
    assert ok(api.get("config/export")) == filled


@pytest.mark.parametrize(
    ("body", "path"), [({"provider": []}, "provider"), ({"models": {}}, "models"), ({"version": 2}, "version")]
)
def test_what_is_no_configuration_is_named(api: Api, body: Any, path: str) -> None:
    error = api.post("config/import", body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", path)


def test_an_import_sends_no_credential_to_a_stranger(api: Api, filled: Any) -> None:
    filled["providers"][0]["base_url"] = "http://evil.example"
    error = api.post("config/import", {"providers": filled["providers"]}).json()["error"]
    assert error["param"] == "providers[0].base_url"
    assert "credential again" in error["message"]
    filled["providers"][0]["api_key"] = "another"
    assert ok(api.post("config/import", {"providers": filled["providers"]}))["changed"] == 1
    vault.lock()
    error = api.post("config/import", {"providers": filled["providers"]}).json()["error"]
    assert "locked" in error["message"]


def test_what_is_not_named_stays(api: Api, filled: Any) -> None:
    assert ok(api.post("config/import", {}))["items"] == []
    assert ok(api.get("config/export")) == filled
