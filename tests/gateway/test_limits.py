"""Rate limits of keys and projects, over running gateways: exact across workers, and true in what they tell."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import KEY, Gateway, run_manage
from tests.support.upstream import Reply, Upstream

OTHER_KEY = KEY[:-2] + "31"
MESSAGES = [{"role": "user", "content": "Hi"}]
USAGE = {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        server.default = Reply(usage=USAGE)
        yield server


def gateway_at(folder: Path, upstream: Upstream, *, workers: int = 2, **options: Any) -> Gateway:
    return Gateway(
        folder,
        providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}],
        models=[{"id": "m", "provider_id": "p"}],
        workers=workers,
        env={"TOKENHUB_RATE_LIMIT_RPS": "0"},
        **options,
    )


def ask(gateway: Gateway, *, key: str = KEY, **fields: Any) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, **fields}
    return gateway.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {key}"})


def test_requests_per_minute_are_counted_by_all_workers_together(upstream: Upstream, tmp_path: Path) -> None:
    keys = [{"key": KEY, "rate_limit_rpm": 30}, {"key": OTHER_KEY}]
    with gateway_at(tmp_path, upstream, keys=keys) as gateway, ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda _: ask(gateway), range(60)))
        refilled = int((time.monotonic() - began) / 2) + 1
        seen = Counter(answer.status_code for answer in answers)
        assert set(seen) == {200, 429}
        assert 30 <= seen[200] <= 30 + refilled
        refused = next(answer for answer in answers if answer.status_code == 429)
        error = refused.json()["error"]
        assert error["code"] == "rate_limit_exceeded"
        assert error["message"] == "This client key is limited to 30 requests per minute."
        assert 1 <= int(refused.headers["retry-after"]) <= 3
        assert ask(gateway, key=OTHER_KEY).status_code == 200


def test_tokens_and_requests_at_the_same_time_hold_under_load_on_all_workers(
    upstream: Upstream, tmp_path: Path
) -> None:
    keys = [{"key": KEY, "rate_limit_tpm": 2_000}, {"key": OTHER_KEY, "max_concurrent": 4}]
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40}
    with (
        gateway_at(tmp_path, upstream, keys=keys) as gateway,
        ThreadPoolExecutor(12) as pool,
        httpx.Client(base_url=gateway.base, timeout=30) as client,  # to make one takes longer than a request
    ):

        def status(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return client.post("/v1/chat/completions", json=body, headers=headers).status_code

        began = time.monotonic()
        passed = list(pool.map(status, [KEY] * 60)).count(200)
        while status(KEY) == 200:  # what was settled since
            passed += 1
        assert passed * 50 <= 2_000 + (time.monotonic() - began) * 2_000 / 60
        assert passed * 50 + 200 >= 2_000  # a request reserves less than 200
        first, upstream.default = len(upstream.requests), Reply(delay=0.3, usage=USAGE)
        try:
            statuses = set(pool.map(status, [OTHER_KEY] * 48))
        finally:
            upstream.default = Reply(usage=USAGE)
        assert statuses == {200, 429}
        assert upstream.most_at_once(first) == 4


def test_workers_that_take_ahead_of_a_limit_let_in_all_of_it_and_no_more(upstream: Upstream, tmp_path: Path) -> None:
    limit = 1_500
    keys = [{"key": KEY, "rate_limit_rpm": limit, "max_concurrent": 2_000, "rate_limit_tpm": 10**8}]
    with gateway_at(tmp_path, upstream, keys=keys, workers=3) as gateway, ThreadPoolExecutor(12) as pool:
        began = time.monotonic()

        def until_refused(_: int) -> int:
            with httpx.Client(base_url=gateway.base, headers=gateway.headers(), timeout=30) as client:
                passed, refused = 0, 0
                while refused < 3:
                    answer = client.post("/v1/chat/completions", json={"model": "m", "messages": MESSAGES})
                    passed += answer.status_code == 200
                    refused += answer.status_code == 429
                    time.sleep(0.15 if answer.status_code == 429 else 0.0)  # what was taken ahead comes back
                return passed

        passed = sum(pool.map(until_refused, range(12)))
        refilled = (time.monotonic() - began) * limit / 60
        assert limit <= passed <= limit + refilled


def test_what_the_headers_tell_is_true(upstream: Upstream, tmp_path: Path) -> None:
    keys = [{"key": KEY, "rate_limit_rps": 2, "rate_limit_burst": 3, "rate_limit_tpm": 100_000}]
    with gateway_at(tmp_path, upstream, keys=keys) as gateway:
        began = time.monotonic()
        first = ask(gateway)
        took = time.monotonic() - began
        reset = float(first.headers["x-ratelimit-reset-requests"].rstrip("s"))
        assert first.headers["x-ratelimit-limit-requests"] == "3"
        assert 0.5 - took - 0.002 <= reset <= 0.5  # as of the answer
        assert int(first.headers["x-ratelimit-remaining-requests"]) == (3 if reset == 0.0 else 2)
        assert first.headers["x-ratelimit-limit-tokens"] == "100000"
        reserved = 100_000 - int(first.headers["x-ratelimit-remaining-tokens"])
        assert reserved + took * 100_000 / 60 > 40
        while (answer := ask(gateway)).status_code == 200:
            pass
        time.sleep(int(answer.headers["retry-after"]))
        assert ask(gateway).status_code == 200


def test_tokens_are_settled_by_usage(upstream: Upstream, tmp_path: Path) -> None:
    keys = [{"key": KEY, "rate_limit_tpm": 6_000}]
    with gateway_at(tmp_path, upstream, keys=keys) as gateway:
        upstream.next(Reply(usage={"prompt_tokens": 10, "completion_tokens": 3_000, "total_tokens": 3_010}))
        assert ask(gateway).status_code == 200
        left = int(ask(gateway).headers["x-ratelimit-remaining-tokens"])
        assert 2_700 <= left <= 3_100  # a hundred refill in a second
        upstream.next(Reply(status=400, body=b'{"error": {"message": "no"}}'))
        assert ask(gateway).status_code == 400
        assert int(ask(gateway).headers["x-ratelimit-remaining-tokens"]) >= left - 200  # a failure takes none
        upstream.next(Reply(usage={"prompt_tokens": 10, "completion_tokens": 9_000, "total_tokens": 9_010}))
        assert ask(gateway).status_code == 200
        refused = ask(gateway)
        assert refused.json()["error"]["message"] == "This client key is limited to 6000 tokens per minute."
        assert int(refused.headers["retry-after"]) > 30


def test_a_project_limits_its_keys_together_and_refusals_take_nothing(upstream: Upstream, tmp_path: Path) -> None:
    keys = [{"key": KEY, "project": "p", "rate_limit_rpm": 100}, {"key": OTHER_KEY, "project": "p"}]
    with gateway_at(tmp_path, upstream, keys=keys, projects=[{"name": "p", "rate_limit_rpm": 4}]) as gateway:
        statuses = [ask(gateway, key=key).status_code for key in (KEY, OTHER_KEY, KEY, OTHER_KEY, KEY, KEY)]
        assert statuses == [200, 200, 200, 200, 429, 429]
        message = ask(gateway).json()["error"]["message"]
        assert message == "The project 'p' is limited to 4 requests per minute."
        gateway.configure(projects=[{"name": "p", "rate_limit_rpm": 1000}])
        gateway.wait_until(lambda: {ask(gateway, key=OTHER_KEY).status_code for _ in range(6)} == {200}, seconds=5)
        assert 80 <= int(ask(gateway).headers["x-ratelimit-remaining-requests"]) <= 99


def under_way(gateway: Gateway, count: int) -> tuple[list[threading.Thread], list[int]]:
    """So many requests that are being answered."""
    statuses: list[int] = []

    def run() -> None:
        try:
            statuses.append(ask(gateway).status_code)
        except httpx.HTTPError:
            statuses.append(0)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, statuses


def test_requests_at_the_same_time_are_counted_by_all_workers_and_end_with_them(
    upstream: Upstream, tmp_path: Path
) -> None:
    with gateway_at(tmp_path, upstream, keys=[{"key": KEY, "max_concurrent": 4}]) as gateway:
        upstream.when(Reply(delay=3, usage=USAGE), model="m")
        try:
            threads, statuses = under_way(gateway, 10)
            for thread in threads:
                thread.join()
            assert Counter(statuses) == {200: 4, 429: 6}
            threads, statuses = under_way(gateway, 4)
            time.sleep(1)
            refused = ask(gateway)
            assert refused.json()["error"]["message"] == "This client key is limited to 4 requests at the same time."
            assert gateway.process is not None
            children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGKILL)
            for thread in threads:
                thread.join()
            assert statuses == [0] * 4
        finally:
            upstream.clear()

        def answers() -> bool:
            try:
                return ask(gateway).status_code == 200
            except httpx.HTTPError:
                return False

        gateway.wait_until(answers, seconds=10)  # the workers' successors have begun
        assert [ask(gateway).status_code for _ in range(8)] == [200] * 8


def test_whoever_leaves_is_no_longer_counted(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, keys=[{"key": KEY, "max_concurrent": 1}]) as gateway:
        upstream.next(Reply(words=500, interval=0.05))
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        url = f"{gateway.base}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=gateway.headers()) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert ask(gateway).status_code == 429
        gateway.wait_until(lambda: ask(gateway).status_code == 200, seconds=3)


def test_an_old_secret_works_through_its_grace_and_keys_tell_of_their_use(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, keys=[{"key": KEY, "name": "app"}]) as gateway:
        assert ask(gateway).status_code == 200
        shown = run_manage("keys", "rotate", "app", "--grace", "4s", folder=tmp_path, env=gateway.env)
        fresh = re.search(r"tokenhub_[0-9a-f]{64}", shown)
        assert fresh is not None
        gateway.wait_until(lambda: ask(gateway, key=fresh[0]).status_code == 200, seconds=3)
        gateway.wait_until(lambda: ask(gateway).status_code == 401, seconds=6)
        assert ask(gateway).json()["error"]["code"] in {"expired_api_key", "invalid_api_key"}
        assert {ask(gateway, key=fresh[0]).status_code for _ in range(6)} == {200}
        gateway.wait_until(
            lambda: gateway.query("SELECT last_used_at FROM keys_clientkey")[0]["last_used_at"] is not None
        )
