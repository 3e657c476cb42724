"""Runs of /v1/plan as an operator sees them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from orchestration.models import LegState, PlanLeg, PlanRun, RunState
from telemetry.models import AuditEntry, RequestLog
from tests.adminapi.api import Api, ok, refused

pytestmark = pytest.mark.django_db


def run(state: RunState = RunState.RUNNING, **fields: Any) -> PlanRun:
    now = timezone.now()
    made = PlanRun.objects.create(
        id=uuid4(), state=state, mode="vote", created_at=now, expires_at=now, cost_usd=Decimal("0.25"),
        sealed_plan=b"sealed", **fields,
    )  # fmt: skip
    for name, leg_state in (("voter-1", LegState.COMPLETED), ("voter-2", LegState.RUNNING)):
        ended = now if leg_state == LegState.COMPLETED else None
        PlanLeg.objects.create(
            run=made, name=name, role="voter", state=leg_state, request_id=uuid4(), started_at=now, finished_at=ended
        )
    return made


def test_runs_are_listed_newest_first_with_what_they_cost_so_far(api: Api) -> None:
    old, new = run(RunState.COMPLETED), run()
    listed = ok(api.get("workflows?limit=5"))
    assert listed["total"] == 2
    assert [one["id"] for one in listed["items"]] == [str(new.pk), str(old.pk)]
    first = listed["items"][0]
    assert (first["status"], first["mode"], first["cost_usd"], first["legs_done"], first["partial"]) == (
        "running", "vote", 0.25, 1, False,
    )  # fmt: skip
    assert not any("sealed" in name for name in first)


def test_runs_are_found_by_their_state(api: Api) -> None:
    found = run(RunState.FAILED)
    run()
    assert [one["id"] for one in ok(api.get("workflows?status=failed"))["items"]] == [str(found.pk)]
    refused(api.get("workflows?status=asleep"), "invalid_request", "status")


def test_a_run_is_shown_with_its_legs(api: Api) -> None:
    found = ok(api.get(f"workflows/{run().pk}"))
    assert [(leg["leg"], leg["status"]) for leg in found["legs"]] == [("voter-1", "completed"), ("voter-2", "running")]


def test_its_history_tells_what_happened_in_order(api: Api) -> None:
    found = run()
    events = ok(api.get(f"workflows/{found.pk}/history"))["events"]
    assert [(one["event"], one["leg"]) for one in events] == [
        ("run_started", None), ("leg_started", "voter-1"), ("leg_completed", "voter-1"), ("leg_started", "voter-2"),
    ]  # fmt: skip


def test_a_run_is_cancelled_once(api: Api) -> None:
    found = run(holder="somebody")
    assert ok(api.post(f"workflows/{found.pk}/cancel"))["status"] == "cancelled"
    assert AuditEntry.objects.filter(action="workflow.cancel", resource=f"workflow/{found.pk}").count() == 1
    refused(api.post(f"workflows/{found.pk}/cancel"), "conflict")


def test_a_request_tells_of_which_run_it_is_a_leg(api: Api) -> None:
    row = RequestLog.objects.create(
        request_id=uuid4(), created_at=timezone.now(), endpoint="/v1/plan", status=200,
        detail={"attempts": [], "plan": "01a2", "leg": "judge"},
    )  # fmt: skip
    found = ok(api.get(f"logs/{row.request_id}"))
    assert (found["plan"], found["leg"]) == ("01a2", "judge")


@pytest.mark.parametrize("path", ["workflows/nonsense", f"workflows/{UUID(int=1)}", f"workflows/{UUID(int=1)}/history"])
def test_what_is_no_run_is_a_404(api: Api, path: str) -> None:
    refused(api.get(path), "not_found")


def test_looking_and_cancelling_are_rights_of_their_own(staff: Callable[..., Api]) -> None:
    found = run()
    clerk = staff("orchestration.view_planrun")
    ok(clerk.get("workflows"))
    refused(clerk.post(f"workflows/{found.pk}/cancel"), "permission_denied")
    refused(staff().get("workflows"), "permission_denied")
