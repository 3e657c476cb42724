"""SIGHUP renews the workers one by one, and SIGTERM ends the server, both amid traffic: no request fails for it, and
none is missing from the log."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream

CLIENTS = 10
PAUSE_SECONDS = 0.2  # with ten clients: 50 requests per second
MODEL = {"id": "m", "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.002"}


def children(gateway: Gateway) -> set[int]:
    assert gateway.process is not None
    text = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text()
    return {int(pid) for pid in text.split()}


def signalled(gateway: Gateway, number: signal.Signals) -> None:
    assert gateway.process is not None
    os.kill(gateway.process.pid, number)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests here; each leaves it running."""
    provider = {"id": "p", "type": "openai", "base_url": upstream.url}
    budgets = [{"of_key": KEY, "amount_usd": "1000"}]
    folder = tmp_path_factory.mktemp("reload")
    with Gateway(folder, providers=[provider], models=[MODEL], budgets=budgets, workers=2) as server:
        yield server


def stream(gateway: Gateway) -> AbstractContextManager[httpx.Response]:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    url = f"{gateway.base}/v1/chat/completions"
    return httpx.stream("POST", url, json=body, headers=gateway.headers(), timeout=60)


class Load:
    """Clients that keep their connections, ask in turn for whole answers and streams, and note what became of each."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.answered: list[str] = []
        self.failed: list[str] = []
        self.over = False

    async def client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self.gateway.base, headers=self.gateway.headers(), timeout=60) as client:
            while not self.over:
                number += 1
                stream = number % 2 == 0
                body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
                what = "refused"
                try:
                    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                        what = "cut"
                        await answer.aread()
                except httpx.HTTPError as problem:
                    self.failed.append(f"{what}: {problem!r}")
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                whole = answer.text.endswith("[DONE]\n\n") if stream else answer.json()["usage"]
                if answer.status_code == 200 and whole:
                    self.answered.append(answer.headers["x-tokenhub-request-id"].replace("-", ""))
                else:
                    self.failed.append(f"cut: {answer.status_code} {answer.text[-200:]}")
                await asyncio.sleep(PAUSE_SECONDS)

    async def run(self, during: Callable[[], Any]) -> None:
        """`during` runs in a thread while the clients ask."""
        tasks = [asyncio.create_task(self.client(number)) for number in range(CLIENTS)]
        try:
            await asyncio.to_thread(during)
        finally:
            self.over = True
            await asyncio.gather(*tasks)


def all_logged(gateway: Gateway, answered: list[str]) -> bool:
    rows = gateway.query("SELECT request_id, count(*) AS n FROM telemetry_requestlog GROUP BY request_id")
    assert all(row["n"] == 1 for row in rows)
    return set(answered) <= {row["request_id"] for row in rows}


@pytest.mark.parametrize("rounds", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_no_request_fails_while_sighup_renews_the_workers_and_none_is_lost(
    gateway: Gateway, upstream: Upstream, rounds: int
) -> None:
    upstream.default = Reply(words=5, interval=0.01)
    load = Load(gateway)

    def renew() -> None:
        for _ in range(rounds):
            enough, before = len(load.answered) + 40, children(gateway)
            Gateway.wait_until(partial(answered_more_than, enough), seconds=60)
            signalled(gateway, signal.SIGHUP)
            Gateway.wait_until(partial(are_gone, before), seconds=60)
            assert len(children(gateway)) == 2

    def answered_more_than(count: int) -> bool:
        return len(load.answered) > count

    def are_gone(workers: set[int]) -> bool:
        return not workers & children(gateway)

    asyncio.run(load.run(renew))
    assert load.failed == []
    assert len(load.answered) > 40 * rounds
    Gateway.wait_until(lambda: all_logged(gateway, load.answered), seconds=20)


def test_a_stream_outlives_the_renewal_of_its_worker(gateway: Gateway, upstream: Upstream) -> None:
    upstream.default = Reply(words=40, interval=0.05)
    before = children(gateway)
    with stream(gateway) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert gateway.process is not None
        os.killpg(gateway.process.pid, signal.SIGHUP)  # to the workers, too, as some tools do
        Gateway.wait_until(lambda: len(children(gateway) - before) == 2, seconds=60)
        assert before & children(gateway)  # its own worker, at least
        assert [line for line in lines if line][-1] == "data: [DONE]"
        request = answer.headers["x-tokenhub-request-id"].replace("-", "")
    Gateway.wait_until(lambda: not before & children(gateway), seconds=60)
    Gateway.wait_until(lambda: all_logged(gateway, [request]), seconds=20)
    (row,) = gateway.query("SELECT * FROM telemetry_requestlog WHERE request_id = ?", request)
    assert (row["status"], row["output_tokens"]) == (200, 40)


def test_who_listens_to_events_is_let_go_in_order_by_a_worker_that_is_renewed(gateway: Gateway) -> None:
    token = (gateway.folder / "admin-token").read_text().strip()
    before = children(gateway)
    with httpx.stream(
        "GET", f"{gateway.base}/admin/v1/events", headers={"Authorization": f"Bearer {token}"}, timeout=60
    ) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("retry:")
        signalled(gateway, signal.SIGHUP)
        for _ in lines:  # to its end; a cut would raise
            pass
    Gateway.wait_until(lambda: not before & children(gateway), seconds=60)


def test_a_renewal_that_cannot_start_a_worker_leaves_the_old_ones_at_work(gateway: Gateway, upstream: Upstream) -> None:
    upstream.default = Reply()
    before = children(gateway)
    journal, away = gateway.folder / "journal", gateway.folder / "away"
    journal.rename(away)
    journal.write_text("a file where a fresh worker needs a folder")
    try:
        signalled(gateway, signal.SIGHUP)
        Gateway.wait_until(lambda: "renewal_given_up" in gateway.log(), seconds=30)
    finally:
        journal.unlink()
        away.rename(journal)
    assert children(gateway) == before
    assert gateway.chat("m").status_code == 200


def test_sigterm_under_load_cuts_no_answer_loses_none_from_the_log_and_returns_the_leases(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.default = Reply(words=5, interval=0.01)
    load = Load(gateway)

    begun = len(upstream.requests)

    def end() -> None:
        Gateway.wait_until(lambda: len(load.answered) > 40, seconds=60)
        assert load.failed == []
        signalled(gateway, signal.SIGTERM)
        assert gateway.process is not None
        gateway.process.wait(timeout=30)

    asyncio.run(load.run(end))
    assert [problem for problem in load.failed if not problem.startswith("refused")] == []
    assert len(upstream.requests) - begun == len(load.answered)  # what was refused was not begun either
    assert "shutdown failed" not in gateway.log()
    assert gateway.query("SELECT * FROM keys_lease WHERE NOT is_closed") == []
    gateway.start()
    Gateway.wait_until(lambda: all_logged(gateway, load.answered), seconds=20)


@pytest.mark.slow
def test_what_takes_longer_than_the_grace_is_ended_and_logged(gateway: Gateway, upstream: Upstream) -> None:
    upstream.default = Reply(words=1000, interval=0.1)
    with stream(gateway) as answer:
        request = answer.headers["x-tokenhub-request-id"].replace("-", "")
        assert gateway.process is not None
        signalled(gateway, signal.SIGTERM)
        began = time.monotonic()
        gateway.process.wait(timeout=45)
        assert 29 < time.monotonic() - began < 35
    gateway.start()
    Gateway.wait_until(lambda: all_logged(gateway, [request]), seconds=20)
    (row,) = gateway.query("SELECT * FROM telemetry_requestlog WHERE request_id = ?", request)
    assert row["output_tokens"] > 100
