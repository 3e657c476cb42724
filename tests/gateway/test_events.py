"""`GET /admin/v1/events` of real servers: what arrives, from whom, and what a bad client can do."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from telemetry.event_feed import MAX_CLIENTS, WINDOW_EVENTS
from telemetry.event_ring import FileRing
from telemetry.events import encoded
from tests.support.gateway import KEY, VAULT_PASSWORD, Gateway
from tests.support.listening import Listening, token_of
from tests.support.redis import Redis, why_not
from tests.support.upstream import Reply, Upstream

PROVIDERS = ("p", "q")
MODELS: list[dict[str, Any]] = [
    {"id": "m", "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.002"},
    {"id": "n", "provider_id": "q", "max_context_tokens": 1_000_000},
]
KEYS = [{"key": KEY, "project": "shop", "name": "web"}]
TOO_LONG = Reply(status=400, body=b'{"error": {"message": "too long", "code": "context_length_exceeded"}}')


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Gateway]:
    """With two workers."""
    providers = [{"id": one, "type": "openai", "base_url": upstream.url} for one in PROVIDERS]
    env = {"TOKENHUB_STREAM_KEEPALIVE_SECS": "0.5"}
    folder = tmp_path_factory.mktemp("events")
    with Gateway(folder, providers=providers, models=MODELS, keys=KEYS, env=env, workers=2) as gateway:
        yield gateway


def asked(gateway: Gateway, count: int = 1, model: str = "m", **fields: Any) -> list[str]:
    answers = [gateway.chat(model, **fields) for _ in range(count)]
    return [answer.headers["x-tokenhub-request-id"] for answer in answers]


def workers_that_served(gateway: Gateway) -> int:
    return sum(one.stat().st_size > 0 for one in (gateway.folder / "journal").glob("*.journal"))


def test_requests_are_heard_of_whichever_worker_served_them(gateway: Gateway) -> None:
    with Listening(gateway) as listening:
        ids = asked(gateway)
        while workers_that_served(gateway) < 2 and len(ids) < 200:
            ids += asked(gateway)
        assert workers_that_served(gateway) == 2
        listening.wait(lambda it: len(it.requests("route_success")) >= len(ids))
        assert sorted(listening.requests("route_success")) == sorted(ids)
        data = listening.of("route_success")[0]
        names = ("model_id", "provider_id", "project", "api_key_name")
        assert [data[name] for name in names] == ["m", "p", "shop", "web"]
        assert (data["status"], data["routing_reason"], data["attempts"]) == (200, "model-hint", 1)
        assert data["cost_usd"] > 0
        assert listening.answer.headers["content-type"].startswith("text/event-stream")
        assert listening.answer.headers["cache-control"] == "no-store"
        assert listening.answer.headers["x-tokenhub-request-id"]
        assert "hi" not in json.dumps(listening.events).split('"')


def test_a_stream_is_told_when_it_starts_and_when_it_is_over(gateway: Gateway, upstream: Upstream) -> None:
    with Listening(gateway, "?types=stream_started,route_success") as listening:
        upstream.next(Reply(words=3, interval=0.01))
        answer = gateway.chat("m", stream=True)
        request_id = answer.headers["x-tokenhub-request-id"]
        listening.wait(lambda it: len(it.events) >= 2)
        assert [(kind, told["data"]["request_id"]) for _, kind, told in listening.events] == [
            ("stream_started", request_id), ("route_success", request_id),
        ]  # fmt: skip
        assert listening.of("stream_started")[0]["time_to_first_chunk_ms"] >= 0
        assert listening.of("route_success")[0]["stream"] is True


def test_an_escalation_names_who_was_too_small(gateway: Gateway, upstream: Upstream) -> None:
    with Listening(gateway) as listening:
        upstream.next(TOO_LONG, Reply())
        answer = gateway.chat("m")
        assert answer.headers["x-tokenhub-model"] == "n"
        listening.wait(lambda it: bool(it.requests("route_success")))
        (data,) = listening.of("escalation")
        assert (data["too_small"], data["model_id"]) == (["m"], "n")
        assert data["request_id"] == answer.headers["x-tokenhub-request-id"]


def test_whoever_comes_again_misses_nothing_and_gets_nothing_twice(gateway: Gateway) -> None:
    with Listening(gateway, "?types=route_success") as first:
        ids = asked(gateway, 6)
        first.wait(lambda it: len(it.events) >= 6)
        seen = [event_id for event_id, _, _ in first.events]
    ids += asked(gateway, 6)
    with Listening(gateway, "?types=route_success", Last_Event_ID=seen[3]) as second:
        ids += asked(gateway, 2)
        second.wait(lambda it: set(first.requests()[:4] + it.requests()) >= set(ids))
        told = first.requests()[:4] + second.requests()
        assert sorted(one for one in told if one in ids) == sorted(ids)  # two workers: not in order
        assert len(set(told)) == len(told)  # requests of an earlier test may be told late
        assert second.events[0][0] == seen[4]
    with Listening(gateway, f"?types=route_success&last_event_id={second.events[-3][0]}") as third:
        third.wait(lambda it: len(it.events) >= 2)
        assert third.events == second.events[-2:]


def test_whoever_comes_again_too_late_is_told(gateway: Gateway) -> None:
    for event_id in ("00000000-17", "no id"):
        with Listening(gateway, Last_Event_ID=event_id) as listening:
            listening.wait(lambda it: bool(it.events))
            assert listening.events[0][1] == "gap"
            assert listening.events[0][2]["data"] == {"reason": "unknown_id", "missed": None}


def test_filters(gateway: Gateway, upstream: Upstream) -> None:
    queries = ("?model_id=n", "?provider_id=p&status=error", "?project=other", "?types=vault_change")
    listeners = [Listening(gateway, query) for query in queries]
    try:
        good = asked(gateway, 1, "n")
        upstream.next(Reply(status=400, body=b'{"error": {"message": "no"}}'))
        bad = asked(gateway, 1, "m")
        httpx.post(
            f"{gateway.base}/admin/v1/vault/lock", headers={"Authorization": f"Bearer {token_of(gateway)}"}, timeout=30
        ).raise_for_status()
        listeners[3].wait(lambda it: bool(it.events))
        listeners[0].wait(lambda it: bool(it.events))
        listeners[1].wait(lambda it: bool(it.events))
        assert [one.requests() for one in listeners] == [good, bad, [], []]
        assert [one.of("vault_change") for one in listeners] == [[], [], [], [{"action": "lock"}]]
    finally:
        for one in listeners:
            one.close()
        unlock = {"admin_password": VAULT_PASSWORD}
        headers = {"Authorization": f"Bearer {token_of(gateway)}"}
        httpx.post(f"{gateway.base}/admin/v1/vault/unlock", json=unlock, headers=headers, timeout=30)


@pytest.mark.parametrize(
    ("query", "param"), [("?types=route_success,nothing", "types"), ("?status=200", "status"), ("?modle=m", "modle")]
)
def test_a_wrong_filter_is_named(gateway: Gateway, query: str, param: str) -> None:
    with Listening(gateway, query) as listening:
        listening.answer.read()
        assert listening.answer.status_code == 400
        assert listening.answer.json()["error"]["param"] == param


def test_a_silent_stream_says_that_it_is_alive_and_where_it_is(gateway: Gateway) -> None:
    with Listening(gateway, "?types=budget_overrun") as listening:
        before = listening.comments
        (_,) = asked(gateway)
        listening.wait(lambda it: it.comments >= before + 2)
        assert listening.events == []
        listening.wait(lambda it: it.last_id != it.ids[0])  # past what it did not want


def test_nobody_listens_without_a_token(gateway: Gateway) -> None:
    for headers, code in (
        ({}, "missing_api_key"),
        ({"Authorization": "Bearer nonsense"}, "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY}"}, "invalid_api_key"),
    ):
        answer = httpx.get(f"{gateway.base}/admin/v1/events", headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_session_of_the_browser_listens_until_it_is_over(gateway: Gateway) -> None:
    opened = httpx.post(f"{gateway.base}/admin/v1/session", json={"token": token_of(gateway)}, timeout=30)
    with Listening(gateway, cookies=dict(opened.cookies)) as listening:
        ids = asked(gateway)
        listening.wait(lambda it: it.requests("route_success") == ids)


def test_another_method_is_none(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {token_of(gateway)}"}
    answer = httpx.post(f"{gateway.base}/admin/v1/events", headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def raw_listener(gateway: Gateway) -> socket.socket:
    """It has its answer's head, and reads no further."""
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
    request = f"GET /admin/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token_of(gateway)}\r\n\r\n"
    connection.sendall(request.encode())
    head = b""
    while b"\nid: " not in head:
        more = connection.recv(4096)
        assert more, head
        head += more
    assert head.startswith(b"HTTP/1.1 200")
    return connection


