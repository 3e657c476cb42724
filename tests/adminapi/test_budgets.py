"""Budgets of keys, projects and the installation by the API."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from keys.bank import DatabaseBank, book
from keys.models import Budget, ClientKey, Project
from telemetry.journal import Charge, Entry
from tests.adminapi.api import Api, ok, refused

pytestmark = pytest.mark.django_db


def new(api: Api, **fields: Any) -> str:
    return str(ok(api.post("apikeys", {"name": "shop", **fields}))["id"])


def spend(budget: Budget, nano: int) -> None:
    grant = DatabaseBank(holder="w", host="h").grant(budget.pk, "", most=nano, least=1)
    charge = Charge(grant.lease, grant.period, nano, overrun=7)
    book([Entry(id="00000000-0000-7000-8000-000000000001", at=0, endpoint="/", status=200, charges=[charge])])


def test_a_key_without_a_budget_says_so(api: Api) -> None:
    shown = ok(api.get(f"apikeys/{new(api)}"))
    for name in ("budget_usd", "budget_period", "monthly_budget_usd", "spent_usd", "overrun_usd", "budget_resets_at"):
        assert shown[name] is None


def test_a_keys_budget_is_set_shown_changed_and_removed(api: Api) -> None:
    key = new(api, monthly_budget_usd=12.5)
    shown = ok(api.get(f"apikeys/{key}"))
    assert (shown["budget_usd"], shown["budget_period"], shown["monthly_budget_usd"]) == (12.5, "month", 12.5)
    assert shown["spent_usd"] == 0
    assert shown["budget_resets_at"] is not None
    spend(Budget.objects.get(), 1_500_000_000)
    changed = ok(api.patch(f"apikeys/{key}", {"budget_usd": 20}))
    assert (changed["budget_usd"], changed["budget_period"], changed["spent_usd"]) == (20, "month", 1.5)
    assert changed["overrun_usd"] == 7e-9
    changed = ok(api.patch(f"apikeys/{key}", {"budget_period": "total"}))
    assert (changed["budget_usd"], changed["budget_period"], changed["spent_usd"]) == (20, "total", 0)
    assert changed["monthly_budget_usd"] is None
    assert changed["budget_resets_at"] is None
    assert ok(api.patch(f"apikeys/{key}", {"name": "other"}))["budget_usd"] == 20
    assert ok(api.patch(f"apikeys/{key}", {"budget_usd": None}))["budget_usd"] is None
    assert not Budget.objects.exists()


def test_a_key_takes_its_budget_along_when_it_is_deleted(api: Api) -> None:
    ok(api.delete(f"apikeys/{new(api, budget_usd=1, budget_period='day')}"))
    assert not Budget.objects.exists()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"budget_usd": -1}, "budget_usd"),
        ({"budget_usd": "much"}, "budget_usd"),
        ({"budget_usd": 1e12}, "budget_usd"),
        ({"budget_usd": 1, "budget_period": "year"}, "budget_period"),
        ({"budget_period": "day"}, "budget_period"),
        ({"monthly_budget_usd": 1, "budget_usd": 1}, "monthly_budget_usd"),
        ({"spent_usd": 1}, "spent_usd"),
    ],
)
def test_a_wrong_budget_makes_no_key(api: Api, fields: dict[str, Any], param: str) -> None:
    answer = api.post("apikeys", {"name": "shop", **fields})
    if param == "spent_usd":  # shown only, and so left alone
        ok(answer)
        return
    refused(answer, "invalid_request", param)
    assert not ClientKey.objects.exists()


def test_projects_are_made_changed_and_deleted(api: Api) -> None:
    made = ok(api.post("projects", {"name": "web/shop", "budget_usd": 3, "budget_period": "week"}))
    assert (made["name"], made["budget_usd"], made["budget_period"]) == ("web/shop", 3, "week")
    key = new(api, project="web/shop")
    assert ok(api.patch("projects/web/shop", {"description": "sells"}))["budget_usd"] == 3
    assert ok(api.get("projects"))["total"] == 1
    ok(api.delete("projects/web/shop"))
    assert not Budget.objects.exists()
    assert not Project.objects.exists()
    assert ok(api.get(f"apikeys/{key}"))["project"] == ""
    assert api.get("projects/web/shop").status_code == 404


def test_the_installation_has_a_budget_of_its_own(api: Api) -> None:
    assert api.get("budget").status_code == 404
    shown = ok(api.put("budget", {"budget_usd": 100, "budget_period": "day"}))
    assert (shown["budget_usd"], shown["budget_period"], shown["spent_usd"]) == (100, "day", 0)
    refused(api.put("budget", {"budget_usd": -3}), "invalid_request", "budget_usd")
    refused(api.put("budget", {}), "invalid_request", "budget_usd")
    ok(api.delete("budget"))
    assert api.get("budget").status_code == 404


def test_a_list_reads_all_budgets_at_once(api: Api) -> None:
    for number in range(3):
        new(api, name=f"k{number}", budget_usd=number)
    with CaptureQueriesContext(connection) as few:
        api.get("apikeys")
    for number in range(12):
        new(api, name=f"more{number}", budget_usd=number)
    with CaptureQueriesContext(connection) as many:
        assert [row["budget_usd"] for row in ok(api.get("apikeys"))["items"]][:2] == [11, 10]
    assert len(many) == len(few)
