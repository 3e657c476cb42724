"""Runs in the background: fetched, followed and cancelled by their id; finished by another worker when theirs dies."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.orchestration.script import COST, PRICES, events_of, last_words, legs_of, nano, plan, said
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream

OTHER = "tokenhub_" + "0d" * 32
TOKEN = "the-operators-token"
SECRET = "the colour of the safe is ultramarine"
ENDED = {"completed", "failed", "cancelled"}


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[{"id": "chat", "type": "openai", "base_url": server.url, "dialects": ["openai-chat"]}],
        models=[{"id": name, "provider_id": "chat", "weight": 5, **PRICES} for name in ("a", "b", "c", "d")],
        keys=[{"key": KEY}, {"key": OTHER, "name": "other"}],
        workers=2,
        env={"TOKENHUB_ADMIN_TOKEN": TOKEN},
    ) as running:
        yield running


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.forget()
    server.clear()
    server.requests.clear()
    return server


def begin(gateway: Gateway, mode: str, **fields: Any) -> str:
    answer = plan(gateway, mode, background=True, **{"primary_model_id": "a", **fields})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"/v1/plan/{body['id']}"
    assert body["status"] == "running"
    return str(body["id"])


def call(gateway: Gateway, method: str, run_id: str, *, key: str = KEY, query: str = "") -> httpx.Response:
    url = f"{gateway.base}/v1/plan/{run_id}{query}"
    return httpx.request(method, url, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def shown(gateway: Gateway, run_id: str) -> dict[str, Any]:
    answer = call(gateway, "GET", run_id)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(gateway: Gateway, run_id: str, *, seconds: float = 30) -> dict[str, Any]:
    gateway.wait_until(lambda: shown(gateway, run_id)["status"] in ENDED, seconds=seconds)
    return shown(gateway, run_id)


def worker_of(gateway: Gateway, run_id: str) -> int:
    """Its process: the journal's segments are named after process and holder."""
    (row,) = gateway.query("SELECT holder FROM orchestration_planrun WHERE id = ?", run_id.replace("-", ""))
    (segment,) = Path(gateway.folder, "journal").glob(f"*-{row['holder']}.journal")
    return int(segment.name.rsplit("-", 3)[1])


