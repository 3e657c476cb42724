"""Runs whose client waits while Temporal drives them, in the database: they are told step by step, end with their
client, and leave nothing that was said."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from orchestration import store, store_durable, store_followed
from orchestration.models import PlanRun, RunState
from orchestration.plan import Plan
from orchestration.store import DURABLE
from orchestration.store_followed import Seen
from tests.orchestration.test_store import KEY, begun, taken
from tests.orchestration.test_store_durable import DONE, LEGS, opened, result

pytestmark = pytest.mark.django_db


@pytest.fixture
def plan() -> Plan:
    plan = begun(is_background=False)
    PlanRun.objects.all().delete()
    store.begin(plan, KEY, holder=DURABLE, host=DURABLE, is_background=False, is_followed=True)
    return plan


def seen(plan: Plan, *told: int) -> Seen:
    return store_followed.look([plan.id], told=told)[plan.id]


def lapse(plan: Plan) -> None:
    PlanRun.objects.filter(pk=plan.id).update(client_until=timezone.now() - timedelta(seconds=1))


def words(plan: Plan) -> list[object]:
    run = PlanRun.objects.get(pk=plan.id)
    kept = [run.sealed_plan, run.sealed_outcome, *run.legs.values_list("sealed_result", flat=True)]
    return [one for one in kept if one is not None]


def test_its_steps_are_seen_and_told_once(plan: Plan) -> None:
    first, second = opened(plan, legs=LEGS).due
    store_durable.settle(plan.id, result(second.request_id, "two"))
    (one, unfinished), (two, finished) = seen(plan).legs
    assert (one.name, unfinished, two.name, finished and finished.text) == ("one", None, "two", "words")
    assert [leg.name for leg, _ in seen(plan, two.pk).legs] == ["one"]
    assert seen(plan).is_held
    store_durable.settle(plan.id, result(first.request_id))
    store_durable.record(plan.id, DONE, ["one", "two"])
    over = seen(plan)
    assert over.is_over
    assert over.outcome is not None
    assert list(over.outcome.results) == ["one", "two"]


def test_nothing_that_was_said_outlives_it(plan: Plan) -> None:
    due = opened(plan, legs=LEGS[:1]).due[0]
    store_durable.settle(plan.id, result(due.request_id))
    store_durable.record(plan.id, DONE, ["one"])
    assert len(words(plan)) == 3
    store.forget(plan.id)
    assert words(plan) == []
    assert PlanRun.objects.get(pk=plan.id).state == RunState.COMPLETED


def test_one_that_is_cancelled_leaves_nothing_that_was_said(plan: Plan) -> None:
    opened(plan)
    store.cancel(plan.id)
    assert words(plan) == []
    assert (seen(plan).is_over, seen(plan).outcome) == (True, None)


def test_it_ends_when_its_clients_server_gives_no_sign_any_more(plan: Plan) -> None:
    opened(plan)
    store_followed.end_abandoned()
    assert not seen(plan).is_over
    lapse(plan)
    store_followed.renew([plan.id])
    store_followed.end_abandoned()
    assert not seen(plan).is_over
    lapse(plan)
    store_followed.end_abandoned()
    assert (seen(plan).state, words(plan)) == (RunState.CANCELLED, [])
    assert store_durable.renew(plan.id) is False


def test_it_is_taken_over_like_one_in_the_background(plan: Plan) -> None:
    due = opened(plan, legs=LEGS[:1]).due[0]
    store_durable.settle(plan.id, result(due.request_id))
    store.forsake(plan.id)
    (one,) = taken()
    assert (list(one.known), seen(plan).is_held) == (["one"], False)
