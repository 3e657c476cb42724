"""Runs and prompts in the admin."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orchestration.models import PlanLeg, PlanRun, PromptTemplate, RunState
from orchestration.prompts import BUILT_IN
from tests.admin.forms import submit, text

pytestmark = pytest.mark.django_db

RUNS = reverse("admin:orchestration_planrun_changelist")
PROMPTS = reverse("admin:orchestration_prompttemplate_changelist")
ADD = reverse("admin:orchestration_prompttemplate_add")
CRITIQUE = "adversarial.critique"


def run(**fields: object) -> PlanRun:
    now = timezone.now()
    return PlanRun.objects.create(id=uuid4(), mode="vote", created_at=now, expires_at=now, **fields)


def test_a_run_shows_its_legs(admin_client: Client) -> None:
    found = run()
    PlanLeg.objects.create(
        run=found, name="voter-1", role="voter", model_id="org/m", request_id=uuid4(), started_at=timezone.now()
    )
    page = text(admin_client.get(reverse("admin:orchestration_planrun_change", args=[found.pk])))
    assert "voter-1" in page
    assert "org/m" in page


def test_runs_are_cancelled_from_the_list(admin_client: Client, staff_client: Client) -> None:
    found = run()
    posted = {"action": "cancel", "_selected_action": [str(found.pk)]}
    staff_client.post(RUNS, posted)
    found.refresh_from_db()
    assert found.state == RunState.RUNNING
    admin_client.post(RUNS, posted)
    found.refresh_from_db()
    assert found.state == RunState.CANCELLED


def test_a_prompt_is_written_from_the_one_in_force(admin_client: Client) -> None:
    shown = text(admin_client.get(ADD, {"name": CRITIQUE}))
    assert BUILT_IN[CRITIQUE][:40] in shown
    admin_client.post(ADD, {"name": CRITIQUE, "text": "Find the flaws.", "note": "shorter"})
    made = PromptTemplate.objects.get()
    assert (made.version, made.is_active, made.text, made.created_by) == (1, True, "Find the flaws.", "admin")


def test_a_change_is_a_new_version_and_the_old_one_comes_back(admin_client: Client) -> None:
    admin_client.post(ADD, {"name": CRITIQUE, "text": "First."})
    first = PromptTemplate.objects.get()
    url = reverse("admin:orchestration_prompttemplate_change", args=[first.pk])
    submit(admin_client, url, holding="text", text="Second.")
    assert list(PromptTemplate.objects.values_list("version", "text", "is_active")) == [
        (2, "Second.", True), (1, "First.", False),
    ]  # fmt: skip
    admin_client.post(PROMPTS, {"action": "put_in_force", "_selected_action": [str(first.pk)]})
    assert PromptTemplate.objects.in_force() == {CRITIQUE: "First."}
    admin_client.post(PROMPTS, {"action": "use_built_in", "_selected_action": [str(first.pk)]})
    assert PromptTemplate.objects.in_force() == {}


def test_a_prompt_without_its_place_is_refused_in_the_form(admin_client: Client) -> None:
    answer = admin_client.post(ADD, {"name": "adversarial.refine", "text": "Write it again."})
    assert "It needs {{critique}}" in text(answer)
    assert not PromptTemplate.objects.exists()


def test_all_prompts_in_force_are_on_one_page(admin_client: Client) -> None:
    admin_client.post(ADD, {"name": CRITIQUE, "text": "Find the flaws."})
    page = text(admin_client.get(reverse("admin:orchestration_prompttemplate_prompts")))
    assert [name for name in BUILT_IN if name not in page] == []
    assert "Find the flaws." in page
