"""Runs that Temporal drives, in the database: whoever is sent again repeats nothing that was finished, and whoever
comes too late changes nothing but the cost."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone
from msgspec import Raw

from orchestration import store, store_durable, store_shown
from orchestration.models import LegState, PlanLeg, PlanRun, RunState
from orchestration.plan import Plan
from orchestration.steps import Directive, Done, Leg, LegError, LegResult
from orchestration.store import DURABLE, LostRun
from orchestration.store_durable import Opened
from routing.identity import new_request_id
from routing.policy import Policy
from tests.orchestration.test_store import KEY, taken

pytestmark = pytest.mark.django_db

LEGS = [Leg("one", "voter"), Leg("two", "voter")]
DONE = Done(Raw(b"{}"), "one")


@pytest.fixture
def plan() -> Plan:
    plan = Plan(
        id=new_request_id(),
        key_id="k",
        directive=Directive("vote", 2),
        body=Raw(b'{"messages":[]}'),
        policy=Policy("normal"),
        shape=None,
        started_at=1.0,
    )
    store.begin(plan, KEY, holder=DURABLE, host=DURABLE, is_background=True)
    return plan


def opened(plan: Plan, *, legs: list[Leg] = LEGS, again: bool = False) -> Opened:
    return store_durable.open_legs(plan.id, legs, again=again)


def result(request_id: str, name: str = "one") -> LegResult:
    return LegResult(name, "voter", "words", model="m", request_id=request_id, cost_nano=1_000)


def legs(plan: Plan) -> list[tuple[str, int, str]]:
    return list(PlanLeg.objects.filter(run__pk=plan.id).order_by("id").values_list("name", "attempt", "state"))


def test_legs_are_begun_in_one_order_and_each_is_called_as_begun(plan: Plan) -> None:
    begun = opened(plan).due
    assert opened(plan, legs=[LEGS[1]]).due == [begun[1]]
    assert legs(plan) == [("one", 1, "running"), ("two", 1, "running")]


def test_a_leg_that_has_a_result_is_not_called_again(plan: Plan) -> None:
    first = opened(plan).due
    assert store_durable.settle(plan.id, result(first[0].request_id)) is True
    again = opened(plan, again=True)
    assert again.known["one"].text == "words"
    assert ([due.leg.name for due in again.due], again.spent_nano) == (["two"], 1_000)
    assert legs(plan) == [("one", 1, "completed"), ("two", 1, "lost"), ("two", 2, "running")]


def test_a_result_that_was_kept_already_may_be_told_again(plan: Plan) -> None:
    due = opened(plan).due[0]
    assert [store_durable.settle(plan.id, result(due.request_id)) for _ in range(2)] == [True, True]
    assert PlanRun.objects.get(pk=plan.id).cost_usd == Decimal("0.000001")


def test_the_answer_of_whoever_was_given_up_counts_as_cost_only(plan: Plan) -> None:
    late, now = (opened(plan, legs=LEGS[:1], again=again).due[0] for again in (False, True))
    assert store_durable.settle(plan.id, result(late.request_id)) is False
    assert store_durable.settle(plan.id, result(now.request_id)) is True
    assert legs(plan) == [("one", 1, "lost"), ("one", 2, "completed")]
    assert store_durable.record(plan.id, DONE, ["one"]) == "completed"
    assert PlanRun.objects.get(pk=plan.id).cost_usd == Decimal("0.000002")


def test_a_leg_that_is_lost_twice_has_failed(plan: Plan) -> None:
    for again in (False, True):
        assert opened(plan, legs=LEGS[:1], again=again).due
    third = opened(plan, legs=LEGS[:1], again=True)
    assert third.due == []
    assert third.known["one"].error == store.LOST_TWICE


def test_a_run_is_ended_once_and_says_so_to_whoever_asks_again(plan: Plan) -> None:
    store_durable.settle(plan.id, result(opened(plan, legs=LEGS[:1]).due[0].request_id))
    assert [store_durable.record(plan.id, DONE, ["one"]) for _ in range(2)] == ["completed", "completed"]
    found = store_shown.view(PlanRun.objects.get(pk=plan.id).pk, key_id="k")
    assert found is not None
    assert found.outcome is not None
    assert found.outcome.results["one"].text == "words"


def test_results_are_in_the_order_in_which_their_legs_were_called(plan: Plan) -> None:
    first, second = opened(plan).due
    for due in (second, first):
        store_durable.settle(plan.id, result(due.request_id, due.leg.name))
    store_durable.record(plan.id, DONE, ["one", "two"])
    found = store_shown.view(PlanRun.objects.get(pk=plan.id).pk, key_id="k")
    assert found is not None
    assert found.outcome is not None
    assert list(found.outcome.results) == ["one", "two"]


def test_a_failed_leg_is_kept_as_such(plan: Plan) -> None:
    due = opened(plan, legs=LEGS[:1]).due[0]
    failed = LegResult("one", "voter", request_id=due.request_id, error=LegError("upstream_error", "No."))
    store_durable.settle(plan.id, failed)
    assert legs(plan) == [("one", 1, "failed")]
    assert opened(plan, legs=LEGS[:1], again=True).known["one"].error == failed.error


def test_nobody_takes_a_run_while_its_workers_show_signs(plan: Plan) -> None:
    store.forsake()
    assert taken() == []


def test_a_run_is_taken_when_its_workers_are_silent_and_temporal_gone(plan: Plan) -> None:
    due = opened(plan, legs=LEGS[:1]).due[0]
    store_durable.settle(plan.id, result(due.request_id))
    silent = store.DURABLE_LEASE_SECONDS - store.FORSAKEN_SECONDS
    PlanRun.objects.filter(pk=plan.id).update(lease_until=timezone.now() + timedelta(seconds=silent))
    assert taken() == []  # Temporal may be there
    store.forsake()
    (one,) = taken()
    assert list(one.known) == ["one"]


@pytest.mark.parametrize("ended", [False, True])
def test_temporals_workers_stop_at_a_run_that_is_not_theirs(plan: Plan, ended: bool) -> None:
    due = opened(plan, legs=LEGS[:1]).due[0]
    if ended:
        store.cancel(plan.id)
    else:
        store.forsake(plan.id)
        assert taken()
    assert store_durable.renew(plan.id) is False
    for call in (
        lambda: opened(plan),
        lambda: store_durable.settle(plan.id, result(due.request_id)),
        lambda: store_durable.record(plan.id, DONE, ["one"]),
    ):
        with pytest.raises(LostRun):
            call()
    run = PlanRun.objects.get(pk=plan.id)
    assert run.state == (RunState.CANCELLED if ended else RunState.RUNNING)
    assert legs(plan) == [("one", 1, LegState.CANCELLED if ended else LegState.LOST)]


def test_a_sign_renews_the_lease(plan: Plan) -> None:
    PlanRun.objects.filter(pk=plan.id).update(lease_until=timezone.now())
    assert store_durable.renew(plan.id) is True
    assert taken() == []
