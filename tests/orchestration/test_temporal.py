"""Runs in the background, driven by Temporal: a real development server, and workers that are killed. The first tests
hold for both runners alike.

With TOKENHUB_RECORD_HISTORIES=1 the histories of their runs are written down, for `test_replay.py`."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.orchestration.script import (
    ASK,
    COST,
    DEAR,
    DEAR_COST,
    PRICES,
    events_of,
    legs_of,
    nano,
    plan,
    said,
    streamed,
)
from tests.orchestration.test_background import OTHER, SECRET, TOKEN, begin, call, ended, shown
from tests.orchestration.test_plan import LIMITED
from tests.orchestration.test_replay import HISTORIES, REPLAYED_SECRET
from tests.support.gateway import KEY, Gateway
from tests.support.temporal import Temporal, TemporalWorker, why_not
from tests.support.upstream import Reply, Upstream

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
DURABLY = "temporal"
NARROW = "tokenhub_" + "7e" * 32
RUNNERS = ["in-process", DURABLY]


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
        keys=[{"key": KEY}, {"key": OTHER, "name": "other"}, {"key": NARROW, "allowed_models": ["c"]}],
        env={"TOKENHUB_ADMIN_TOKEN": TOKEN, "TOKENHUB_SECRET_KEY": REPLAYED_SECRET, **env},
    )


@pytest.fixture(scope="module")
def gateway(server: Upstream, temporal: Temporal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    env = {**temporal.env, "TOKENHUB_TEMPORAL_CHAT": "true"}
    with made(server, tmp_path_factory.mktemp("durable"), **env) as running:
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


def admin(gateway: Gateway, method: str, path: str) -> dict[str, Any]:
    url = f"{gateway.base}/admin/v1/{path}"
    answer = httpx.request(method, url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def workflows(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin(gateway, "GET", "workflows?limit=20")["items"]
    return found


def listed(gateway: Gateway, run_id: str) -> dict[str, Any]:
    """As soon as its end is written down, perhaps behind the answer's back."""
    gateway.wait_until(lambda: run_id in {one["id"] for one in workflows(gateway) if one["status"] != "running"})
    return admin(gateway, "GET", f"workflows/{run_id}")


def given_up(gateway: Gateway) -> None:
    """A client whose server goes away."""
    with suppress(httpx.HTTPError):
        plan(gateway, "adversarial")


def write_down(temporal: Temporal, run_id: str, name: str) -> None:
    text = re.sub(r'"identity": "[^"]*"', '"identity": "worker"', temporal.history(run_id).to_json())  # whose machine
    (HISTORIES / f"{name}.json").write_text(text + "\n")


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


@pytest.fixture
def acted(request: pytest.FixtureRequest, upstream: Upstream, runner: str, scenario: Scenario) -> Gateway:
    """Whose runs the runner takes through the scenario."""
    gateway: Gateway = request.getfixturevalue("gateway" if runner == DURABLY else "local")
    if runner == DURABLY:
        request.getfixturevalue("worker")
    for model, reply in scenario.replies.items():
        upstream.when(reply, model=model)
    return gateway


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_run_has_the_same_legs_result_and_cost_in_both_runners(
    acted: Gateway, runner: str, scenario: Scenario, request: pytest.FixtureRequest
) -> None:
    gateway = acted
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
        write_down(request.getfixturevalue("temporal"), run_id, scenario.name)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_client_that_waits_gets_the_same_from_both_runners(acted: Gateway, runner: str, scenario: Scenario) -> None:
    answer = plan(acted, scenario.mode, primary_model_id="a", **scenario.asked)
    assert answer.status_code == (200 if scenario.status == "completed" else 400), answer.text
    run_id = answer.headers["x-tokenhub-request-id"]
    found = answer.json() if answer.status_code == 200 else {}
    response = found.get("response", {})
    assert {name: response[name] for name in scenario.says} == scenario.says
    assert (found.get("cost_usd", 0), found.get("partial", False)) == (pytest.approx(scenario.cost), scenario.partial)
    run = listed(acted, run_id)
    assert (run["status"], run["background"]) == (scenario.status, False)
    assert run["runner"] == ("temporal" if runner == DURABLY else "in_process")
    legs = [(leg["leg"], leg["status"], leg["model_id"]) for leg in run["legs"]]
    assert [leg[:2] for leg in legs] == [leg[:2] for leg in scenario.legs]
    assert sorted(leg[2] for leg in legs) == sorted(leg[2] for leg in scenario.legs)
    assert sum(nano(leg["cost_usd"]) for leg in legs_of(acted, run_id, len(legs))) == nano(scenario.cost)
    assert call(acted, "GET", run_id).status_code == 404


@pytest.mark.parametrize("scenario", [SCENARIOS[0], SCENARIOS[2], SCENARIOS[3]], ids=lambda one: one.name)
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_stream_tells_the_same_of_both_runners(
    acted: Gateway, upstream: Upstream, runner: str, scenario: Scenario
) -> None:
    """Texts as they come here, each as one piece there."""
    if runner != DURABLY:  # it asks for streams, but for those that fail, and a judge's answer
        upstream.clear()
        for model, reply in scenario.replies.items():
            is_heard = reply.status == 200 and model != "d"
            upstream.when(streamed("The ", "plan.") if is_heard else reply, model=model)
    answer = plan(acted, scenario.mode, primary_model_id="a", stream=True, **scenario.asked)
    events = events_of(answer.text)
    done = [data for name, data in events if name == "leg_completed"]
    assert sorted(one["leg"] for one in done) == sorted(leg[0] for leg in scenario.legs)
    assert sorted(data["leg"] for name, data in events if name == "leg_started") == sorted(one["leg"] for one in done)
    for one in done:
        texts = [data["text"] for name, data in events if name == "delta" and data["leg"] == one["leg"]]
        assert "".join(texts) == ("" if one["role"] == "judge" else one["content"])
    name, last = events[-1]
    assert name == ("result" if scenario.status == "completed" else "error")
    if name == "result":
        assert scenario.says.keys() <= last["response"].keys()
        assert last["cost_usd"] == pytest.approx(scenario.cost)
    assert listed(acted, answer.headers["x-tokenhub-request-id"])["runner"] == runner.replace("-", "_")


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


