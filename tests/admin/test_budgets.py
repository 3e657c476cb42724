"""Budgets and projects on their pages."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from time import time_ns
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys import services
from keys.bank import DatabaseBank, book
from keys.models import Budget, Project, Subject
from telemetry import spending
from telemetry.ingest import ingest_all
from telemetry.journal import Charge, Entry, Journal
from tests.admin.forms import submit, text
from tests.admin.samples import request_row
from tests.admin.test_queries import within_budget

pytestmark = pytest.mark.django_db
ADD = "admin:keys_budget_add"


def spend(budget: Budget, nano: int) -> None:
    grant = DatabaseBank(holder="w", host="h").grant(budget.pk, "", most=nano, least=1)
    charge = Charge(grant.lease, grant.period, nano)
    book([Entry(id="00000000-0000-7000-8000-000000000001", at=0, endpoint="/", status=200, charges=[charge])])


def test_a_budget_is_made_for_a_key_by_its_name(admin_client: Client) -> None:
    key = services.issue(name="shop").record
    submit(admin_client, reverse(ADD), holding="whose", whose=f"key:{key.pk}", amount_usd="12.50", every="week")
    (made,) = Budget.objects.all()
    assert (made.subject, made.subject_id, made.amount_usd, made.every) == ("key", str(key.pk), Decimal("12.5"), "week")
    spend(made, 5_000_000_000)
    shown = text(admin_client.get(reverse("admin:keys_budget_changelist")))
    assert "client key shop" in shown
    assert "$5.00 (40\u00a0%)" in shown
    assert "$5.00 (40\u00a0%)" in text(admin_client.get(reverse("admin:keys_clientkey_changelist")))


def test_nobody_gets_two_budgets(admin_client: Client) -> None:
    services.set_budget(subject=Subject.INSTALLATION, amount_usd=Decimal(3))
    answer: Any = admin_client.get(reverse(ADD))
    assert "the whole installation" not in text(answer)


def test_a_project_shows_its_keys_and_its_budget(admin_client: Client) -> None:
    Project.objects.create(name="web")
    for name in ("a", "b"):
        services.issue(name=name, project="web")
    services.set_budget(subject=Subject.PROJECT, subject_id="web", amount_usd=Decimal("0.05"), every="day")
    shown = text(admin_client.get(reverse("admin:keys_project_changelist")))
    assert "$0.05 per day" in shown
    assert "web" in shown


def test_what_is_said_after_making_a_budget_names_the_key_and_not_its_id(admin_client: Client) -> None:
    key = services.issue(name="shop").record
    answer = submit(
        admin_client, reverse(ADD), holding="whose", whose=f"key:{key.pk}", amount_usd="12.50", every="week"
    )
    (told,) = [str(one) for one in get_messages(answer.wsgi_request)]
    assert f"$12.5 per week of key shop ({key.key_prefix}…)" in told
    assert str(key.pk) not in told.replace(reverse("admin:keys_budget_change", args=[Budget.objects.get().pk]), "")


def test_a_key_without_a_budget_shows_what_it_spent_this_month(admin_client: Client) -> None:
    key, idle = services.issue(name="shop").record, services.issue(name="idle").record
    now = time_ns() // 1000
    old = int((timezone.now() - timedelta(days=62)).timestamp() * 1e6)
    costs = ((key.pk, now, 1_200), (key.pk, now, 10_800), (key.pk, old, 5_000_000_000), ("", now, 7_000_000_000))
    spending.count(
        [
            Entry(id=str(uuid4()), at=at, endpoint="/", status=200, key_id=str(whose), cost_nano=cost)
            for whose, at, cost in costs
        ]
    )
    url = reverse("admin:keys_clientkey_changelist")
    shown = text(within_budget(admin_client, url))
    assert "$0.000012 this month" in shown
    assert "$0.00 this month" in shown
    services.set_budget(subject=Subject.KEY, subject_id=str(idle.pk), amount_usd=Decimal(1))
    assert "$0.00 this month" not in text(admin_client.get(url))


def test_a_project_shows_what_its_keys_spent_this_month(admin_client: Client) -> None:
    Project.objects.create(name="web")
    Project.objects.create(name="idle")
    spent = [(services.issue(name="a", project="web"), 250), (services.issue(name="b", project="web"), 500)]
    spent.append((services.issue(name="other"), 1_000))
    at = time_ns() // 1000
    spending.count(
        [
            Entry(
                id=str(uuid4()), at=at, endpoint="/", status=200, key_id=str(key.record.pk), cost_nano=cost * 1_000_000
            )
            for key, cost in spent
        ]
    )
    listed = text(within_budget(admin_client, reverse("admin:keys_project_changelist")))
    assert "$0.75 this month" in listed
    assert "$0.00 this month" in listed
    page = text(within_budget(admin_client, reverse("admin:keys_project_change", args=["web"])))
    assert "$0.75, by the client keys that it has now" in page
    assert f"{reverse(ADD)}?whose=project%3Aweb" in page
    services.set_budget(subject=Subject.PROJECT, subject_id="web", amount_usd=Decimal("2"), every="day")
    shown = text(admin_client.get(reverse("admin:keys_project_change", args=["web"])))
    assert "$2.00 per day of" in shown
    assert "$0.75 this month" not in text(admin_client.get(reverse("admin:keys_project_changelist")))


def test_the_log_s_costs_are_counted_with_it(tmp_path: Path) -> None:
    """And once, whatever is read twice."""
    key = str(services.issue(name="shop").record.pk)
    entries = [
        Entry(id=str(uuid4()), at=time_ns() // 1000, endpoint="/", status=200, key_id=key, cost_nano=nano)
        for nano in (3, 4)
    ]
    journal = Journal(tmp_path)
    journal.open()
    for one in (*entries, entries[0]):
        journal.append(one)
    journal.close()
    ingest_all(tmp_path)
    assert spending.spent([key], spending.month_of(timezone.now())) == {key: Decimal("0.000000007")}


def test_the_upgrade_counts_what_the_log_has_of_this_month() -> None:
    old = timezone.now() - timedelta(days=62)
    for key, at, cost in (("a", timezone.now(), "0.25"), ("a", timezone.now(), "0.5"), ("b", old, "9"), ("", old, "9")):
        request_row(api_key_id=key, created_at=at, cost_usd=Decimal(cost))
    upgrade = import_module("telemetry.migrations.0007_key_spending")
    upgrade.count_this_month(apps, SimpleNamespace(connection=connection))
    assert spending.spent(["a", "b", ""], spending.month_of(timezone.now())) == {"a": Decimal("0.75")}


# -- on the page of a key --------------------------------------------------------------------------------------------
def test_a_key_s_page_has_its_budgets_and_leads_to_one_of_its_own(admin_client: Client) -> None:
    Project.objects.create(name="web")
    key = services.issue(name="shop", project="web").record
    spending.count(
        [Entry(id=str(uuid4()), at=time_ns() // 1000, endpoint="/", status=200, key_id=str(key.pk), cost_nano=5)]
    )
    services.set_budget(subject=Subject.PROJECT, subject_id="web", amount_usd=Decimal(7), every="day")
    url = reverse("admin:keys_clientkey_change", args=[key.pk])
    page = text(within_budget(admin_client, url))
    assert "$7.00 per day of the project &#x27;web&#x27;" in page
    assert "$0.000000005" in page
    add = f"{reverse(ADD)}?whose=key%3A{key.pk}"
    assert f'href="{add}"' in page
    assert re.search(rf'value="key:{key.pk}"\s+selected', text(admin_client.get(add)))
    services.set_budget(subject=Subject.KEY, subject_id=str(key.pk), amount_usd=Decimal(9))
    page = text(admin_client.get(url))
    assert "$9.00 per month of this client key" in page
    assert add not in page


def test_a_new_key_leads_to_a_budget_and_a_rotated_one_with_a_budget_does_not(admin_client: Client) -> None:
    key = services.issue(name="shop").record
    url = reverse("admin:keys_clientkey_rotate", args=[key.pk])
    add = f"{reverse(ADD)}?whose=key:{key.pk}"
    assert add in text(submit(admin_client, url, holding="hours"))
    services.set_budget(subject=Subject.KEY, subject_id=str(key.pk), amount_usd=Decimal(9))
    assert add not in text(submit(admin_client, url, holding="hours"))


# -- a rest that pays for nothing ------------------------------------------------------------------------------------
def refused(budget: Budget, needed: float, **fields: Any) -> None:
    detail = {"attempts": [], "refusal": {"budget": budget.whose, "needed_usd": needed}}
    request_row(0, status=429, error_code="budget_exceeded", detail=detail, **fields)


def test_a_budget_whose_rest_pays_for_nothing_says_that_it_refuses(admin_client: Client) -> None:
    Project.objects.create(name="web")
    key = services.issue(name="shop", project="web").record
    subjects = [(Subject.KEY, str(key.pk)), (Subject.PROJECT, "web"), (Subject.INSTALLATION, "")]
    for subject, name in subjects:
        services.set_budget(subject=subject, subject_id=name, amount_usd=Decimal("0.01"))
    pages = [reverse(f"admin:keys_{kind}_changelist") for kind in ("budget", "clientkey", "project")]

    def told() -> list[int]:
        return [text(within_budget(admin_client, url)).count("refuses requests now") for url in pages]

    payer = {"api_key_id": str(key.pk), "project": "web"}
    request_row(1, **payer)
    assert told() == [0, 0, 0]
    for one in Budget.objects.filter(subject=Subject.KEY):
        refused(one, 0.02, **payer)
    assert told() == [1, 1, 0]
    assert "refuses requests now" in text(admin_client.get(reverse("admin:keys_clientkey_change", args=[key.pk])))
    for one in Budget.objects.filter(subject=Subject.PROJECT):
        refused(one, 0.02, **payer)
    assert told() == [1, 0, 1]
    for one in Budget.objects.filter(subject=Subject.INSTALLATION):
        refused(one, 0.02, **payer)
    assert told() == [1, 0, 0]
    services.set_budget(subject=Subject.INSTALLATION, amount_usd=Decimal("0.03"))
    assert told() == [0, 0, 0]  # it has more since


def test_a_request_that_is_paid_ends_it(admin_client: Client) -> None:
    key = services.issue(name="shop").record
    services.set_budget(subject=Subject.KEY, subject_id=str(key.pk), amount_usd=Decimal("0.01"))
    refused(Budget.objects.get(), 0.02, api_key_id=str(key.pk))
    url = reverse("admin:keys_budget_changelist")
    assert "refuses requests now" in text(admin_client.get(url))
    request_row(1, api_key_id=str(key.pk))
    assert "refuses requests now" not in text(admin_client.get(url))
