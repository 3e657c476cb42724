"""Runs in the database: who holds them, what counts once, what is kept and for how long; and operators' prompts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone
from msgspec import Raw
from pytest_django import Settings

from keys.auth import KeyRecord
from orchestration import services, store, store_shown
from orchestration.models import LegState, PlanRun, PromptTemplate, RunState
from orchestration.plan import Due, Outcome, Plan
from orchestration.prompts import BUILT_IN
from orchestration.steps import Directive, Done, Leg, LegResult
from orchestration.store import LostRun, Taken
from routing.identity import new_request_id
from routing.policy import Policy
from routing.shaping import Shape
from routing.snapshot_build import build_snapshot, config_version
from telemetry.models import AuditEntry, RequestLog
from vault.errors import Damaged

pytestmark = pytest.mark.django_db

KEY = KeyRecord("k", "shop", "web", (), frozenset(), frozenset(), True, True, None)
LEG = Leg("plan", "planner")


def begun(*, holder: str = "one", is_background: bool = True) -> Plan:
    plan = Plan(
        id=new_request_id(),
        key_id="k",
        directive=Directive("planning", 0),
        body=Raw(b'{"messages":[{"role":"user","content":"hi"}]}'),
        policy=Policy("normal", max_budget_nano=7),
        shape=Shape("json", b"{}"),
        started_at=1.0,
    )
    store.begin(plan, KEY, holder=holder, host="here", is_background=is_background)
    return plan


def called(plan: Plan, *, holder: str = "one", attempts: dict[str, int] | None = None) -> str:
    request_id = new_request_id()
    store.advance(
        plan.id, holder=holder, result=None, following=[Due(LEG, request_id)], attempts=attempts or {}, is_kept=True
    )  # fmt: skip
    return request_id


def answered(plan: Plan, request_id: str, *, holder: str = "one") -> None:
    result = LegResult("plan", "planner", "the plan", model="m", request_id=request_id, cost_nano=1_500)
    store.advance(plan.id, holder=holder, result=result, following=[], attempts={}, is_kept=True)


def taken(*, holder: str = "two", host: str = "here", living: tuple[str, ...] = ("two",)) -> list[Taken]:
    return store.take(holder=holder, host=host, living=lambda: living, most=10, unreadable=set())


def row(plan: Plan) -> PlanRun:
    return PlanRun.objects.get(pk=plan.id)


def expire(plan: Plan) -> None:
    PlanRun.objects.filter(pk=plan.id).update(lease_until=timezone.now() - timedelta(seconds=1))


def test_a_run_is_taken_up_with_what_was_finished(settings: Settings) -> None:
    plan = begun()
    answered(plan, called(plan))
    (one,) = taken()
    assert one.plan == plan
    assert one.known["plan"].text == "the plan"
    assert (row(plan).holder, row(plan).resumed) == ("two", 1)
    assert taken(holder="three", living=("two", "three")) == []


def test_a_run_of_a_living_worker_is_left_to_it() -> None:
    plan = begun()
    assert taken(living=("one", "two")) == []
    assert taken(host="elsewhere") == []
    expire(plan)
    assert [one.plan.id for one in taken(host="elsewhere")] == [plan.id]


def test_a_run_that_its_own_worker_dropped_is_taken_up_when_its_lease_is_over() -> None:
    kept, dropped = begun(), begun()
    for plan in (kept, dropped):
        expire(plan)
    assert store.tend([kept.id], holder="one") == {kept.id}
    found = store.take(
        holder="one", host="here", living=lambda: ["one"], most=9, unreadable=set(), mine=[kept.id]
    )  # fmt: skip
    assert [one.plan.id for one in found] == [dropped.id]


def test_a_worker_that_lost_its_run_can_write_nothing_more() -> None:
    plan = begun()
    request_id = called(plan)
    assert len(taken()) == 1
    with pytest.raises(LostRun):
        answered(plan, request_id)
    with pytest.raises(LostRun):
        store.finish(plan.id, holder="one", outcome=Outcome(Done(Raw(b"{}"), "plan")))
    assert row(plan).state == RunState.RUNNING


def test_a_queued_run_is_taken_by_whoever_has_room() -> None:
    plan = begun(holder="")
    assert store.take(holder="two", host="here", living=lambda: ["two"], most=0, unreadable=set()) == []
    assert [one.plan.id for one in taken()] == [plan.id]
    assert row(plan).resumed == 0


def test_what_a_lost_answer_cost_is_known_from_the_log() -> None:
    plan = begun()
    request_id = called(plan)
    RequestLog.objects.create(
        request_id=UUID(request_id), created_at=timezone.now(), endpoint="/v1/plan", status=200, cost_usd="0.25"
    )
    (one,) = taken()
    assert (one.known, one.lost_nano, one.attempts) == ({}, 250_000_000, {"plan": 1})
    assert float(row(plan).cost_usd or 0) == 0.25


def test_a_leg_that_is_lost_twice_is_not_called_a_third_time() -> None:
    plan = begun()
    called(plan)
    (one,) = taken()
    called(plan, holder="two", attempts=one.attempts)
    (again,) = taken(holder="three", living=("three",))
    error = again.known["plan"].error
    assert error is not None
    assert error.code == "internal_error"
    assert list(row(plan).legs.values_list("attempt", "state")) == [(1, LegState.LOST), (2, LegState.LOST)]


def test_a_run_whose_client_is_gone_with_its_worker_ends() -> None:
    plan = begun(is_background=False)
    called(plan)
    assert taken() == []
    assert (row(plan).state, row(plan).error_code) == (RunState.FAILED, "internal_error")
    assert row(plan).sealed_plan is None


def test_a_run_that_another_secret_sealed_is_left_alone(settings: Settings) -> None:
    plan = begun()
    settings.SECRET_KEY = "another one"
    unreadable: set[str] = set()
    assert store.take(holder="two", host="here", living=lambda: ["two"], most=9, unreadable=unreadable) == []
    assert unreadable == {plan.id}
    assert row(plan).holder == "one"


def test_what_is_sealed_opens_in_its_place_only() -> None:
    first, second = begun(), begun()
    PlanRun.objects.filter(pk=second.id).update(sealed_plan=row(first).sealed_plan)
    store.cancel(first.id)
    with pytest.raises(Damaged):
        store.read_run(row(second))


def test_a_cancelled_run_belongs_to_nobody() -> None:
    plan = begun()
    request_id = called(plan)
    assert store.cancel(plan.id, key_id="other") is None
    cancelled = store.cancel(plan.id, key_id="k")
    assert cancelled is not None
    assert cancelled.state == RunState.CANCELLED
    assert store.tend([plan.id], holder="one") == set()
    with pytest.raises(LostRun):
        answered(plan, request_id)
    assert taken() == []


def test_runs_are_kept_for_as_long_as_is_set(settings: Settings) -> None:
    settings.TOKENHUB_PLAN_RETENTION_HOURS = 2
    plan = begun()
    assert timedelta(hours=1, minutes=59) < row(plan).expires_at - timezone.now() < timedelta(hours=2)
    PlanRun.objects.filter(pk=plan.id).update(expires_at=timezone.now())
    assert store_shown.view(UUID(plan.id), key_id="k") is None
    assert store.prune() == 1


# -- prompts -----------------------------------------------------------------------------------------------------------
def add(text: str = "Find the flaws.", name: str = "adversarial.critique", **fields: Any) -> PromptTemplate:
    return services.add_prompt(name=name, text=text, **fields)


def test_a_prompt_of_ones_own_reaches_the_data_plane_and_the_audit_log() -> None:
    before = config_version()
    add()
    assert config_version() > before
    assert build_snapshot().prompts == {"adversarial.critique": "Find the flaws."}
    assert AuditEntry.objects.filter(action="prompt.upsert").count() == 1


def test_versions_are_kept_and_one_of_them_is_in_force() -> None:
    first, second = add("First."), add("Second.")
    assert (first.version, second.version) == (1, 2)
    assert PromptTemplate.objects.in_force() == {"adversarial.critique": "Second."}
    services.activate(prompt=PromptTemplate.objects.get(pk=first.pk))
    assert PromptTemplate.objects.in_force() == {"adversarial.critique": "First."}
    services.revert(name="adversarial.critique")
    assert build_snapshot().prompts == {}
    assert PromptTemplate.objects.count() == 2


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("no.such", "text", "name"),
        ("adversarial.critique", "  ", "text"),
        ("adversarial.critique", "Look at {{plan}}.", "text"),
        ("adversarial.refine", "Write it again.", "text"),
        ("vote.judge", "Which of {{labels}}?", "text"),
    ],
)
def test_a_prompt_that_its_mode_could_not_use_is_refused(name: str, text: str, field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        add(text, name)
    assert set(refused.value.message_dict) == {field}


def test_every_built_in_prompt_could_be_a_version() -> None:
    for name, text in BUILT_IN.items():
        services.check_prompt(name, text)
