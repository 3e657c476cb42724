"""Leaderboard, what was learned, and health."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from routing.bandit import Bandit, Context
from routing.models import BanditDelta, HealthRecord
from telemetry.journal import Entry
from telemetry.tsdb.store import fold
from tests.admin.forms import text
from tests.admin.samples import model
from tests.admin.test_queries import within_budget
from tokenhub.models import JobState

pytestmark = pytest.mark.django_db

PAGES = {
    "/admin/leaderboard/": "view_series",
    "/admin/learning/": "view_feedback",
    "/admin/health/": "view_provider",
}


def requests(name: str, number: int, **fields: Any) -> None:
    """An hour ago."""
    at = int((timezone.now() - timedelta(hours=1)).timestamp()) * 1_000_000
    defaults = {"endpoint": "chat", "status": 200, "provider": "p", "cost_nano": 1_000_000, "latency_ms": 100}
    with transaction.atomic():
        fold([Entry(id="x", at=at, model=name, **{**defaults, **fields}) for _ in range(number)])


@pytest.mark.parametrize(("url", "permission"), PAGES.items())
def test_strangers_are_sent_to_the_login_and_staff_need_the_permission(
    url: str, permission: str, client: Client, staff_client: Client
) -> None:
    assert client.get(url)["location"] == f"{reverse('admin:login')}?next={url}"
    assert staff_client.get(url).status_code == 403
    assert staff_client.post(url).status_code == 403
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename=permission))
    assert staff_client.get(url).status_code == 200


@pytest.mark.parametrize("url", PAGES)
def test_pages_keep_their_budget_of_queries_with_many_models(url: str, admin_client: Client) -> None:
    for number in range(20):
        requests(model(number).pk, 2, reward=0.5)
    within_budget(admin_client, url)


# -- the leaderboard ---------------------------------------------------------------------------------------------------
def order(client: Client, by: str) -> list[str]:
    answer: Any = client.get("/admin/leaderboard/", {"order": by})
    return [one.model_id for one, _ in answer.context["leaders"]]


def test_models_are_ordered_by_what_is_asked_and_the_unmeasured_come_last(admin_client: Client) -> None:
    requests("busy", 30, reward=0.4, latency_ms=900)
    requests("good", 10, reward=0.9, cost_nano=5_000_000)
    requests("failing", 5, status=503, error_class="transient", cost_nano=None, latency_ms=50)
    assert order(admin_client, "requests") == ["busy", "good", "failing"]
    assert order(admin_client, "reward") == ["good", "busy", "failing"]
    assert order(admin_client, "success")[-1] == "failing"
    assert order(admin_client, "p50") == ["failing", "good", "busy"]
    assert order(admin_client, "cost_of_one") == ["busy", "good", "failing"]
    assert order(admin_client, "rubbish") == order(admin_client, "requests")
    page = text(admin_client.get("/admin/leaderboard/"))
    assert "0.0 %" in page
    assert "no price" in page


def test_without_requests_the_leaderboard_says_what_to_do(admin_client: Client) -> None:
    assert "Send one from the playground." in text(admin_client.get("/admin/leaderboard/", {"days": "30"}))


# -- what was learned --------------------------------------------------------------------------------------------------
def test_curves_and_days_are_drawn_of_what_was_learned(admin_client: Client) -> None:
    bandit, context, name = Bandit(), Context(task="code"), model(1).pk
    for _ in range(20):
        bandit.learn(context, name, 0.7, now=timezone.now().timestamp())
    BanditDelta.objects.create(origin="w", payload=msgspec.json.encode(bandit.deltas()).decode())
    requests("org/model_1", 3, reward=0.7)
    answer: Any = admin_client.get("/admin/learning/", {"context": context.key})
    (row,) = answer.context["rows"]
    assert row["estimate"].here == pytest.approx(20, abs=0.1)
    places = [tuple(map(float, one.split(","))) for one in row["points"].split()]
    assert all(0 <= x <= 100 and 0 <= y <= 30 for x, y in places)
    assert [line["name"] for line in answer.context["lines"]] == ["org/model_1"]
    assert answer.context["lines"][0]["latest"] == pytest.approx(0.7, abs=1e-6)
    assert "“code”" in text(answer)


def test_before_anything_is_learned_the_page_says_what_to_do(admin_client: Client) -> None:
    assert "There is no enabled model yet." in text(admin_client.get("/admin/learning/"))
    model(1)
    page = text(admin_client.get("/admin/learning/"))
    assert "Nothing was learned so far" in page
    assert "No reward was noted in these days." in page


# -- health ------------------------------------------------------------------------------------------------------------
def test_who_is_down_comes_first_with_the_last_error(admin_client: Client) -> None:
    fine, bad = model(1), model(2)
    HealthRecord.objects.create(
        provider_id=bad.provider_id, model_id=bad.pk, calls=9, errors=9, consecutive_errors=3,
        last_error="transient (HTTP 503)", last_error_at=timezone.now(), updated_at=timezone.now(),
    )  # fmt: skip
    answer: Any = admin_client.get("/admin/health/")
    assert [one["provider_id"] for one in answer.context["providers"]] == [bad.provider_id, fine.provider_id]
    assert dict(answer.context["counts"]) == {"healthy": 1, "degraded": 1, "down": 0}
    assert "transient (HTTP 503)" in text(answer)


def test_moments_are_told_in_the_time_zone_of_the_pages(admin_client: Client, settings: Settings) -> None:
    bad = model(1)
    HealthRecord.objects.create(
        provider_id=bad.provider_id, model_id=bad.pk, calls=9, errors=9, updated_at=timezone.now(),
        last_success_at=datetime(2026, 1, 1, 22, 30, tzinfo=UTC),
    )  # fmt: skip
    settings.TIME_ZONE = "Asia/Tokyo"
    page = text(admin_client.get("/admin/health/"))
    assert "2026-01-02 07:30:00" in page


def test_providers_are_asked_now_by_a_post_of_those_who_may(admin_client: Client, staff_client: Client) -> None:
    JobState.objects.create(name="probe_providers", next_at=timezone.now() + timedelta(hours=1))
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename="view_provider"))
    assert "Ask all providers now" not in text(staff_client.get("/admin/health/"))
    assert staff_client.post("/admin/health/").status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="admin"))
    assert strict.post("/admin/health/").status_code == 403
    assert not JobState.objects.filter(next_at__lte=timezone.now()).exists()
    assert admin_client.post("/admin/health/").status_code == 302
    assert JobState.objects.filter(next_at__lte=timezone.now()).exists()


def test_without_a_provider_the_health_page_says_what_to_do(admin_client: Client) -> None:
    assert "No provider is enabled." in text(admin_client.get("/admin/health/"))