def kilobytes(first: int, count: int) -> list[bytes]:
    now = datetime.now(UTC)
    return [encoded("workflow_started", now, {"n": n, "text": "x" * 950}) for n in range(first, first + count)]


def resident_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))


def worker_of(gateway: Gateway) -> int:
    assert gateway.process is not None
    master = gateway.process.pid
    return int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])


def test_a_slow_reader_is_told_what_it_missed(gateway: Gateway) -> None:
    ring = FileRing(gateway.folder)
    with raw_listener(gateway) as slow, Listening(gateway, "?types=workflow_started") as healthy:
        total = WINDOW_EVENTS * 3
        for first in range(0, total, 512):
            ring.append(kilobytes(first, 512))
            healthy.wait(lambda it, wanted=first + 512: len(it.events) >= wanted)  # type: ignore[misc]
        assert [told["n"] for told in healthy.of("workflow_started")] == list(range(total))
        text = b""
        while b'"n":%d,' % (total - 1) not in text:
            text += slow.recv(65_536)
        events = [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: {")]
        missed = [one["data"]["missed"] for one in events if one["type"] == "gap"]
        got = [one["data"]["n"] for one in events if one["type"] == "workflow_started"]
        assert got == sorted(set(got))
        assert sum(missed) > 0
        assert len(got) + sum(missed) == total


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A server of one worker, which may be stopped."""
    with Gateway(tmp_path_factory.mktemp("lone")) as gateway:
        yield gateway


@pytest.mark.parametrize("total", [6_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_who_does_not_read_is_let_go_and_costs_no_memory(tmp_path: Path, total: int) -> None:
    env = {"TOKENHUB_STREAM_IDLE_TIMEOUT_SECS": "2"}
    with Gateway(tmp_path, env=env) as gateway, Listening(gateway) as healthy:
        ring, worker = FileRing(gateway.folder), worker_of(gateway)
        stuck = [raw_listener(gateway) for _ in range(3)]
        most = before = resident_kb(worker)
        for first in range(0, total, 500):
            ring.append(kilobytes(first, 500))
            healthy.wait(lambda it, wanted=first + 500: len(it.events) >= wanted)  # type: ignore[misc]
            most = max(most, resident_kb(worker))
        assert [told["n"] for told in healthy.of("workflow_started")] == list(range(total))
        assert healthy.of("gap") == []
        assert most - before < 48_000, f"{before} kB grew to {most} kB"  # the window, the ring's pages, and buffers

        def is_gone(connection: socket.socket) -> bool:
            try:
                while connection.recv(65_536):
                    pass
            except OSError:
                pass
            return True

        Gateway.wait_until(lambda: gateway.log().count("event_listener_stalled") == 3, seconds=30)
        assert all(is_gone(one) for one in stuck)
        for one in stuck:
            one.close()


def test_there_is_a_limit_to_listeners(lone: Gateway) -> None:
    if lone.process is None:
        lone.start()
    held = [raw_listener(lone) for _ in range(MAX_CLIENTS)]
    headers = {"Authorization": f"Bearer {token_of(lone)}"}
    answer = httpx.get(f"{lone.base}/admin/v1/events", headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) > 0
    assert httpx.get(f"{lone.base}/admin/v1/events", timeout=30).status_code == 401
    held.pop().close()

    def is_let_in() -> bool:
        with Listening(lone) as listening:
            return listening.answer.status_code == 200

    Gateway.wait_until(is_let_in)
    for one in held:
        one.close()


def test_a_server_that_stops_does_not_wait_for_its_listeners(lone: Gateway) -> None:
    if lone.process is None:
        lone.start()
    with Listening(lone) as healthy:
        stuck = raw_listener(lone)
        FileRing(lone.folder).append(kilobytes(0, 3000))
        healthy.wait(lambda it: len(it.events) == 3000)
        process, lone.process = lone.process, None
        assert process is not None
        started = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        assert time.monotonic() - started < 15  # of a grace of 30
        assert healthy.ended.wait(10)
        assert healthy.problem is None, "its stream was cut, not ended"
        stuck.close()


def test_health_is_told_once_though_two_workers_see_it(gateway: Gateway, upstream: Upstream) -> None:
    token = {"Authorization": f"Bearer {token_of(gateway)}"}
    with Listening(gateway, "?types=health_change&provider_id=q&model_id=n") as listening:
        upstream.when(Reply(status=500), model="n")
        for _ in range(8):
            gateway.chat("n")
        listening.wait(lambda it: any(told["to"] == "down" for told in it.of("health_change")))
        for _ in range(8):
            gateway.chat("n")
        states = [(told["from"], told["to"]) for told in listening.of("health_change")]
        assert [to for _, to in states].count("down") == 1
        assert listening.of("health_change")[-1]["last_error"].startswith("transient")
    assert httpx.get(f"{gateway.base}/admin/v1/health", headers=token, timeout=30).status_code == 200


# -- many hosts ------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_hosts_hear_of_each_other_by_redis(tmp_path: Path, upstream: Upstream) -> None:
    rows: dict[str, Any] = {
        "providers": [{"id": "p", "type": "openai", "base_url": upstream.url}],
        "models": [{"id": "m", "provider_id": "p"}],
    }
    with Redis() as redis:
        env = {"TOKENHUB_REDIS_URL": redis.patient_url}
        with Gateway(tmp_path / "a", env=env, **rows) as one, Gateway(tmp_path / "b", env=env, **rows) as other:
            with Listening(one, "?types=route_success") as listening:
                for host in (other, one):  # each learns within a second that one listens, also where that is
                    told: list[str] = []
                    while not set(told) & set(listening.requests()) and len(told) < 400:
                        told += asked(host)
                        time.sleep(0.05)
                ids = asked(other, 3) + asked(one, 3)
                listening.wait(lambda it: set(ids) <= set(it.requests()))
                seen = listening.last_id
            late = asked(other, 2)
            with Listening(other, "?types=route_success", Last_Event_ID=seen) as again:
                again.wait(lambda it: len(it.events) >= 2)
                assert again.requests() == late