def test_a_run_is_accepted_and_fetched_by_its_id(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."), said("A flaw."), said("Better."))
    run_id = begin(gateway, "adversarial")
    found = ended(gateway, run_id)
    assert (found["status"], found["mode"], found["partial"], found["error"]) == (
        "completed", "adversarial", False, None,
    )  # fmt: skip
    assert [(leg["leg"], leg["status"], leg["attempt"]) for leg in found["legs"]] == [
        ("plan", "completed", 1), ("critique-1", "completed", 1), ("refine-1", "completed", 1),
    ]  # fmt: skip
    result = found["result"]
    assert result["response"]["refined_plan"] == "Better."
    assert result["routing_reason"] == "adversarial-orchestration"
    assert result["cost_usd"] == found["cost_usd"] == pytest.approx(3 * COST)
    assert sum(nano(row["cost_usd"]) for row in legs_of(gateway, run_id, 3)) == nano(found["cost_usd"])


def test_live_legs_and_the_cost_so_far_are_shown(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."), Reply(delay=60))
    run_id = begin(gateway, "adversarial")
    upstream.wait_for_requests(2)
    gateway.wait_until(lambda: len(shown(gateway, run_id)["legs"]) == 2)
    found = shown(gateway, run_id)
    assert (found["status"], found["result"]) == ("running", None)
    assert [leg["status"] for leg in found["legs"]] == ["completed", "running"]
    assert found["cost_usd"] == pytest.approx(COST)
    call(gateway, "DELETE", run_id)


def test_a_run_that_fails_tells_why(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(Reply(status=400), model="a")
    found = ended(gateway, begin(gateway, "refine"))
    assert (found["status"], found["result"], found["error"]["code"]) == ("failed", None, "upstream_rejected")


def test_it_is_cancelled_at_once(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(Reply(delay=60))
    run_id = begin(gateway, "vote", iterations=2)
    upstream.wait_for_requests(2)
    answer = call(gateway, "DELETE", run_id)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert all(request.lost.wait(10) for request in upstream.requests)
    assert {leg["status"] for leg in shown(gateway, run_id)["legs"]} == {"cancelled"}
    assert call(gateway, "DELETE", run_id).json()["status"] == "cancelled"
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_only_the_key_that_started_it_sees_it(gateway: Gateway, upstream: Upstream, method: str) -> None:
    run_id = begin(gateway, "planning")
    ended(gateway, run_id)
    answer = call(gateway, method, run_id, key=OTHER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert shown(gateway, run_id)["status"] == "completed"


@pytest.mark.parametrize("run_id", ["nonsense", "00000000-0000-7000-8000-000000000000", "a/b"])
def test_what_is_no_run_is_a_404(gateway: Gateway, run_id: str) -> None:
    assert call(gateway, "GET", run_id).json()["error"]["code"] == "not_found"


def test_a_run_with_a_client_is_not_kept_for_it(gateway: Gateway, upstream: Upstream) -> None:
    run_id = plan(gateway, "planning").json()["request_id"]
    assert call(gateway, "GET", run_id).status_code == 404


def admin(gateway: Gateway, method: str, path: str) -> Any:
    answer = httpx.request(
        method, f"{gateway.base}/admin/v1/{path}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_operator_cancels_a_run_whose_client_waits(gateway: Gateway, upstream: Upstream, stream: bool) -> None:
    upstream.when(Reply(delay=60))
    answers: list[httpx.Response] = []
    client = threading.Thread(target=lambda: answers.append(plan(gateway, "planning", stream=stream)))
    client.start()
    found: list[dict[str, Any]] = []

    def listed() -> bool:
        found[:] = admin(gateway, "GET", "workflows?status=running&limit=5")["items"]
        return len(found) == 1 and len(admin(gateway, "GET", f"workflows/{found[0]['id']}")["legs"]) == 1

    gateway.wait_until(listed)
    assert (found[0]["mode"], found[0]["background"]) == ("planning", False)
    assert admin(gateway, "POST", f"workflows/{found[0]['id']}/cancel")["status"] == "cancelled"
    client.join(timeout=20)
    assert "cancelled by the operator" in answers[0].text
    assert answers[0].status_code == (200 if stream else 503)
    assert upstream.requests[0].lost.wait(10)


def test_a_client_gets_its_answer_though_another_worker_took_its_run_for_abandoned(
    gateway: Gateway, upstream: Upstream
) -> None:
    """As after some seconds without the database."""
    upstream.when(said("Here it is.", delay=5))
    answers: list[httpx.Response] = []
    client = threading.Thread(target=lambda: answers.append(plan(gateway, "planning")))
    client.start()
    upstream.wait_for_requests(1)
    running = "SELECT id FROM orchestration_planrun WHERE state = 'running' AND NOT is_background"
    gateway.wait_until(lambda: len(gateway.query(running)) == 1)
    (run,) = gateway.query(running)
    over = "UPDATE orchestration_planrun SET state = 'failed', holder = '', lease_until = NULL WHERE id = ?"
    gateway.execute(over, run["id"])
    client.join(timeout=20)
    assert (answers[0].status_code, "Here it is." in answers[0].text) == (200, True), answers[0].text


def test_it_can_be_followed(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."), said("A flaw.", delay=0.5), said("Better.", delay=0.5))
    run_id = begin(gateway, "adversarial")
    answer = call(gateway, "GET", run_id, query="?stream=true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [name for name, _ in events] == [*["leg_started", "leg_completed"] * 3, "result"]
    assert [data["content"] for name, data in events if name == "leg_completed"] == ["The plan.", "A flaw.", "Better."]
    assert events[-1][1]["response"]["refined_plan"] == "Better."
    again = events_of(call(gateway, "GET", run_id, query="?stream=true").text)
    assert [name for name, _ in again] == [name for name, _ in events]
    assert again[-1] == events[-1]


def test_what_was_said_is_sealed(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(f"I see: {SECRET}."))
    asked = {"messages": [{"role": "user", "content": f"Know that {SECRET}"}]}
    found = ended(gateway, begin(gateway, "planning", request=asked))
    assert SECRET in json.dumps(found["result"])
    for file in gateway.folder.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


def test_another_worker_goes_on_when_a_runs_worker_is_killed(gateway: Gateway, upstream: Upstream) -> None:
    """What was finished is not asked again; what was under way is, once, and both attempts are on record."""
    upstream.next(said("The plan."), said("A flaw."), Reply(delay=60), said("Better."), said("Fine."), said("Best."))
    run_id = begin(gateway, "adversarial", iterations=2, review_model_id="b")
    upstream.wait_for_requests(3)
    killed = worker_of(gateway, run_id)
    os.kill(killed, signal.SIGKILL)
    found = ended(gateway, run_id)
    assert found["status"] == "completed", found
    assert found["result"]["response"]["refined_plan"] == "Best."
    assert [(leg["leg"], leg["attempt"], leg["status"]) for leg in found["legs"]] == [
        ("plan", 1, "completed"), ("critique-1", 1, "completed"), ("refine-1", 1, "lost"), ("refine-1", 2, "completed"),
        ("critique-2", 1, "completed"), ("refine-2", 1, "completed"),
    ]  # fmt: skip
    assert [request.json["model"] for request in upstream.requests] == ["a", "b", "a", "a", "b", "a"]
    assert last_words(upstream.requests[2]) == last_words(upstream.requests[3])
    (row,) = gateway.query("SELECT resumed FROM orchestration_planrun WHERE id = ?", run_id.replace("-", ""))
    assert row["resumed"] == 1
    assert sum(nano(one["cost_usd"]) for one in legs_of(gateway, run_id, 5)) == nano(found["cost_usd"])


@pytest.mark.slow
@pytest.mark.parametrize("place", [1, 2, 4, 5])
def test_it_may_be_killed_at_any_leg(gateway: Gateway, upstream: Upstream, place: int) -> None:
    texts = ["The plan.", "A flaw.", "Better.", "Fine.", "Best."]
    replies = [said(text) for text in texts]
    upstream.next(*replies[: place - 1], Reply(delay=60), *replies[place - 1 :])
    run_id = begin(gateway, "adversarial", iterations=2, review_model_id="b")
    upstream.wait_for_requests(place)
    os.kill(worker_of(gateway, run_id), signal.SIGKILL)
    found = ended(gateway, run_id)
    assert found["result"]["response"]["refined_plan"] == "Best."
    assert len(upstream.requests) == 6
    assert [leg["status"] for leg in found["legs"]].count("lost") == 1
    assert sum(nano(one["cost_usd"]) for one in legs_of(gateway, run_id, 5)) == nano(found["cost_usd"])


def test_a_vote_is_taken_up_between_its_voters(gateway: Gateway, upstream: Upstream) -> None:
    hanging = Reply(delay=60)
    upstream.when(hanging, model="b")
    run_id = begin(gateway, "vote", iterations=2, review_model_id="d")
    gateway.wait_until(lambda: [leg["status"] for leg in shown(gateway, run_id)["legs"]].count("completed") == 1)
    gateway.wait_until(lambda: len(upstream.requests) == 2)
    names = [request.json["model"] for request in upstream.requests]
    waiting = "b" if "b" in names else ""
    assert waiting, names
    upstream.clear()
    os.kill(worker_of(gateway, run_id), signal.SIGKILL)
    found = ended(gateway, run_id)
    assert found["status"] == "completed", found
    asked = [request.json["model"] for request in upstream.requests]
    assert asked == [*names, "b", "d"]


@pytest.mark.slow
def test_a_run_outlives_the_restart_of_its_server(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."), Reply(delay=60), said("A flaw."), said("Better."))
    run_id = begin(gateway, "adversarial")
    upstream.wait_for_requests(2)
    gateway.stop()
    gateway.start()
    found = ended(gateway, run_id)
    assert found["result"]["response"]["refined_plan"] == "Better."
    assert [leg["status"] for leg in found["legs"]] == ["completed", "lost", "completed", "completed"]
