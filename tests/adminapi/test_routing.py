"""What the router would do, and what it knows of its targets."""

from __future__ import annotations

from time import monotonic
from typing import Any
from uuid import UUID

import pytest

from keys import services as keys
from providers.models import Provider
from providers.outcomes import ErrorClass
from routing.health import Health
from routing.health_store import HealthStore
from routing.models import Feedback, Model
from tests.adminapi.api import Api, ok, refused

pytestmark = pytest.mark.django_db

ID = "org/model/one"


@pytest.fixture
def pair(model: Model, provider: Provider) -> None:
    Model.objects.create(id="dear", provider=provider, weight=9, input_per_1k=5, output_per_1k=5)


def another_worker(error: ErrorClass, times: int) -> None:
    """Has seen the model fail."""
    health = Health()
    store = HealthStore(health)
    for _ in range(times):
        health.failed("org/box", ID, error, now=monotonic(), retry_after=None, status=500)
    store.sync()
    store.save()


def test_a_simulation_decides_and_gives_its_reasons(api: Api, pair: None) -> None:
    result = ok(api.post("routing/simulate", {"token_count": 1000, "output_tokens": 0}))
    assert result["decision"] == {
        "model_id": ID, "provider_id": "org/box", "reason": "routed-weight-6", "estimated_cost_usd": 0.001,
    }  # fmt: skip
    assert [one["model_id"] for one in result["eligible"]] == [ID]
    assert set(result["eligible"][0]["parts"]) == {"cost", "latency", "failure", "capability"}
    (out,) = result["excluded"]
    assert (out["model_id"], out["score"], bool(out["excluded_reason"])) == ("dear", None, True)
    chosen = ok(api.post("routing/simulate", {"model_hint": "dear"}))["decision"]
    assert (chosen["model_id"], chosen["reason"]) == ("dear", "model-hint")


def test_a_simulation_knows_what_other_workers_saw(api: Api, model: Model) -> None:
    another_worker(ErrorClass.TRANSIENT, 5)
    result = ok(api.post("routing/simulate"))
    assert result["decision"]["reason"] == "last-resort"
    assert "down" in result["excluded"][0]["excluded_reason"]


def test_a_simulation_may_be_as_a_client_key(api: Api, pair: None) -> None:
    key = keys.issue(name="shop", allowed_models=["dear"]).record
    body = {"api_key_id": str(key.pk), "max_budget_usd": 100}
    assert ok(api.post("routing/simulate", body))["decision"]["model_id"] == "dear"
    refused(api.post("routing/simulate", {"api_key_id": "nobody"}), "not_found", "api_key_id")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"mode": "hasty"}, "invalid_request", "mode"),
        ({"token_count": -1}, "invalid_request", "token_count"),
        ({"token_count": 10**30}, "invalid_request", "token_count"),
        ({"token_count": "many"}, "invalid_request", "token_count"),
        ({"max_budget_usd": 101}, "invalid_request", "max_budget_usd"),
        ({"max_budget_usd": "NaN"}, "invalid_request", "max_budget_usd"),
        ({"max_latency_ms": 300_001}, "invalid_request", "max_latency_ms"),
        ({"min_weight": 11}, "invalid_request", "min_weight"),
        ({"abilities": ["flying"]}, "invalid_request", "abilities[0]"),
        ({"model_hint": "nope"}, "model_not_found", "model_hint"),
        ({"tokens": 1}, "invalid_request", "tokens"),
    ],
)
def test_a_wrong_question_is_refused(api: Api, model: Model, body: dict[str, Any], code: str, param: str) -> None:
    refused(api.post("routing/simulate", body), code, param)


def test_with_no_model_nobody_is_chosen(api: Api) -> None:
    assert ok(api.post("routing/simulate")) == {"decision": None, "eligible": [], "excluded": []}


def test_every_target_is_shown_with_state_and_figures(api: Api, pair: None) -> None:
    another_worker(ErrorClass.TRANSIENT, 5)
    page = ok(api.get("engine/models"))
    assert page["total"] == 2
    first, second = sorted(page["items"], key=lambda one: str(one["state"]), reverse=True)
    assert (first["model_id"], first["state"], first["resting"]) == (ID, "down", "down")
    assert (first["total_requests"], first["total_errors"], first["consec_errors"]) == (5, 5, 5)
    assert first["cooldown_until"] is not None
    # nobody asked it; its provider is degraded
    assert (second["model_id"], second["state"], second["cooldown_until"]) == ("dear", "degraded", None)
    assert (second["routable"], second["credential"], second["avg_latency_ms"]) == (True, "none", None)
    assert len(ok(api.get("engine/models?limit=1&offset=1"))["items"]) == 1


def test_health_has_the_shape_of_the_contract(api: Api, pair: None) -> None:
    another_worker(ErrorClass.TRANSIENT, 5)
    (shown,) = ok(api.get("health"))["providers"]
    fields = {
        "provider_id", "state", "total_requests", "total_errors", "consec_errors", "avg_latency_ms", "last_error",
        "last_success_at", "cooldown_until", "models",
    }  # fmt: skip
    assert fields <= set(shown)
    assert shown["state"] == "degraded"
    assert {one["model_id"]: one["state"] for one in shown["models"]} == {"dear": "healthy", ID: "down"}


def test_another_policy_is_evaluated(api: Api, model: Model) -> None:
    result = ok(api.post("routing/evaluate", {"policy": "random", "days": 7}))
    assert (result["rows"], result["reward"]) == (0, None)
    assert result["warnings"]
    refused(api.post("routing/evaluate", {"policy": "nothing"}), "invalid_request", "policy")
    refused(api.post("routing/evaluate", {"policy": "random", "days": 0}), "invalid_request", "days")


def test_rewards_are_listed_newest_first(api: Api) -> None:
    for number in range(3):
        Feedback.objects.create(
            request_id=UUID(int=number), api_key_id="k", model_id=f"m{number % 2}", score=0.5, reward=0.25,
            parts={"feedback": {"value": 0.5, "weight": 4.0}},
        )  # fmt: skip
    page = ok(api.get("rewards?limit=2"))
    assert (page["total"], [one["model_id"] for one in page["items"]]) == (3, ["m0", "m1"])
    assert page["items"][0]["parts"]["feedback"]["weight"] == 4.0
    rest = ok(api.get(f"rewards?limit=2&cursor={page['next_cursor']}"))
    assert (len(rest["items"]), rest["next_cursor"]) == (1, None)
    assert ok(api.get("rewards?model_id=m1"))["total"] == 1
