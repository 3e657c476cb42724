"""The page that evaluates another policy on the logged traffic."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

import tokenhub.urls  # noqa: F401  registers the pages
from telemetry.models import RequestLog
from tests.admin.forms import text
from tests.admin.samples import model
from tests.routing.test_replay import row

pytestmark = pytest.mark.django_db


URL = reverse("admin:routing_policyevaluation_changelist")


def page(client: Client, **asked: str | int) -> str:
    answer = client.get(URL, asked)
    assert answer.status_code == 200
    return text(answer)


def test_it_asks_which_policy(admin_client: Client) -> None:
    shown = page(admin_client)
    assert "mode cheap" in shown
    assert "Doubly robust" not in shown


def test_it_answers_beside_what_was(admin_client: Client) -> None:
    now = timezone.now() - timedelta(hours=1)
    RequestLog.objects.bulk_create(
        [row(number, "ab"[number % 2], 1.0 - number % 2, created_at=now) for number in range(200)]
    )
    shown = page(admin_client, policy="random", days=7)
    assert "Doubly robust" in shown
    assert "As it was" in shown
    assert "200 requests" in shown


def test_several_policies_stand_on_one_scale_beside_what_was(admin_client: Client) -> None:
    """`a` always succeeds and `b` never; both were drawn, at prices of their own."""
    model(1, id="a"), model(2, id="b")
    now = timezone.now() - timedelta(hours=1)
    RequestLog.objects.bulk_create(
        [row(number, "ab"[number % 2], 1.0 - number % 2, created_at=now) for number in range(400)]
    )
    answer: Any = admin_client.get(f"{URL}?policy=model:a&policy=model:b&days=7")
    reward, cost = answer.context["charts"]
    assert [line["name"] for line in reward["lines"]] == ["as it was", "always a", "always b"]
    assert [line["verdict"] for line in reward["lines"]] == ["", "better", "worse"]
    assert [line["verdict"] for line in cost["lines"]] == ["", "dearer", "cheaper"]
    for line in (*reward["lines"], *cost["lines"]):
        assert 0 <= line["x"] <= line["x"] + line["width"] <= 100


def test_at_most_four_policies_are_compared_at_a_time(admin_client: Client) -> None:
    asked = "&".join(f"policy={one}" for one in ("cheap", "normal", "random", "high_confidence", "planning"))
    assert "At most 4 at a time." in text(admin_client.get(f"{URL}?{asked}&days=7"))


def test_without_traffic_it_says_what_to_do(admin_client: Client) -> None:
    assert "Let a part of the traffic use the mode thompson" in page(admin_client, policy="random", days=7)


def test_an_unknown_policy_is_an_error_at_its_field(admin_client: Client) -> None:
    assert "not one of the available choices" in page(admin_client, policy="nothing", days=7)