def test_nothing_that_was_said_stays_when_a_client_has_its_answer(
    gateway: Gateway, worker: TemporalWorker, upstream: Upstream
) -> None:
    upstream.next(PLAN, FLAW, BETTER)
    run_id = plan(gateway, "adversarial", primary_model_id="a").headers["x-tokenhub-request-id"]
    assert row_of(gateway, run_id)["host"] == DURABLY
    kept = (
        "SELECT count(*) AS legs, count(sealed_result) + count(sealed_plan) + count(sealed_outcome) AS words "
        "FROM orchestration_planleg l JOIN orchestration_planrun r ON r.id = l.run_id WHERE r.id = ?"
    )
    gateway.wait_until(lambda: gateway.query(kept, run_id.replace("-", "")) == [{"legs": 3, "words": 0}])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_run(
    gateway: Gateway, temporal: Temporal, worker: TemporalWorker, upstream: Upstream, stream: bool
) -> None:
    upstream.when(Reply(delay=60))
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        body = json.dumps({"request": ASK, "orchestration": {"mode": "adversarial"}, "stream": stream})
        client.sendall(f"POST /v1/plan HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n{body}".encode())  # fmt: skip
        upstream.wait_for_requests(1, timeout=30)
        (run,) = [one for one in workflows(gateway) if one["status"] == "running"]
    assert upstream.requests[0].lost.wait(20)
    gateway.wait_until(lambda: listed(gateway, run["id"])["status"] == "cancelled")
    gateway.wait_until(lambda: temporal.status(run["id"]) != "RUNNING", seconds=20)
    assert len(upstream.requests) == 1


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_no_run_that_nobody_waits_for(
    gateway: Gateway, worker: TemporalWorker, upstream: Upstream
) -> None:
    upstream.when(Reply(delay=60))
    client = threading.Thread(target=given_up, args=(gateway,))
    client.start()
    upstream.wait_for_requests(1, timeout=30)
    (run,) = [one for one in workflows(gateway) if one["status"] == "running"]
    gateway.kill()
    client.join(timeout=30)
    gateway.start()
    gateway.execute(
        "UPDATE orchestration_planrun SET client_until = created_at WHERE id = ?", run["id"].replace("-", "")
    )
    gateway.wait_until(lambda: listed(gateway, run["id"])["status"] == "cancelled")
    assert upstream.requests[0].lost.wait(20)


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
        admin(gateway, "POST", f"workflows/{run_id}/cancel")
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
    """The leg that is under way is finished, by whoever is at it, and kept; the server goes on with the next. A client
    that waits gets its answer all the same."""
    upstream.when(PLAN, model="a")
    upstream.when(said("A flaw.", delay=2), model="b")
    run_id = begin(gateway, "adversarial", review_model_id="b")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(plan, gateway, "adversarial", primary_model_id="a", review_model_id="b")
        upstream.wait_for_requests(4, timeout=30)
        temporal.stop()
        found = ended(gateway, run_id, seconds=60)
        answer = waiting.result(timeout=60)
    assert found["result"]["response"]["critique"] == answer.json()["response"]["critique"] == "A flaw.", answer.text
    waited = answer.headers["x-tokenhub-request-id"]
    for legs in (found["legs"], listed(gateway, waited)["legs"]):
        assert [(leg["leg"], leg["status"]) for leg in legs] == [
            ("plan", "completed"), ("critique-1", "completed"), ("refine-1", "completed"),
        ]  # fmt: skip
    assert len(upstream.requests) == 6
    assert DURABLY not in {row_of(gateway, one)["host"] for one in (run_id, waited)}

    wait_for_temporal(gateway, up=0)
    before = ended(gateway, begin(gateway, "planning"))
    assert (before["status"], row_of(gateway, before["id"])["host"] != DURABLY) == ("completed", True)
    answer = plan(gateway, "planning", primary_model_id="a")
    assert listed(gateway, answer.headers["x-tokenhub-request-id"])["runner"] == "in_process"

    temporal.start()
    wait_for_temporal(gateway)
    assert shown(gateway, run_id) == found
    again = ended(gateway, begin(gateway, "planning"), seconds=60)
    assert (again["status"], row_of(gateway, again["id"])["host"]) == ("completed", DURABLY)
    answer = plan(gateway, "planning", primary_model_id="a")
    assert row_of(gateway, answer.headers["x-tokenhub-request-id"])["host"] == DURABLY
    for one in (run_id, waited):
        gateway.wait_until(lambda: temporal.status(one) == "COMPLETED", seconds=30)  # noqa: B023  waited for here
    assert len(upstream.requests) == 10


def test_a_client_does_not_wait_long_for_a_worker(gateway: Gateway, worker: TemporalWorker, upstream: Upstream) -> None:
    """And the next one not at all, until somebody looks again. The last test here: that is in half a minute."""
    worker.stop()
    for _ in range(2):
        answer = plan(gateway, "planning", primary_model_id="a")
        assert answer.status_code == 200, answer.text
        assert listed(gateway, answer.headers["x-tokenhub-request-id"])["runner"] == "in_process"
    assert gateway.log().count("plan_run_unattended") == 1
    assert len(upstream.requests) == 2
