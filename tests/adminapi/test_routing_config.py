"""The defaults of routing: the environment's, unless the database sets them."""

from __future__ import annotations

import pytest
from pytest_django import Settings

from routing.models import Model, RoutingProfile
from routing.policy import Policy
from routing.snapshot_build import build_snapshot, config_version
from tests.adminapi.api import Api, ok, refused

pytestmark = pytest.mark.django_db


def test_the_environment_speaks_until_something_is_set(api: Api, settings: Settings) -> None:
    settings.TOKENHUB_DEFAULT_MAX_LATENCY_MS = 1234
    assert ok(api.get("routing-config")) == {
        "default_mode": "normal", "default_max_budget_usd": 0.05, "default_max_latency_ms": 1234, "overridden": [],
    }  # fmt: skip
    version = config_version()
    shown = ok(api.put("routing-config", {"default_mode": "cheap", "default_max_budget_usd": 0.5}))
    assert shown == {
        "default_mode": "cheap", "default_max_budget_usd": 0.5, "default_max_latency_ms": 1234,
        "overridden": ["default_mode", "default_max_budget_usd"],
    }  # fmt: skip
    assert config_version() > version
    assert build_snapshot().default_policy == Policy("cheap", max_budget_nano=500_000_000, max_latency_ms=1234)
    ok(api.put("routing-config", {"default_mode": None, "default_max_latency_ms": 0}))
    assert build_snapshot().default_policy == Policy("normal", max_budget_nano=500_000_000)


def test_what_the_router_decides_follows(api: Api, model: Model) -> None:
    ok(api.put("routing-config", {"default_max_budget_usd": 0.000001}))
    assert ok(api.post("routing/simulate", {}))["decision"] is None
    ok(api.put("routing-config", {"default_max_budget_usd": 0}))
    assert ok(api.post("routing/simulate", {}))["decision"]["model_id"] == model.pk


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("default_mode", "wild"),
        ("default_max_budget_usd", -1),
        ("default_max_budget_usd", 101),
        ("default_max_latency_ms", 300_001),
        ("mode", "cheap"),
    ],
)
def test_a_bad_value_is_named(api: Api, name: str, value: object) -> None:
    refused(api.put("routing-config", {name: value}), "invalid_request", name)


def test_a_mode_of_ones_own_can_be_the_default_and_stays_then(api: Api) -> None:
    ok(api.post("profiles", {"name": "ours", "cost": 1, "latency": 0, "failure": 0, "capability": 0}))
    ok(api.put("routing-config", {"default_mode": "ours"}))
    assert build_snapshot().default_policy.mode == "ours"
    refused(api.delete("profiles/ours"), "conflict")
    RoutingProfile.objects.all().delete()  # whatever happens
    assert build_snapshot().default_policy.mode == "normal"
