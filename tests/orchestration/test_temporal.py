"""Runs in the background, driven by Temporal: a real development server, and workers that are killed. The first tests
hold for both runners alike.

With TOKENHUB_RECORD_HISTORIES=1 the histories of their runs are written down, for `test_replay.py`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.orchestration.script import COST, DEAR, DEAR_COST, PRICES, legs_of, nano, said
from tests.orchestration.test_background import OTHER, SECRET, TOKEN, begin, call, ended, shown
from tests.orchestration.test_plan import LIMITED
from tests.orchestration.test_replay import HISTORIES, REPLAYED_SECRET
from tests.support.gateway import KEY, Gateway
from tests.support.temporal import Temporal, TemporalWorker, why_not
from tests.support.upstream import Reply, Upstream

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
DURABLY = "temporal"


@pytest.fixture(scope="module")
def temporal() -> Iterator[Temporal]:
    with Temporal() as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def made(server: Upstream, folder: Path, **env: str) -> Gateway:
    return Gateway(
        folder,
        providers=[{"id": "chat", "type": "openai", "base_url": server.url, "dialects": ["openai-chat"]}],
        models=[{"id": name, "provider_id": "chat", "weight": 5, **PRICES} for name in ("a", "b", "c", "d")],
        keys=[{"key": KEY}, {"key": OTHER, "name": "other"}],
        env={"TOKENHUB_ADMIN_TOKEN": TOKEN, "TOKENHUB_SECRET_KEY": REPLAYED_SECRET, **env},
    )


@pytest.fixture(scope="module")
def gateway(server: Upstream, temporal: Temporal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with made(server, tmp_path_factory.mktemp("durable"), **temporal.env) as running:
        yield running


@pytest.fixture(scope="module")
def local(server: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with made(server, tmp_path_factory.mktemp("local")) as running:
        yield running


@pytest.fixture(scope="module")
def running(gateway: Gateway) -> Iterator[list[TemporalWorker]]:
    workers = [TemporalWorker(gateway).start()]
    yield workers
    for one in workers:
        one.stop()


@pytest.fixture
def worker(running: list[TemporalWorker], gateway: Gateway) -> TemporalWorker:
    """One that is at work, whatever the test before did to it."""
    if running[-1].process is None:
        running.append(TemporalWorker(gateway).start())
    wait_for_temporal(gateway)
    return running[-1].wait_until_ready()


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.forget()
    server.clear()
    server.requests.clear()
    return server


def wait_for_temporal(gateway: Gateway, *, up: int = 1) -> None:
    gateway.wait_until(lambda: f"tokenhub_temporal_up {up}.0" in gateway.get("/metrics").text, seconds=60)


def row_of(gateway: Gateway, run_id: str) -> dict[str, Any]:
    (row,) = gateway.query(
        "SELECT host, resumed FROM orchestration_planrun WHERE id = ?", run_id.replace("-", "")
    )  # fmt: skip
    return row


# -- the same in both runners ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scenario:
    name: str
    mode: str
    replies: dict[str, Reply]
    legs: list[tuple[str, str, str]]
    """Leg, state and model."""
    cost: float
    asked: dict[str, Any] = field(default_factory=dict)
    says: dict[str, Any] = field(default_factory=dict)
    """Of the result's response."""
    status: str = "completed"
    partial: bool = False


