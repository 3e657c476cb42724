"""What holds when somebody leaves or dies: the client in mid-stream, the server under load, one worker of two."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Fault, Reply, Upstream

LEAVE_SECONDS = 0.1
SLACK_SECONDS = 0.15  # for a busy test machine; the bound itself is measured by the benchmark
PRICED = {"input_per_1k": "0.001", "output_per_1k": "0.002"}


def one_model(upstream: Upstream, **provider: Any) -> dict[str, Any]:
    return {
        "providers": [{"id": "p", "type": "openai", "base_url": upstream.url, **provider}],
        "models": [{"id": "m", "provider_id": "p", **PRICED}],
        "env": {"TOKENHUB_RATE_LIMIT_RPS": "0"},
    }


def open_stream(gateway: Gateway, path: str = "/v1/chat/completions", **fields: Any) -> socket.socket:
    """A raw connection on which a stream was asked for."""
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 500, **fields}
    ).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    connection.sendall(head.encode() + body)
    return connection


def read_until(connection: socket.socket, text: bytes, count: int) -> None:
    data = b""
    while data.count(text) < count:
        more = connection.recv(65_536)
        assert more, f"the stream ended: {data!r}"
        data += more


@pytest.mark.parametrize("server", ["serve", "uvicorn", "daphne"])
@pytest.mark.parametrize(
    ("path", "mark"), [("/v1/chat/completions", b'"content":"'), ("/v1/messages", b"text_delta")],
    ids=["same-dialect", "translated"],
)  # fmt: skip
def test_a_client_that_leaves_in_mid_stream_ends_the_upstream_call_and_pays_for_what_was_produced(
    tmp_path: Path, server: str, path: str, mark: bytes
) -> None:
    with Upstream() as upstream, Gateway(tmp_path, server=server, **one_model(upstream)) as gateway:
        upstream.default = Reply(words=500, interval=0.02)
        connection = open_stream(gateway, path)
        read_until(connection, mark, 10)
        left_at = time.monotonic()
        connection.close()
        (request,) = upstream.requests
        assert request.lost.wait(5)
        assert request.lost_at is not None
        assert request.lost_at - left_at < LEAVE_SECONDS + SLACK_SECONDS
        (row,) = gateway.rows(at_least=1)
    assert row["client_disconnected"]
    assert row["usage_estimated"]
    assert row["input_tokens"] > 0
    assert 5 <= row["output_tokens"] <= 60
    assert float(row["cost_usd"]) > 0


@pytest.mark.parametrize("server", ["serve", "daphne"])
def test_a_client_that_leaves_before_the_first_byte_ends_the_upstream_call(tmp_path: Path, server: str) -> None:
    with Upstream() as upstream, Gateway(tmp_path, server=server, **one_model(upstream)) as gateway:
        upstream.default = Reply(delay=30)
        for stream in (True, False):
            expected = len(upstream.requests) + 1
            connection = open_stream(gateway, stream=stream)
            upstream.wait_for_requests(expected)
            time.sleep(0.1)
            connection.close()
            assert upstream.requests[-1].lost.wait(LEAVE_SECONDS + SLACK_SECONDS)
        rows = gateway.rows(at_least=2)
    assert {row["status"] for row in rows} == {499}
    assert all(row["client_disconnected"] for row in rows)


async def _load(gateway: Gateway, answered: set[str], stop: asyncio.Event, number: int) -> None:
    """Requests one after the other, whole and streamed in turn; notes each that was answered to its last byte."""
    async with httpx.AsyncClient(base_url=gateway.base, headers=gateway.headers(), timeout=10) as client:
        turn = number
        while not stop.is_set():
            turn += 1
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": turn % 2 == 0}
            try:
                answer = await client.post("/v1/chat/completions", json=body)
            except httpx.HTTPError:
                return
            if answer.status_code == 200 and (turn % 2 or answer.text.endswith("[DONE]\n\n")):
                answered.add(answer.headers["x-tokenhub-request-id"].replace("-", ""))


@pytest.mark.parametrize("rounds", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_kill_9_under_load_loses_no_answered_request_and_counts_none_twice(tmp_path: Path, rounds: int) -> None:
    answered: set[str] = set()
    with Upstream() as upstream:
        upstream.default = Reply(words=4)
        gateway = Gateway(tmp_path, workers=2, **one_model(upstream))

        async def round_of_load(seconds: float) -> None:
            stop = asyncio.Event()
            tasks = [asyncio.create_task(_load(gateway, answered, stop, number)) for number in range(16)]
            enough, deadline = len(answered) + 60, time.monotonic() + 20
            while len(answered) < enough and time.monotonic() < deadline:  # noqa: ASYNC110  a set has no event
                await asyncio.sleep(0.01)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(gateway.kill)
            stop.set()
            await asyncio.gather(*tasks)

        for number in range(rounds):
            gateway.start()
            before = len(answered)
            asyncio.run(round_of_load(0.1 + 0.37 * number))
            assert len(answered) - before > 50
        gateway.start()
        try:
            gateway.rows(at_least=len(answered))
            Gateway.wait_until(lambda: not (answered - _logged(gateway)))
            rows = gateway.query("SELECT request_id, count(*) AS n FROM telemetry_requestlog GROUP BY request_id")
        finally:
            gateway.stop()
    assert {row["n"] for row in rows} == {1}
    assert answered <= {row["request_id"] for row in rows}


def _logged(gateway: Gateway) -> set[str]:
    return {row["request_id"] for row in gateway.query("SELECT request_id FROM telemetry_requestlog")}


def test_two_workers_on_sqlite_take_a_new_key_within_a_second_and_refuse_a_deleted_one(tmp_path: Path) -> None:
    fresh = "tokenhub_" + "cd" * 32
    with Upstream() as upstream, Gateway(tmp_path, workers=2, **one_model(upstream)) as gateway:
        workers = set(_children(gateway))
        assert len(workers) == 2

        def statuses() -> set[int]:
            """Of many connections: the kernel spreads them over both workers."""
            headers = {"Authorization": f"Bearer {fresh}"}
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            return {gateway.post("/v1/chat/completions", body, headers=headers).status_code for _ in range(30)}

        assert statuses() == {401}
        gateway.configure(keys=[{"key": fresh}])
        time.sleep(1)
        assert statuses() == {200}
        gateway.configure(delete_keys=[fresh])
        time.sleep(1)
        assert statuses() == {401}


def _children(gateway: Gateway) -> list[int]:
    assert gateway.process is not None
    text = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def test_a_worker_that_dies_is_replaced_and_its_requests_are_logged(tmp_path: Path) -> None:
    with Upstream() as upstream, Gateway(tmp_path, **one_model(upstream)) as gateway:
        for _ in range(5):
            assert gateway.chat("m").status_code == 200
        (worker,) = _children(gateway)
        os.kill(worker, signal.SIGKILL)

        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return gateway.chat("m").status_code == 200
            return False

        Gateway.wait_until(answers)
        assert _children(gateway) != [worker]
        assert len(gateway.rows(at_least=6)) >= 6


def test_an_orderly_stop_lets_a_running_stream_end(tmp_path: Path) -> None:
    with Upstream() as upstream:
        upstream.default = Reply(words=30, interval=0.03)
        gateway = Gateway(tmp_path, **one_model(upstream)).start()
        connection = open_stream(gateway)
        read_until(connection, b'"content":"', 3)
        assert gateway.process is not None
        os.kill(gateway.process.pid, signal.SIGTERM)
        read_until(connection, b"[DONE]", 1)
        connection.close()
        gateway.process.wait(timeout=15)
        gateway.start()
        (row,) = gateway.rows(at_least=1)
        gateway.stop()
    assert (row["status"], row["output_tokens"], row["usage_estimated"]) == (200, 30, 0)


def test_requests_that_a_stop_cuts_off_are_in_the_log(tmp_path: Path) -> None:
    def ask(number: int) -> None:
        with contextlib.suppress(httpx.TransportError):
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            gateway.post("/v1/chat/completions", body, headers=gateway.headers(Idempotency_Key=f"cut-off-{number}"))

    with Upstream() as upstream, ThreadPoolExecutor(16) as pool:
        upstream.default = Reply(fault=Fault.HANG_BEFORE_HEAD)
        env = {"UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN": "1"}  # `serve` waits longer
        gateway = Gateway(tmp_path, **{**one_model(upstream), "env": env}, server="uvicorn")
        with gateway:
            asked = [pool.submit(ask, number) for number in range(16)]
            upstream.wait_for_requests(16, timeout=20)
            gateway.stop()
            for one in asked:
                one.result()
            gateway.start()
            assert [row["status"] for row in gateway.rows(at_least=16)] == [503] * 16
