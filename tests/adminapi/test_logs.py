"""The request log by the API: filters, pages, and one request with its attempts and candidates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from telemetry import search
from telemetry.models import RequestLog
from tests.adminapi.api import Api, ok, refused
from tokenhub import apikit

pytestmark = pytest.mark.django_db

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
CONTRACT = [
    "request_id",
    "created_at",
    "api_key_id",
    "project",
    "endpoint",
    "dialect",
    "requested_model",
    "alias",
    "mode",
    "model_id",
    "provider_id",
    "routing_reason",
    "status",
    "error_class",
    "error_code",
    "stream",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "total_tokens",
    "usage_estimated",
    "estimated_cost_usd",
    "cost_usd",
    "latency_ms",
    "time_to_first_chunk_ms",
    "attempts",
    "client_disconnected",
    "tags",
]


def row(number: int = 0, **fields: Any) -> RequestLog:
    defaults = {
        "request_id": uuid4(), "client_request_id": f"client/{number}", "created_at": START + timedelta(hours=number),
        "endpoint": "/v1/chat/completions", "status": 200, "model_id": "m", "provider_id": "p", "attempts": 1,
        "cost_usd": "0.000000500", "tags": ["team-a"],
    }  # fmt: skip
    return RequestLog.objects.create(**{**defaults, **fields})


def found(api: Api, query: str) -> list[str]:
    return [one["client_request_id"] for one in ok(api.get(f"logs?{query}"))["items"]]


def test_a_row_has_the_fields_of_the_contract(api: Api) -> None:
    row()
    page = ok(api.get("logs"))
    (shown,) = page["items"]
    assert set(CONTRACT) <= set(shown)
    assert (shown["cost_usd"], shown["estimated_cost_usd"], shown["tags"]) == (5e-07, None, ["team-a"])
    assert (page["total"], page["total_capped"], page["next_cursor"]) == (1, False, None)


def test_every_field_filters(api: Api) -> None:
    other = {
        "status": 502, "model_id": "other", "provider_id": "other", "stream": True, "tags": ["Team-A", "team-ab"],
        "api_key_id": "k", "project": "x", "endpoint": "/v1/messages", "alias": "best", "error_code": "upstream_error",
        "cost_usd": "0.25", "attempts": 3, "client_disconnected": True, "latency_ms": 7, "time_to_first_chunk_ms": 3,
    }  # fmt: skip
    row(0)
    row(1, **other)
    for name, value in other.items():
        value = "team-ab" if name == "tags" else value
        assert found(api, f"{name}={value}") == ["client/1"], name
    shown = ok(api.get("logs?status=200"))["items"][0]
    for name in CONTRACT:
        if name != "tags" and shown[name] is not None:
            value = str(shown[name]).replace("+", "%2B")
            assert "client/0" in found(api, f"{name}={value}"), name
    assert found(api, "tags=team-a") == ["client/0"]
    assert found(api, "tags=team") == []
    assert found(api, "status=200&model_id=other") == []
    assert found(api, "alias=") == ["client/0"]


@pytest.mark.parametrize("tag", ['a"b', "50%", "a_b", "ä\u00f6\\", "[", ","])
def test_a_tag_is_found_as_it_is(api: Api, tag: str) -> None:
    from urllib.parse import quote

    row(0, tags=[tag, "x"])
    row(1, tags=["axb", "50"])
    assert found(api, f"tags={quote(tag)}") == ["client/0"]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("from=2026-05-01T13:00:00Z", [2, 1]),
        ("to=2026-05-01T13:00:00Z", [0]),
        ("from=2026-05-01T13:00:00Z&to=2026-05-01T14:00:00Z", [1]),
        ("from=2026-05-01T15:00:00%2B02:00", [2, 1]),
        ("from=2026-05-01T15:00:00+02:00", [2, 1]),
        ("from=2026-05-01", [2, 1, 0]),
        ("to=2026-05-01", []),
    ],
)
def test_a_span_of_time_begins_with_from_and_ends_before_to(api: Api, query: str, numbers: list[int]) -> None:
    for number in range(3):
        row(number)
    assert found(api, query) == [f"client/{number}" for number in numbers]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=x", "status"), ("status=", "status"), ("status=1e3", "status"), ("stream=perhaps", "stream"),
        ("from=yesterday", "from"), ("to=2026-13-01", "to"), ("latency_ms=-1", "latency_ms"),
        (f"input_tokens={10**40}", "input_tokens"), ("cost_usd=NaN", "cost_usd"), ("model=x", "model"),
        ("model_id=%00", "model_id"), ("tags=%00", "tags"), ("offset=10001", "offset"), ("cursor=x", "cursor"),
        ("cursor=0", "cursor"), ("cursor=5&offset=5", "cursor"), ("created_at=never", "created_at"),
    ],
)  # fmt: skip
def test_a_wrong_filter_is_named(api: Api, query: str, param: str) -> None:
    refused(api.get(f"logs?{query}"), "invalid_request", param)


def test_cursors_read_every_row_once_whatever_comes_in_meanwhile(api: Api) -> None:
    for number in range(5):
        row(number)
    page = ok(api.get("logs?limit=2"))
    seen = [one["client_request_id"] for one in page["items"]]
    while page["next_cursor"]:
        row(99)
        page = ok(api.get(f"logs?limit=2&cursor={page['next_cursor']}"))
        seen += [one["client_request_id"] for one in page["items"]]
    assert seen == [f"client/{number}" for number in (4, 3, 2, 1, 0)]


def test_offsets_read_pages(api: Api) -> None:
    for number in range(5):
        row(number)
    assert found(api, "limit=2&offset=2") == ["client/2", "client/1"]
    assert ok(api.get("logs?limit=2&offset=2"))["total"] == 5


def test_a_large_total_is_capped(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apikit, "COUNTED", 3)
    for number in range(3):
        row(number)
    page = ok(api.get("logs?limit=1"))
    assert (page["total"], page["total_capped"]) == (3, False)
    row(3)
    page = ok(api.get("logs?limit=1&offset=3"))
    assert (page["total"], page["total_capped"], len(page["items"])) == (3, True, 1)
    refused(api.get("logs?offset=4"), "invalid_request", "offset")


def test_an_answer_says_how_far_back_was_searched_and_its_cursor_goes_on(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SEARCHED", 2)
    row(0, latency_ms=7)
    for number in range(1, 4):
        row(number)
    page = ok(api.get("logs?latency_ms=7"))
    assert (page["items"], page["total"], page["total_capped"]) == ([], 0, True)
    assert page["searched_back_to"] == "2026-05-01T14:00:00Z"
    page = ok(api.get(f"logs?latency_ms=7&cursor={page['next_cursor']}"))
    assert [one["client_request_id"] for one in page["items"]] == ["client/0"]
    assert (page["searched_back_to"], page["next_cursor"]) == ("2026-05-01T12:00:00Z", "1777636800000000-0")
    page = ok(api.get(f"logs?latency_ms=7&cursor={page['next_cursor']}"))
    assert (page["items"], page["searched_back_to"], page["next_cursor"]) == ([], None, None)


# -- one request ---------------------------------------------------------------------------------------------------
DETAIL = {
    "attempts": [
        {"model": "m", "provider": "p", "error_class": "timeout", "latency_ms": 7, "message": "too slow"},
        {"model": "n", "provider": "p", "status": 200, "latency_ms": 5},
    ],
    "candidates": [
        {"model": "n", "provider": "p", "score": 0.5, "cost": 0.1, "latency": 0.2, "failure": 0.3, "capability": 0.1},
        {"model": "o", "provider": "q", "excluded": "vault locked"},
    ],
}


def test_one_request_has_its_attempts_and_candidates(api: Api) -> None:
    made = row(detail=DETAIL, attempts=2)
    shown = ok(api.get(f"logs/{made.request_id}"))
    assert shown["attempts"][0] == {
        "model": "m", "provider": "p", "error_class": "timeout", "status": 0, "latency_ms": 7, "message": "too slow",
    }  # fmt: skip
    assert shown["attempts"][1]["error_class"] is None
    assert shown["candidates"] == [
        {
            "model_id": "n", "provider_id": "p", "score": 0.5, "probability": None, "excluded_reason": None,
            "parts": {"cost": 0.1, "latency": 0.2, "failure": 0.3, "capability": 0.1},
        },
        {
            "model_id": "o", "provider_id": "q", "score": None, "probability": None, "parts": None,
            "excluded_reason": "vault locked",
        },
    ]  # fmt: skip


def test_the_clients_own_id_finds_the_newest(api: Api) -> None:
    row(0, client_request_id="mine/1")
    newest = row(1, client_request_id="mine/1")
    assert ok(api.get("logs/mine/1"))["request_id"] == str(newest.request_id)
    assert found(api, "request_id=mine/1") == ["mine/1", "mine/1"]
    assert found(api, f"request_id={newest.request_id}") == ["mine/1"]


@pytest.mark.parametrize("name", ["nothing", "00000000-0000-4000-8000-000000000000", "%00", "%FF"])
def test_a_request_that_is_not_there_is_a_404(api: Api, name: str) -> None:
    refused(api.get(f"logs/{name}"), "not_found")