PLAN, FLAW, BETTER = said("The plan."), said("A flaw."), said("Better.")
VOTERS = [(f"voter-{place}", "completed", model) for place, model in enumerate("abc", 1)]
SCENARIOS = [
    Scenario(
        "adversarial", "adversarial", {"a": PLAN, "b": FLAW},
        [("plan", "completed", "a"), ("critique-1", "completed", "b"), ("refine-1", "completed", "a")],
        3 * COST, {"review_model_id": "b"}, {"critique": "A flaw.", "refined_plan": "The plan."},
    ),
    Scenario("planning", "planning", {"a": PLAN}, [("plan", "completed", "a")], COST),
    Scenario("refine-fails", "refine", {"a": Reply(status=400)}, [("draft", "failed", "a")], 0, status="failed"),
    Scenario(
        "vote", "vote", {"a": PLAN, "b": FLAW, "c": BETTER, "d": said("All are fine.")},
        [*VOTERS, ("judge", "completed", "d")], 4 * COST,
        {"review_model_id": "d", "iterations": 3}, {"selected": 0, "judge": "d", "judge_parsed": False},
    ),
    Scenario(
        "vote-with-a-ceiling", "vote", {"a": PLAN, "b": FLAW, "c": BETTER, "d": said("All are fine.")},
        [*VOTERS, ("judge", "completed", "d")], 4 * COST,
        {"review_model_id": "d", "iterations": 3, "policy": {"max_budget_usd": 1}}, {"judge_parsed": False},
    ),
    Scenario(
        "money-ends", "adversarial",
        {"a": said("The plan.", usage=DEAR), "b": said("A flaw.", usage=DEAR)},
        [("plan", "completed", "a"), ("critique-1", "completed", "b"), ("refine-1", "failed", "a")],
        2 * DEAR_COST, {**LIMITED, "review_model_id": "b", "policy": {"max_budget_usd": 0.0025}},
        {"refined_plan": "The plan."}, partial=True,
    ),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
@pytest.mark.parametrize("runner", ["in-process", DURABLY])
def test_a_run_has_the_same_legs_result_and_cost_in_both_runners(
    runner: str, scenario: Scenario, request: pytest.FixtureRequest, upstream: Upstream
) -> None:
    gateway: Gateway = request.getfixturevalue("gateway" if runner == DURABLY else "local")
    if runner == DURABLY:
        request.getfixturevalue("worker")
    for model, reply in scenario.replies.items():
        upstream.when(reply, model=model)
    run_id = begin(gateway, scenario.mode, **scenario.asked)
    found = ended(gateway, run_id)
    assert (found["status"], found["partial"]) == (scenario.status, scenario.partial), found
    legs = [(leg["leg"], leg["status"], leg["model"]) for leg in found["legs"]]
    assert [leg[:2] for leg in legs] == [leg[:2] for leg in scenario.legs]
    assert sorted(leg[2] for leg in legs) == sorted(leg[2] for leg in scenario.legs)
    response = found["result"]["response"] if found["result"] else {}
    assert {name: response[name] for name in scenario.says} == scenario.says
    assert (found["cost_usd"] or 0) == pytest.approx(scenario.cost)
    assert sum(nano(leg["cost_usd"]) for leg in legs_of(gateway, run_id, len(legs))) == nano(scenario.cost)
    row = row_of(gateway, run_id)
    assert (row["host"] == DURABLY, row["resumed"]) == (runner == DURABLY, 0)
    if runner == DURABLY and os.environ.get("TOKENHUB_RECORD_HISTORIES"):
        history = request.getfixturevalue("temporal").history(run_id)
        text = re.sub(r'"identity": "[^"]*"', '"identity": "worker"', history.to_json())  # else whose machine it was
        (HISTORIES / f"{scenario.name}.json").write_text(text + "\n")


# -- Temporal ----------------------------------------------------------------------------------------------------------
def test_the_server_cannot_read_what_was_asked_and_said(
    gateway: Gateway, temporal: Temporal, worker: TemporalWorker, upstream: Upstream
) -> None:
    upstream.when(said(f"I see: {SECRET}."))
    asked = {"messages": [{"role": "user", "content": f"Know that {SECRET}"}]}
    run_id = begin(gateway, "adversarial", request=asked)
    assert SECRET in str(ended(gateway, run_id)["result"])
    assert SECRET in str(upstream.requests[0].json)
    for file in temporal.folder.glob("temporal.sqlite3*"):
        assert SECRET.encode() not in file.read_bytes(), file
    payloads = [
        payload
        for event in temporal.history(run_id).events
        for payload in event.activity_task_completed_event_attributes.result.payloads
    ]
    assert {payload.metadata["encoding"] for payload in payloads} == {b"binary/sealed"}


def test_its_progress_can_be_asked_for(
    gateway: Gateway, temporal: Temporal, worker: TemporalWorker, upstream: Upstream, settings: Any
) -> None:
    settings.SECRET_KEY = REPLAYED_SECRET
    upstream.next(PLAN, Reply(delay=60))
    run_id = begin(gateway, "adversarial")
    upstream.wait_for_requests(2, timeout=30)
    found = temporal.progress(run_id)
    assert (found.finished, found.under_way) == (["plan"], ["critique-1"])
    call(gateway, "DELETE", run_id)
    assert upstream.requests[1].lost.wait(20)


@pytest.mark.parametrize("way", ["client", "operator", DURABLY])
def test_it_is_cancelled(
    gateway: Gateway, temporal: Temporal, worker: TemporalWorker, upstream: Upstream, way: str
) -> None:
    upstream.when(Reply(delay=60))
    run_id = begin(gateway, "vote", iterations=2)
    upstream.wait_for_requests(2, timeout=30)
    if way == "client":
        assert call(gateway, "DELETE", run_id).json()["status"] == "cancelled"
    elif way == "operator":
        url = f"{gateway.base}/admin/v1/workflows/{run_id}/cancel"
        assert httpx.post(url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).status_code == 200
    else:
        temporal.cancel(run_id)
    assert all(request.lost.wait(20) for request in upstream.requests)
    found = ended(gateway, run_id)
    assert (found["status"], {leg["status"] for leg in found["legs"]}) == ("cancelled", {"cancelled"})
    assert len(upstream.requests) == 2
    gateway.wait_until(lambda: temporal.status(run_id) != "RUNNING", seconds=20)


@pytest.mark.parametrize("place", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)])
def test_another_worker_goes_on_when_one_is_killed(
    gateway: Gateway, worker: TemporalWorker, running: list[TemporalWorker], upstream: Upstream, place: int
) -> None:
    """What was finished is not asked again; what was under way is, once, and both attempts are on record."""
    replies, names = [PLAN, FLAW, BETTER], ["plan", "critique-1", "refine-1"]
    upstream.next(*replies[:place], Reply(delay=60), *replies[place:])
    run_id = begin(gateway, "adversarial", review_model_id="b")
    upstream.wait_for_requests(place + 1, timeout=30)
    running.append(TemporalWorker(gateway).start().wait_until_ready())
    worker.kill()
    found = ended(gateway, run_id, seconds=60)
    assert found["result"]["response"]["refined_plan"] == "Better.", found
    again = [(names[place], 1, "lost"), (names[place], 2, "completed")]
    once = [(name, 1, "completed") for name in names]
    assert [(leg["leg"], leg["attempt"], leg["status"]) for leg in found["legs"]] == [
        *once[:place], *again, *once[place + 1 :],
    ]  # fmt: skip
    assert len(upstream.requests) == 4
    assert row_of(gateway, run_id) == {"host": DURABLY, "resumed": 0}
    assert sum(nano(one["cost_usd"]) for one in legs_of(gateway, run_id, 3)) == nano(found["cost_usd"])


