"""What was captured of a request, by the API and on the admin's page: for whom, and what is left in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from telemetry.captures import Captured, pack
from telemetry.models import AuditEntry, Capture, RequestLog
from tests.adminapi.api import Api, ok, refused
from vault import capture_key, services

pytestmark = pytest.mark.django_db


@pytest.fixture
def row(open_vault: None) -> RequestLog:
    row = RequestLog.objects.create(request_id=uuid4(), created_at=timezone.now(), endpoint="/v1/chat", status=200)
    kept(row.request_id)
    return row


def kept(request_id: UUID, *, days: float = 1.0) -> None:
    capture_key.make()
    key = services.sealed_credentials()[capture_key.NAME]
    sealed = capture_key.seal(key, pack(Captured("the <b>question</b>", "the answer")), request_id=str(request_id))
    now = timezone.now()
    Capture.objects.create(request_id=request_id, sealed=sealed, captured_at=now, expires_at=now + timedelta(days=days))


def readings() -> list[tuple[str, str]]:
    return list(AuditEntry.objects.filter(action="capture.read").values_list("resource", "actor"))


def test_it_is_read_with_a_permission_of_its_own_and_each_time_audited(
    api: Api, staff: Callable[..., Api], row: RequestLog
) -> None:
    path = f"logs/{row.request_id}/capture"
    refused(staff("telemetry.view_requestlog").get(path), "permission_denied")
    assert readings() == []
    shown = ok(api.get(path))
    assert (shown["prompt"], shown["answer"]) == ("the <b>question</b>", "the answer")
    ok(staff("telemetry.view_capture", "telemetry.view_requestlog").get(path))
    assert [resource for resource, _ in readings()] == [f"logs/{row.request_id}"] * 2
    assert readings()[0][1].startswith("clerk")


def test_nothing_is_shown_of_what_is_not_kept_moved_or_locked(api: Api, row: RequestLog) -> None:
    path = f"logs/{row.request_id}/capture"
    refused(api.get("logs/unknown/capture"), "not_found")
    Capture.objects.update(expires_at=timezone.now())
    refused(api.get(path), "not_found")
    Capture.objects.all().delete()
    kept(uuid4())
    Capture.objects.update(request_id=row.request_id)
    refused(api.get(path), "not_found")  # it was sealed for another one
    Capture.objects.all().delete()
    kept(row.request_id)
    services.lock()
    refused(api.get(path), "vault_locked")
    assert readings() == []


def test_the_page_shows_it_to_who_may(client: Client, row: RequestLog) -> None:
    clerk = User.objects.create_user("clerk", password="x", is_staff=True)
    client.force_login(clerk)
    page = reverse("admin:telemetry_requestlog_change", args=[row.pk])
    place = reverse("admin:telemetry_requestlog_capture", args=[row.pk])
    clerk.user_permissions.add(Permission.objects.get(codename="view_requestlog"))
    assert place not in client.get(page).content.decode()
    assert client.get(place).status_code == 403
    clerk.user_permissions.add(Permission.objects.get(codename="view_capture"))
    assert place in client.get(page).content.decode()
    answer = client.get(place)
    assert "the &lt;b&gt;question&lt;/b&gt;" in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert readings() == [(f"logs/{row.request_id}", "clerk")]
    services.lock()
    assert "while the vault is locked" in client.get(place).content.decode()


def test_a_key_and_a_project_say_whether_they_are_captured(api: Api) -> None:
    made = ok(api.call("POST", "apikeys", {"name": "app"}))
    assert ok(api.get(f"apikeys/{made['id']}"))["capture"] is False
    assert ok(api.call("PATCH", f"apikeys/{made['id']}", {"capture": True}))["capture"] is True
    assert api.call("POST", "projects", {"name": "team", "capture": True}).status_code in {200, 201}
    assert ok(api.get("projects/team"))["capture"] is True
