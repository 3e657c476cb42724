"""The live page, what it asks for when it opens, and the way from an event to its request."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from providers.models import CredentialStore, Provider, ProviderType
from routing.models import HealthNotice, Model
from telemetry.events import told_of
from telemetry.journal import Entry
from telemetry.models import RequestLog
from tests.admin.forms import text
from tests.admin.test_queries import within_budget
from tokenhub import live

pytestmark = pytest.mark.django_db
LIVE, FLOWS = reverse("live"), reverse("live-flows")


def row(minutes: float = 0, **fields: Any) -> RequestLog:
    made = {"request_id": uuid4(), "created_at": timezone.now() - timedelta(minutes=minutes), "endpoint": "chat"}
    return RequestLog.objects.create(**{**made, "status": 200, **fields})


def may(what: str) -> None:
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename=what))


def flows(client: Client) -> Any:
    return within_budget(client, FLOWS).json()


def test_the_page_is_for_those_who_may_see_the_request_log(client: Client, staff_client: Client) -> None:
    for url in (LIVE, FLOWS, reverse("explain", args=[uuid4()])):
        assert client.get(url).status_code == 302
        assert staff_client.get(url).status_code == 403
    assert LIVE not in text(staff_client.get(reverse("admin:index")))
    may("view_requestlog")
    assert f'href="{LIVE}"' in text(staff_client.get(reverse("admin:index")))
    assert "Decisions" in text(within_budget(staff_client, LIVE))
    assert staff_client.post(FLOWS).status_code == 405


def test_the_newest_requests_of_the_window_are_told_as_an_event_tells_them(admin_client: Client) -> None:
    row(live.WINDOW_MINUTES + 1)
    old, new = row(5, model_id="m"), row(1, cost_usd="0.25", alias="best")
    row(2, model_id="m", endpoint="/v1/messages/count_tokens")  # of which there is no event
    told = flows(admin_client)["requests"]
    assert [one["request_id"] for one in told] == [str(new.request_id), str(old.request_id)]
    assert (told[0]["cost_usd"], told[0]["alias"], told[1]["cost_usd"]) == (0.25, "best", None)
    ((_, _, event),) = told_of(Entry(id="x", at=0, endpoint="chat", status=200))
    assert set(told[0]) - {"timestamp", "created_at"} <= set(event)


def test_no_more_requests_are_read_than_the_page_can_show(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST", 2)
    for number in range(4):
        row(number)
    with CaptureQueriesContext(connection) as queries:
        assert len(flows(admin_client)["requests"]) == 2
    assert all("LIMIT 2" in one["sql"] for one in queries if "telemetry_requestlog" in one["sql"])


def test_health_is_told_to_those_who_may_see_providers(admin_client: Client, staff_client: Client) -> None:
    provider = Provider.objects.create(
        id="acme", type=ProviderType.VLLM, base_url="http://10.0.0.5:8000", cred_store=CredentialStore.NONE
    )
    Model.objects.create(id="m", provider=provider)
    now = timezone.now()
    HealthNotice.objects.create(
        origin="other", provider_id="acme", model_id="", reason="down", began_at=now,
        until_at=now + timedelta(minutes=1), expires_at=now + timedelta(hours=1),
    )  # fmt: skip
    assert flows(admin_client)["health"] == {
        "providers": {"acme": "down"},
        "models": {"m": "healthy"},
        "of": {"m": "acme"},
    }
    may("view_requestlog")
    assert flows(staff_client)["health"] is None


def test_an_event_leads_to_the_page_of_its_request(admin_client: Client) -> None:
    made = row()
    answer = admin_client.get(reverse("explain", args=[made.request_id]))
    assert (answer.status_code, answer["location"]) == (
        302,
        reverse("admin:telemetry_requestlog_change", args=[made.pk]),
    )


def test_a_request_on_its_way_into_the_log_is_looked_for_again(admin_client: Client) -> None:
    answer = admin_client.get(reverse("explain", args=[uuid4()]))
    assert (answer.status_code, answer["refresh"]) == (404, "2")
    assert "is not in the log" in text(answer)