@pytest.mark.slow
def test_without_a_worker_the_server_does_it(gateway: Gateway, worker: TemporalWorker, upstream: Upstream) -> None:
    worker.stop()
    upstream.next(PLAN, FLAW, BETTER)
    run_id = begin(gateway, "adversarial", review_model_id="b")
    found = ended(gateway, run_id, seconds=60)
    assert found["result"]["response"]["refined_plan"] == "Better."
    assert row_of(gateway, run_id)["host"] != DURABLY
    assert len(upstream.requests) == 3


def test_temporal_goes_in_the_middle_and_comes_back(
    gateway: Gateway, temporal: Temporal, worker: TemporalWorker, upstream: Upstream
) -> None:
    """The leg that is under way is finished, by whoever is at it, and kept; the server goes on with the next."""
    upstream.next(PLAN, said("A flaw.", delay=2), BETTER)
    run_id = begin(gateway, "adversarial", review_model_id="b")
    upstream.wait_for_requests(2, timeout=30)
    temporal.stop()
    found = ended(gateway, run_id, seconds=60)
    assert found["result"]["response"]["refined_plan"] == "Better.", found
    assert [(leg["leg"], leg["status"]) for leg in found["legs"]] == [
        ("plan", "completed"), ("critique-1", "completed"), ("refine-1", "completed"),
    ]  # fmt: skip
    assert len(upstream.requests) == 3
    assert row_of(gateway, run_id)["host"] != DURABLY

    wait_for_temporal(gateway, up=0)
    before = ended(gateway, begin(gateway, "planning"))
    assert (before["status"], row_of(gateway, before["id"])["host"] != DURABLY) == ("completed", True)

    temporal.start()
    wait_for_temporal(gateway)
    assert shown(gateway, run_id) == found
    again = ended(gateway, begin(gateway, "planning"), seconds=60)
    assert (again["status"], row_of(gateway, again["id"])["host"]) == ("completed", DURABLY)
    gateway.wait_until(lambda: temporal.status(run_id) == "COMPLETED", seconds=30)
    assert len(upstream.requests) == 5
