"""Budgets and projects on their pages."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from keys import services
from keys.bank import DatabaseBank, book
from keys.models import Budget, Project, Subject
from telemetry.journal import Charge, Entry
from tests.admin.forms import submit, text

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
    assert "$5.00 (40 %)" in shown
    assert "$5.00 (40 %)" in text(admin_client.get(reverse("admin:keys_clientkey_changelist")))


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
