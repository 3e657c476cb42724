"""Other policies on logged traffic, over the request log."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from random import Random
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from routing.errors import ApiError
from routing.models import Feedback
from routing.replay import replay, shown
from routing.scoring import PROFILES
from telemetry.models import RequestLog

pytestmark = pytest.mark.django_db

START = datetime(2026, 5, 1, tzinfo=UTC)
END = START + timedelta(days=1)
GOOD = {"a": 0.9, "b": 0.6}
PRICE = {"a": 0.004, "b": 0.001}
ODDS = {"a": 0.3, "b": 0.7}


def row(number: int, chosen: str, reward: float | None, **fields: Any) -> RequestLog:
    """`a` is dear and capable, `b` cheap; logged in a mode of equal weights."""
    other = "b" if chosen == "a" else "a"
    figures = {"a": {"cost": 0.25, "capability": 0.225}, "b": {"cost": 0.0625, "capability": 0.1}}
    listed = [{"model": one, "provider": "p", "probability": ODDS[one], **figures[one]} for one in (chosen, other)]
    defaults: dict[str, Any] = {
        "request_id": UUID(int=number), "created_at": START + timedelta(seconds=number), "endpoint": "/v1/chat",
        "status": 200, "mode": "thompson", "model_id": chosen, "provider_id": "p", "cost_usd": str(PRICE[chosen]),
        "detail": {"candidates": [*listed, {"model": "c", "provider": "p", "excluded": "down"}], "context": "small",
                   "reward": reward},
    }  # fmt: skip
    return RequestLog(**defaults | fields)


@pytest.fixture
def logged(db: None) -> None:
    rng = Random(7)
    rows = []
    for number in range(3_000):
        chosen = "a" if rng.random() < ODDS["a"] else "b"
        rows.append(row(number, chosen, float(rng.random() < GOOD[chosen])))
    RequestLog.objects.bulk_create(rows)


def told(policy: str, **options: Any) -> dict[str, Any]:
    return shown(replay(policy, PROFILES, since=START, until=END, **options))


@pytest.mark.parametrize(
    ("policy", "reward", "cost"),
    [
        ("model:a", 0.9, 0.004),
        ("model:b", 0.6, 0.001),
        ("random", 0.75, 0.0025),
        ("logged", 0.69, 0.0019),
        ("cheap", 0.6, 0.001),
        ("high_confidence", 0.9, 0.004),
        ("model:unknown", 0.69, 0.0019),
    ],
)
def test_the_estimates_hold_the_truth(logged: None, policy: str, reward: float, cost: float) -> None:
    result = told(policy)
    assert result["rows"] == 3_000
    for name in ("ips", "snips", "dr"):
        assert result["reward"][name]["low"] - 0.02 <= reward <= result["reward"][name]["high"] + 0.02
        assert result["cost_usd"][name]["low"] - 1e-4 <= cost <= result["cost_usd"][name]["high"] + 1e-4
    assert result["warnings"] == []


def test_only_the_period_and_the_newest_count(logged: None) -> None:
    assert told("logged", max_rows=500)["rows"] == 500
    assert shown(replay("logged", PROFILES, since=END, until=END + timedelta(days=1)))["rows"] == 0


def test_what_cannot_tell_is_counted(db: None) -> None:
    certain = row(1, "a", 1.0)
    certain.detail["candidates"][0]["probability"] = 1.0
    RequestLog.objects.bulk_create([certain, row(2, "a", None), row(3, "a", 1.0, mode="cheap")])
    result = told("random")
    assert (result["rows"], result["reward"]) == (0, None)
    assert result["left_out"] == {"decided without chance": 1, "chosen with certainty": 1, "reward not known": 1}
    assert "thompson" in result["warnings"][0]


def test_feedback_takes_the_place_of_the_first_reward(db: None) -> None:
    RequestLog.objects.bulk_create([row(number, "a", 1.0) for number in range(5)])
    Feedback.objects.create(request_id=UUID(int=1), api_key_id="k", model_id="a", score=0.0, reward=0.5)
    assert told("logged")["reward"]["ips"]["value"] == pytest.approx(0.9)


def test_a_first_choice_that_failed_is_worth_nothing(db: None) -> None:
    RequestLog.objects.bulk_create([row(1, "a", 1.0, model_id="b"), row(2, "a", None, status=502), row(3, "a", 1.0)])
    result = told("logged")
    assert result["rows"] == 3
    assert result["reward"]["ips"]["value"] == pytest.approx(1 / 3)


def test_few_rows_and_unknown_choices_are_warned_of(db: None) -> None:
    RequestLog.objects.bulk_create([row(number, "a", 1.0) for number in range(10)])
    warnings = " ".join(told("model:b")["warnings"])
    assert "never chosen" in warnings
    assert "too few" in warnings


@pytest.mark.parametrize("policy", ["thompson", "nothing", ""])
def test_a_policy_that_there_is_not_is_refused_by_name(db: None, policy: str) -> None:
    with pytest.raises(ApiError, match="no policy"):
        told(policy)


def test_the_command_compares_policies(logged: None) -> None:
    out = StringIO()
    call_command("evaluate_policy", "model:a", "cheap", "--from", "2026-05-01", "--to", "2026-05-02", stdout=out)
    assert "doubly robust" in out.getvalue()
    assert "3000 requests" in out.getvalue()
    out = StringIO()
    call_command("evaluate_policy", "random", "--from", "2026-05-01T00:00", "--to", "2026-05-02", "--json", stdout=out)
    (result,) = json.loads(out.getvalue())
    assert result["rows"] == 3_000


@pytest.mark.parametrize("options", [("--from", "yesterday"), ("--days", "0"), ("--to", "2026-13-01")])
def test_the_command_names_a_bad_option(db: None, options: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match=options[0]):
        call_command("evaluate_policy", "logged", *options)
