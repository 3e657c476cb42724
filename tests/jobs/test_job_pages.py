"""Background jobs in the admin and its API."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from telemetry.models import AuditEntry
from tests.admin.conftest import quick_passwords, staff_client  # noqa: F401  fixtures
from tests.admin.forms import text
from tests.adminapi.api import Api, ok, refused
from tests.adminapi.conftest import api, data_folder  # noqa: F401  fixtures
from tokenhub import job_runs
from tokenhub.jobs import SCHEDULE
from tokenhub.models import JobState

pytestmark = pytest.mark.django_db
LIST = reverse("admin:tokenhub_jobstate_changelist")


@pytest.fixture(autouse=True)
def rows(db: None) -> None:
    job_runs.ensure("a-host")
    JobState.objects.update(next_at=timezone.now() + timedelta(days=1))


def state(name: str = "prune") -> JobState:
    return JobState.objects.get(name=name)


def posted(name: str = "prune") -> dict[str, object]:
    return {"action": "run_now", "_selected_action": [str(state(name).pk)]}


def test_the_page_lists_every_job_with_what_it_does_and_what_came_of_it(admin_client: Client) -> None:
    JobState.objects.filter(name="prune").update(
        last_outcome="failed",
        last_result="RuntimeError: the disk is full",
        last_ms=1500,
        last_started_at=timezone.now(),
    )
    page = text(admin_client.get(LIST))
    for job in SCHEDULE:
        assert job.name in page
        assert escape(job.does) in page
    for part in ("the disk is full", "1.500 s", "1 h", "5 min"):
        assert part in page


def test_a_job_is_run_from_the_page(admin_client: Client) -> None:
    page = text(admin_client.post(LIST, posted(), follow=True))
    assert "prune starts within a second" in page
    row = state()
    assert row.next_at is not None
    assert row.next_at <= timezone.now()
    assert (row.asked_by, AuditEntry.objects.latest("pk").action) == ("admin", "job.run")


def test_a_job_that_runs_is_not_started_again(admin_client: Client) -> None:
    JobState.objects.filter(name="prune").update(
        holder="x", running_since=timezone.now(), lease_until=timezone.now() + timedelta(minutes=1)
    )
    page = text(admin_client.post(LIST, posted(), follow=True))
    assert "prune is running." in page
    assert "runs since" in page


def test_who_may_only_look_runs_nothing(staff_client: Client) -> None:  # noqa: F811
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename="view_jobstate"))
    assert "run_now" not in text(staff_client.get(LIST))
    staff_client.post(LIST, posted())
    assert state().asked_by == ""


def test_the_api_lists_jobs(api: Api) -> None:  # noqa: F811
    found = {one["name"]: one for one in ok(api.get("jobs"))["items"]}
    assert set(found) == {job.name for job in SCHEDULE}
    assert (found["prune"]["every_seconds"], found["prune"]["scope"], found["prune"]["host"]) == (
        3600, "installation", "",
    )  # fmt: skip
    assert found["ingest_journal"]["host"] == "a-host"


def test_the_api_has_a_job_run_now_and_says_so_when_it_runs(api: Api) -> None:  # noqa: F811
    assert ok(api.post("jobs/prune/run")) == {"ok": True}
    assert state().asked_by == "admin-token"
    JobState.objects.filter(name="prune").update(lease_until=timezone.now() + timedelta(minutes=1))
    refused(api.post("jobs/prune/run"), "conflict")
    refused(api.post("jobs/brew/run"), "not_found")
