"""The request log is searched by index, page by page, and no further than is said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from telemetry import search
from telemetry.models import RequestLog
from telemetry.search import Page, Term, equal, named, statuses, tagged

pytestmark = pytest.mark.django_db

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def row(number: int = 0, **fields: Any) -> RequestLog:
    defaults = {
        "request_id": uuid4(),
        "created_at": START + timedelta(seconds=number),
        "endpoint": "chat",
        "status": 200,
    }
    return RequestLog.objects.create(**{**defaults, **fields})


def page(*terms: Term, limit: int = 50, offset: int = 0, after: str | None = None, counted: int = 10_000) -> Page:
    place = search.place_of(after) if after else None
    return search.page(RequestLog.objects.all(), terms, limit=limit, offset=offset, after=place, counted=counted)


def seconds(rows: Sequence[RequestLog]) -> list[int]:
    return [int((one.created_at - START).total_seconds()) for one in rows]


# -- by index --------------------------------------------------------------------------------------------------------
SERVED = {
    "requestlog_at": [],
    "requestlog_key_at": [equal("api_key_id", "k")],
    "requestlog_model_at": [equal("model_id", "m")],
    "requestlog_provider_at": [equal("provider_id", "p")],
    "requestlog_project_at": [equal("project", "x")],
    "requestlog_alias_at": [equal("alias", "a")],
    "requestlog_error_at": [equal("error_code", "overloaded")],
    "requestlog_client_at": [equal("client_request_id", "mine")],
    "requestlog_status_at": [equal("status", 503)],
    "requestlog_failed_at": [statuses(500, 600)],
}
WITHOUT = [
    equal("latency_ms", 5), equal("status", 200), equal("alias", ""), equal("stream", True), equal("mode", "cheap"),
    tagged("team"), statuses(0, 400),
]  # fmt: skip


def plan_of(terms: Sequence[Term], until: datetime | None = None) -> str:
    rows = RequestLog.objects.all() if until is None else RequestLog.objects.filter(created_at__lt=until)
    return search.search(rows, terms).rows[:50].explain()


@pytest.mark.parametrize("index", SERVED)
def test_each_of_these_filters_has_an_index_that_also_gives_the_order(index: str) -> None:
    for until in (None, START):
        plan = plan_of(SERVED[index], until)
        assert index in plan
        assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("index", SERVED)
def test_with_another_filter_the_index_that_reaches_furthest_back_leads(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEARCHED", "SEARCHED_APART"):
        monkeypatch.setattr(search, name, 2)
    for number in range(9):
        row(number, api_key_id="often", model_id="often")
    for other in WITHOUT if index not in {"requestlog_failed_at", "requestlog_status_at"} else WITHOUT[2:6]:
        plan = plan_of([*SERVED[index], other])
        assert index in plan
        assert "TEMP B-TREE" not in plan
    if index == "requestlog_model_at":
        assert index in plan_of([equal("api_key_id", "often"), *SERVED[index]])
        assert index in plan_of([*SERVED[index], equal("api_key_id", "often")])


@pytest.mark.parametrize("number", range(len(WITHOUT)))
def test_a_filter_without_an_index_looks_through_the_newest_rows_in_their_order(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEARCHED", "SEARCHED_APART"):
        monkeypatch.setattr(search, name, 2)
    for second in range(4):
        row(second)
    plan = plan_of([WITHOUT[number]])
    assert "USING INDEX requestlog_at (created_at>?)" in plan
    assert "TEMP B-TREE" not in plan


def test_totals_are_counted_in_the_index_alone() -> None:
    for terms in SERVED.values():
        found = search.search(RequestLog.objects.all(), terms)
        assert "COVERING INDEX" in found.rows.values_list("pk")[:10].explain() or not found.is_indexed


def test_the_values_of_a_field_are_read_from_its_index_step_by_step() -> None:
    for number in range(6):
        row(number, model_id="ab"[number % 2], api_key_id="k", api_key_name=f"name {number}")
    assert search.known("model_id") == [("a", "a"), ("b", "b")]
    assert search.known("api_key_id", label="api_key_name") == [("k", "name 5")]
    assert search.known("alias") == []
    assert search.known("model_id", most=1) == [("a", "a")]
    with CaptureQueriesContext(connection) as asked, connection.cursor() as cursor:
        search.known("model_id")
        cursor.execute("EXPLAIN QUERY PLAN " + asked[-1]["sql"])
        steps = [step[3] for step in cursor.fetchall() if "telemetry_requestlog" in step[3]]
    assert steps
    assert [step for step in steps if not step.startswith("SEARCH")] == []


# -- pages -----------------------------------------------------------------------------------------------------------
def test_a_page_costs_few_queries_however_many_rows_there_are() -> None:
    for number in range(30):
        row(number, model_id="m", tags=["t"])
    for terms in ([], [equal("model_id", "m")], [equal("model_id", "m"), tagged("t")]):
        with CaptureQueriesContext(connection) as asked:
            assert len(page(*terms, limit=20).rows) == 20
        assert len(asked) <= 3


@pytest.mark.parametrize("terms", [[], [equal("model_id", "m")], [tagged("t")], [equal("model_id", "m"), tagged("t")]])
def test_cursors_read_each_row_once_while_rows_come_in_and_where_moments_are_the_same(
    terms: list[Term], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEARCHED", "SEARCHED_APART"):
        monkeypatch.setattr(search, name, 4)
    there = {row(number // 3, model_id="m", tags=["t"]).pk for number in range(20)}
    seen: list[int] = []
    cursor: str | None = None
    for _ in range(20):
        found = page(*terms, limit=2, after=cursor)
        seen += [one.pk for one in found.rows]
        row(100, model_id="m", tags=["t"])
        cursor = found.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(there)
    assert len(seen) == len(set(seen))


def test_a_moment_of_a_whole_second_is_passed_by_no_cursor() -> None:
    plain = [row(0).pk, row(0).pk, row(1).pk]
    with connection.cursor() as cursor:  # Django's text of it has no fraction, the ingester's has
        cursor.execute("UPDATE telemetry_requestlog SET created_at = created_at || '.000000'")
    seen, after = [], None
    for _ in range(3):
        found = page(limit=1, after=after)
        seen += [one.pk for one in found.rows]
        after = found.next_cursor
    assert sorted(seen) == sorted(plain)
    assert after is None


def test_a_bounded_search_says_how_far_back_it_went_and_its_cursor_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEARCHED", "SEARCHED_APART"):
        monkeypatch.setattr(search, name, 10)
    row(0, mode="rare")
    for number in range(1, 25):
        row(number)
    first = page(equal("mode", "rare"))
    assert (first.rows, first.total, first.is_capped) == ([], 0, True)
    assert first.back_to == START + timedelta(seconds=15)
    second = page(equal("mode", "rare"), after=first.next_cursor)
    assert (second.rows, second.back_to) == ([], START + timedelta(seconds=5))
    third = page(equal("mode", "rare"), after=second.next_cursor)
    assert (seconds(third.rows), third.back_to, third.next_cursor) == ([0], None, None)


def test_a_search_to_the_end_of_the_log_has_an_exact_total(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEARCHED", "SEARCHED_APART"):
        monkeypatch.setattr(search, name, 10)
    for number in range(40):
        row(number, model_id="rare" if number % 10 == 0 else "often", stream=number % 20 == 0)
    found = page(equal("model_id", "rare"), equal("stream", True))
    assert (seconds(found.rows), found.total, found.is_capped, found.back_to) == ([20, 0], 2, False, None)
    often = page(equal("model_id", "often"), limit=1, counted=20)
    assert (often.total, often.is_capped, often.back_to) == (20, True, None)


@pytest.mark.parametrize("cursor", ["", "5", "5-", "-5", "5-x", "-1-1", "1" * 18 + "-1", "1-" + "1" * 18, "1-²"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(cursor)}$"):
        search.place_of(cursor)


def test_a_request_is_found_by_either_id_also_where_both_fit() -> None:
    ours = row(1, client_request_id="mine")
    theirs = row(2, client_request_id=str(ours.request_id))
    row(3, client_request_id="other")
    assert seconds(page(named(str(ours.request_id))).rows) == [2, 1]
    assert seconds(page(named("mine")).rows) == [1]
    assert page(named(str(UUID(int=9)))).rows == []
    assert search.newest(str(ours.request_id)) == theirs
    assert search.newest("") is None
