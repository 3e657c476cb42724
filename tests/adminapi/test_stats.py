"""Totals of a window: what they add up, and where they stop."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.utils import timezone

from telemetry import stats
from telemetry.models import RequestLog
from tests.adminapi.api import Api, ok, refused

pytestmark = pytest.mark.django_db


def log(*, minutes: float = 1, model: str = "m", provider: str = "p", status: int = 200, ms: int = 100) -> None:
    RequestLog.objects.create(
        request_id=uuid4(), created_at=timezone.now() - timedelta(minutes=minutes), endpoint="/v1/chat/completions",
        model_id=model, provider_id=provider, status=status, latency_ms=ms, input_tokens=10, output_tokens=5,
        total_tokens=15, cost_usd=Decimal("0.25"),
    )  # fmt: skip


def test_an_empty_log_has_totals_too(api: Api) -> None:
    shown = ok(api.get("stats"))
    assert (shown["requests"], shown["error_rate"], shown["cost_usd"], shown["complete"]) == (0, 0.0, 0.0, True)
    assert shown["latency_ms"] == {"avg": None, "max": None, "p50": None, "p95": None, "p99": None}
    assert shown["by_model"] == shown["by_provider"] == []


def test_totals_by_model_and_provider_add_up(api: Api) -> None:
    for number in range(8):
        log(ms=100 * (number + 1))
    log(model="n", provider="q", status=502, ms=5000)
    log(model="", provider="", status=401, ms=1)
    log(minutes=2 * 60, ms=9)
    shown = ok(api.get("stats?window=1h"))
    assert (shown["requests"], shown["errors"], shown["error_rate"], shown["cost_usd"]) == (10, 2, 0.2, 2.5)
    assert shown["tokens"] == {
        "input": 100, "cached_input": 0, "cache_write": 0, "output": 50, "reasoning": 0, "total": 150,
    }  # fmt: skip
    assert shown["latency_ms"] == {"avg": 860.1, "max": 5000, "p50": 400, "p95": 5000, "p99": 5000}
    assert [(one["model_id"], one["provider_id"], one["requests"]) for one in shown["by_model"]] == [
        ("m", "p", 8), ("n", "q", 1),
    ]  # fmt: skip
    assert shown["by_provider"][1]["error_rate"] == 1.0
    assert ok(api.get("stats?window=3h"))["requests"] == 11
    assert ok(api.get("stats?window=1h&provider_id=q"))["requests"] == 1


def test_a_long_log_is_not_read_to_its_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "ROWS", 3)
    for minutes in (1, 2, 3, 4, 5):
        log(minutes=minutes)
    shown = ok(api.get("stats"))
    assert (shown["requests"], shown["complete"]) == (3, False)


@pytest.mark.parametrize(("query", "name"), [("window=100d", "window"), ("window=x", "window"), ("hours=3", "hours")])
def test_a_bad_window_is_named(api: Api, query: str, name: str) -> None:
    refused(api.get(f"stats?{query}"), "invalid_request", name)
