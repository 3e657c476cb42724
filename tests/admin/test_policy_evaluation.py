"""The page that evaluates another policy on the logged traffic."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from telemetry.models import RequestLog
from tests.admin.forms import text
from tests.routing.test_replay import row

pytestmark = pytest.mark.django_db


def page(client: Client, **asked: str | int) -> str:
    answer = client.get(reverse("admin:routing_policyevaluation_changelist"), asked)
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


def test_without_traffic_it_says_what_to_do(admin_client: Client) -> None:
    assert "Let a part of the traffic use the mode thompson" in page(admin_client, policy="random", days=7)


def test_an_unknown_policy_is_an_error_at_its_field(admin_client: Client) -> None:
    assert "not one of the available choices" in page(admin_client, policy="nothing", days=7)
