"""The time series by the API: what it answers, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from telemetry.journal import Entry
from telemetry.models import AuditEntry, Sample
from telemetry.tsdb.store import fold
from telemetry.tsdb.upkeep import roll_up
from tests.adminapi.api import Api, ok, refused

pytestmark = pytest.mark.django_db
NOON = 1_764_072_000  # 2025-11-25T12:00:00Z
DAY = 86_400
HOURS = "start=2025-11-25T12:00:00Z&end=2025-11-25T15:00:00Z&step_ms=3600000"


def note(second: int, **fields: Any) -> None:
    entry = Entry(**{"id": "x", "at": second * 1_000_000, "endpoint": "chat", "status": 200, **fields})
    with transaction.atomic():
        fold([entry])


@pytest.fixture
def traffic(db: None) -> None:
    note(NOON, model="org/a", provider="p", latency_ms=100, cost_nano=1_500_000_000)
    note(NOON + 60, model="org/a", provider="p", latency_ms=300, cost_nano=500_000_000, project="x")
    note(NOON + 7300, model="b", provider="q", latency_ms=50, status=502, error_class="transient")


def test_an_answer_has_the_shape_of_the_contract(api: Api, traffic: None) -> None:
    assert ok(api.get(f"tsdb/query?metric=cost_usd&agg=sum&{HOURS}")) == {
        "metric": "cost_usd",
        "agg": "sum",
        "step_ms": 3_600_000,
        "series": [
            {
                "labels": {},
                "points": [
                    {"at": "2025-11-25T12:00:00Z", "value": 2.0},
                    {"at": "2025-11-25T13:00:00Z", "value": 0},
                    {"at": "2025-11-25T14:00:00Z", "value": 0},
                ],
            }
        ],
    }


def values(api: Api, query: str) -> dict[str, list[Any]]:
    """By the labels of a series."""
    answer = ok(api.get(f"tsdb/query?{query}&{HOURS}"))
    return {" ".join(one["labels"].values()): [point["value"] for point in one["points"]] for one in answer["series"]}


def test_series_are_grouped_and_filtered(api: Api, traffic: None) -> None:
    assert values(api, "metric=latency_ms&group_by=model_id") == {"org/a": [200.0, None, None], "b": [None, None, 50.0]}
    assert values(api, "metric=latency_ms&agg=max&model_id=org/a&project=") == {"": [100, None, None]}
    assert values(api, "metric=requests&group_by=provider_id,%20project") == {
        "p ": [1, 0, 0], "p x": [1, 0, 0], "q ": [0, 0, 1],
    }  # fmt: skip
    assert values(api, "metric=errors&agg=avg&group_by=error_class") == {
        "": [0, None, None], "transient": [None, None, 1],
    }  # fmt: skip
    assert values(api, "metric=requests&mode=nobody's") == {"": [0, 0, 0]}
    assert values(api, "metric=requests&agg=rate") == {"": [2 / 3600, 0, 1 / 3600]}


def test_without_anything_else_a_metric_is_told_of_the_last_day(api: Api) -> None:
    answer = ok(api.get("tsdb/query?metric=requests"))
    assert (answer["agg"], answer["step_ms"]) == ("sum", 300_000)
    assert len(answer["series"][0]["points"]) in {288, 289}
    assert ok(api.get("tsdb/query?metric=latency_ms"))["agg"] == "avg"


def test_steps_are_whole_minutes(api: Api) -> None:
    assert ok(api.get("tsdb/query?metric=requests&step_ms=1&start=2025-11-25&end=2025-11-26"))["step_ms"] == 60_000
    assert ok(api.get("tsdb/query?metric=requests&step_ms=61000"))["step_ms"] == 120_000


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "metric"), ("metric=x", "metric"), ("metric=latency_ms&agg=median", "agg"),
        ("metric=requests&agg=p50", "agg"), ("metric=errors&agg=max", "agg"),
        ("metric=requests&group_by=key", "group_by"), ("metric=requests&group_by=mode,request_id", "group_by"),
        ("metric=requests&step_ms=0", "step_ms"), ("metric=requests&step_ms=x", "step_ms"),
        ("metric=requests&step_ms=1e99", "step_ms"), ("metric=requests&start=yesterday", "start"),
        ("metric=requests&end=2025-13-01", "end"), ("metric=requests&start=2025-11-26&end=2025-11-25", "start"),
        ("metric=requests&start=2025-11-25&end=2025-11-25", "start"), ("metric=requests&model_id=%00", "model_id"),
        ("metric=requests&model=m", "model"), ("metric=requests&start=2020-01-01&step_ms=60000", "step_ms"),
        ("metric=requests&start=0001-01-01", "start"),
        ("metric=requests&start=1969-12-31", "start"), ("metric=requests&end=0001-01-01", "start"),
        ("metric=requests&end=9999-12-31T23:59:59Z", ""),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(api: Api, query: str, param: str) -> None:
    answer = api.get(f"tsdb/query?{query}")
    ok(answer) if not param else refused(answer, "invalid_request", param)


def test_what_can_be_asked_is_listed(api: Api) -> None:
    answer = ok(api.get("tsdb/metrics"))
    assert [one["name"] for one in answer["metrics"]] == [
        "requests", "errors", "rate_limited", "affinity_hits", "latency_ms", "time_to_first_chunk_ms", "cost_usd",
        "input_tokens", "output_tokens", "cached_input_tokens", "reward",
    ]  # fmt: skip
    assert answer["labels"] == ["model_id", "provider_id", "project", "mode", "error_class"]
    for metric in answer["metrics"]:
        for aggregate in metric["aggregates"]:
            ok(api.get(f"tsdb/query?metric={metric['name']}&agg={aggregate}&group_by={','.join(answer['labels'])}"))


def test_retention_is_set_and_told(api: Api) -> None:
    assert ok(api.get("tsdb/retention")) == {"retention_days": 7, "hour_days": 90, "day_days": 730}
    assert ok(api.put("tsdb/retention", {"retention_days": 14})) == {
        "retention_days": 14, "hour_days": 90, "day_days": 730,
    }  # fmt: skip
    ok(api.put("tsdb/retention", {"hour_days": 14, "day_days": 14}))
    assert ok(api.get("tsdb/retention")) == {"retention_days": 14, "hour_days": 14, "day_days": 14}
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert (entry.action, entry.resource) == ("tsdb.retention", "tsdb/retention")
    assert entry.changes == '{"day_days":[730,14],"hour_days":[90,14]}'


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"retention_days": 0}, "retention_days"), ({"retention_days": "x"}, "retention_days"),
        ({"retention_days": 91}, "retention_days"), ({"hour_days": 6}, "hour_days"), ({"day_days": 10**9}, "day_days"),
        ({"retention_days": 50, "hour_days": 40}, "retention_days"), ({"days": 7}, "days"),
        ({"hour_days": None}, "hour_days"),
    ],
)  # fmt: skip
def test_a_wrong_retention_is_named_and_changes_nothing(api: Api, body: Any, param: str) -> None:
    refused(api.put("tsdb/retention", body), "invalid_request", param)
    assert ok(api.get("tsdb/retention")) == {"retention_days": 7, "hour_days": 90, "day_days": 730}


def test_pruning_drops_what_is_too_old_and_is_recorded(api: Api, traffic: None) -> None:
    roll_up(NOON + 2 * DAY)
    before = Sample.objects.count()
    answer = ok(api.post("tsdb/prune"))
    assert answer == {"ok": True, "dropped": before - Sample.objects.count()}
    assert answer["dropped"] > 0
    assert AuditEntry.objects.filter(action="tsdb.prune").count() == 1


def test_who_may_look_may_not_change(staff: Callable[..., Api]) -> None:
    viewer = staff("telemetry.view_sample", "telemetry.view_serieslevel")
    for path in ("tsdb/query?metric=requests", "tsdb/metrics", "tsdb/retention"):
        ok(viewer.get(path))
    refused(viewer.put("tsdb/retention", {"retention_days": 1}), "permission_denied")
    refused(viewer.post("tsdb/prune"), "permission_denied")
    ok(staff("telemetry.change_serieslevel").put("tsdb/retention", {"retention_days": 1}))
    nobody = staff()
    for path in ("tsdb/query?metric=requests", "tsdb/metrics", "tsdb/retention"):
        refused(nobody.get(path), "permission_denied")
