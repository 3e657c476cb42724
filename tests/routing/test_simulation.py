"""What the router would do, without calling anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from providers.outcomes import ErrorClass
from routing.breaker import DOWN_AFTER
from routing.errors import ApiError
from routing.health import Health
from routing.simulation import Question, simulate
from routing.snapshot import Alias, Snapshot, Variant
from tests.support.gateway import Gateway, run_manage
from tests.support.targets import NOW, prices, provider, snapshot, target

SMALL = target("small", at=provider("p1"), weight=2, context=10_000, priced=prices(1_000_000, 1_000_000))
LARGE = target("large", at=provider("p2"), weight=9, abilities=["vision"], priced=prices(50_000_000, 50_000_000))
BOTH = snapshot(SMALL, LARGE)


def ask(*, at: Snapshot = BOTH, health: Health | None = None, **fields: Any) -> dict[str, Any]:
    return simulate(Question(**fields), at, health or Health(), vault_open=True, now=NOW)


def test_a_mode_decides() -> None:
    assert ask(mode="cheap")["decision"]["model_id"] == "small"
    decision = ask(mode="high_confidence", token_count=1000, output_tokens=1000)["decision"]
    assert decision == {
        "model_id": "large", "provider_id": "p2", "reason": "routed-weight-9", "estimated_cost_usd": 0.1,
    }  # fmt: skip


def test_every_candidate_shows_its_parts_or_why_it_is_out() -> None:
    result = ask(mode="cheap", abilities=["vision"])
    (shown,) = result["eligible"]
    parts = shown["parts"]
    assert shown["score"] == pytest.approx(parts["cost"] + parts["latency"] + parts["failure"] - parts["capability"])
    assert [(one["model_id"], one["excluded_reason"]) for one in result["excluded"]] == [("small", "lacks_vision")]
    assert ask(token_count=9_000)["excluded"][0]["excluded_reason"] == "context_too_small"
    assert ask(min_weight=5)["excluded"][0]["excluded_reason"] == "below_min_weight"
    assert {one["excluded_reason"] for one in ask(max_budget_usd=0.00001)["excluded"]} == {"over_budget"}


def test_a_named_model_is_asked_first_unless_it_rests_beside_others() -> None:
    assert ask(model_hint="large")["decision"]["reason"] == "model-hint"
    health = Health()
    health.failed("p2", "large", ErrorClass.RATE_LIMITED, now=NOW, retry_after=60.0, status=429)
    assert ask(model_hint="large", health=health)["decision"]["model_id"] == "small"
    assert ask(model_hint="large", health=health, at=snapshot(LARGE))["decision"]["model_id"] == "large"


def test_when_all_are_down_the_last_resort_is_told() -> None:
    health = Health()
    for _ in range(DOWN_AFTER):
        health.failed("p1", "small", ErrorClass.TRANSIENT, now=NOW, retry_after=None, status=500)
    assert ask(health=health)["decision"]["model_id"] == "large"
    decision = ask(health=health, at=snapshot(SMALL))["decision"]
    assert (decision["model_id"], decision["reason"]) == ("small", "last-resort")
    assert ask(health=health, at=snapshot(SMALL), abilities=["vision"])["decision"] is None


def test_an_alias_stands_for_its_largest_variant() -> None:
    alias = Alias("a", "request", (Variant(SMALL, 0.25), Variant(LARGE, 0.75)))
    at = Snapshot(targets=BOTH.targets, routable=BOTH.routable, aliases={"a": alias})
    assert ask(model_hint="a", at=at)["decision"]["reason"] == "alias-variant"
    assert ask(model_hint="a", at=at)["decision"]["model_id"] == "large"


def test_nobody_left_is_no_decision() -> None:
    result = ask(min_weight=10)
    assert (result["decision"], result["eligible"], len(result["excluded"])) == (None, [], 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mode": "fancy"}, "mode"), ({"max_budget_usd": -1}, "max_budget_usd"), ({"token_count": -1}, "token_count"),
        ({"model_hint": "nobody"}, "model"), ({"api_key_id": "nobody"}, "api_key_id"),
    ],
)  # fmt: skip
def test_an_impossible_question_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        ask(**fields)
    assert refused.value.param == param


def test_the_command_tells_it_in_a_table_or_as_json(tmp_path: Path) -> None:
    Gateway(
        tmp_path,
        providers=[{"id": "p", "type": "openai", "base_url": "http://127.0.0.1:9"}],
        models=[
            {"id": "small", "provider_id": "p", "weight": 2, "input_per_1k": "0.001", "output_per_1k": "0.001"},
            {"id": "large", "provider_id": "p", "weight": 9, "input_per_1k": "0.01", "output_per_1k": "0.01"},
        ],
    )
    told = run_manage("simulate", "--mode", "cheap", "--min-weight", "3", folder=tmp_path)
    assert told.startswith("large at p (routed-weight-9), about $0.015120")
    assert "small" in told
    assert "excluded: below_min_weight" in told
    result = json.loads(run_manage("simulate", "--mode", "cheap", "--json", folder=tmp_path))
    assert result["decision"]["model_id"] == "small"
