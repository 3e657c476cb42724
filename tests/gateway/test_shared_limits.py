"""Rate limits of two hosts that share a Redis: exact across both, without it each has its share, and no request fails
because of it."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from ipaddress import ip_address
from itertools import count
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway
from tests.support.redis import Redis, why_not
from tests.support.upstream import Reply, Upstream

if reason := why_not():
    pytest.skip(reason, allow_module_level=True)

WORKERS = 1  # workers of one host are in test_limits
USAGE = {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}
LIMITS: dict[str, dict[str, Any]] = {
    "minute": {"rate_limit_rpm": 30},
    "burst": {"rate_limit_rps": 0.1, "rate_limit_burst": 15},
    "tokens": {"rate_limit_tpm": 2_000},
    "at-once": {"max_concurrent": 4},
    "killed": {"max_concurrent": 3},
    "outage": {"rate_limit_rpm": 20},
    "afterwards": {"rate_limit_rpm": 30},
    "wide": {"rate_limit_rpm": 10**6, "rate_limit_tpm": 10**9, "max_concurrent": 1000},
    "paid": {"max_concurrent": 2},
}
ADDRESSES = count(int(ip_address("10.0.0.1")))
KEYS = {name: "tokenhub_" + f"{number:02x}" * 32 for number, name in enumerate(LIMITS, 16)}
IDS = {name: str(uuid.UUID(int=number)) for number, name in enumerate(LIMITS, 16)}


class Hosts:
    def __init__(self, upstream: Upstream, redis: Redis, both: list[Gateway]) -> None:
        self.upstream, self.redis, self.both = upstream, redis, both


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Two gateways with the same keys, each with a database of its own."""
    with ExitStack() as stack:
        upstream, redis = stack.enter_context(Upstream()), stack.enter_context(Redis())
        upstream.default = Reply(usage=USAGE)
        keys = [{"key": KEYS[name], "id": IDS[name], "name": name, **fields} for name, fields in LIMITS.items()]
        both = [
            Gateway(
                tmp_path_factory.mktemp(name),
                providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}],
                models=[
                    {"id": "m", "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.002"},
                    {"id": "slow", "provider_id": "p"},
                ],
                keys=keys,
                budgets=[{"of_key": KEYS["paid"], "amount_usd": "100"}],
                workers=WORKERS,
                env={
                    "TOKENHUB_REDIS_URL": redis.patient_url,
                    "TOKENHUB_RATE_LIMIT_RPS": "1",
                    "TOKENHUB_RATE_LIMIT_BURST": "20",
                    "TOKENHUB_TRUSTED_PROXIES": "127.0.0.1",
                },
            )
            for name in ("one", "two")
        ]
        upstream.when(Reply(delay=60, usage=USAGE), model="slow")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(stack.enter_context, both))
        yield Hosts(upstream, redis, both)
        for gateway in both:
            client_of(gateway.base).close()


def ask(gateway: Gateway, name: str, *, address: str = "", **fields: Any) -> httpx.Response:
    """From an address of its own, unless one is given."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40, **fields}
    headers = {
        "Authorization": f"Bearer {KEYS.get(name, name)}",
        "X-Forwarded-For": address or str(ip_address(next(ADDRESSES))),
    }
    return client_of(gateway.base).post("/v1/chat/completions", json=body, headers=headers)


@cache
def client_of(base: str) -> httpx.Client:
    """To make one takes longer than a request."""
    return httpx.Client(base_url=base, timeout=90)


def asked(gateways: list[Gateway], name: str, count: int) -> tuple[list[httpx.Response], list[httpx.Response], float]:
    """So many at once, by turns: those that passed, those that were refused, and how long it took."""
    began = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda number: ask(gateways[number % len(gateways)], name), range(count)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    passed = [answer for answer in answers if answer.status_code == 200]
    return passed, [answer for answer in answers if answer.status_code == 429], time.monotonic() - began


def test_requests_per_minute_are_exact_across_hosts(hosts: Hosts) -> None:
    passed, refused, seconds = asked(hosts.both, "minute", 60)
    assert 30 <= len(passed) <= 30 + seconds / 2 + 1
    assert refused[0].json()["error"]["message"] == "This client key is limited to 30 requests per minute."
    assert 1 <= int(refused[0].headers["retry-after"]) <= 2
    lefts = sorted(int(answer.headers["x-ratelimit-remaining-requests"]) for answer in passed)
    assert lefts[0] == 0
    assert lefts[-1] == 29
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in passed} == {"30"}
    assert not any("limits_fell_back" in gateway.log() for gateway in hosts.both)


def test_a_burst_is_exact_across_hosts_and_the_time_to_wait_is_true(hosts: Hosts) -> None:
    passed, _, seconds = asked(hosts.both, "burst", 40)
    assert 15 <= len(passed) <= 15 + seconds / 10 + 1
    if (answer := ask(hosts.both[0], "burst")).status_code == 429:
        told = float(answer.headers["retry-after"])
        assert 1 <= told <= 10
        time.sleep(0.1)
        later = ask(hosts.both[1], "burst")
        assert later.status_code == 200 or float(later.headers["retry-after"]) <= told


def test_tokens_per_minute_are_exact_across_hosts(hosts: Hosts) -> None:
    began = time.monotonic()
    passed, _, _ = asked(hosts.both, "tokens", 60)
    count, turn = len(passed), 0
    while ask(hosts.both[turn % 2], "tokens").status_code == 200:  # what was settled since
        count, turn = count + 1, turn + 1
    refilled = (time.monotonic() - began) * 2_000 / 60
    assert count * 50 <= 2_000 + refilled
    assert count * 50 + 200 >= 2_000  # a request reserves less than 200


def test_an_address_is_limited_across_hosts_whatever_becomes_of_its_requests(hosts: Hosts) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda at: ask(hosts.both[at % 2], "wide", address="192.0.2.1"), range(50)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429}
    assert 20 <= statuses[200] <= 20 + time.monotonic() - began + 1
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["message"] == "Too many requests from this address."
    assert refused.headers["retry-after"] == "1"
    began = time.monotonic()
    for _ in range(15):
        assert ask(hosts.both[0], "tokenhub_unknown", address="192.0.2.2").status_code == 401
    found = [ask(hosts.both[1], "wide", address="192.0.2.2").status_code for _ in range(15)]
    assert 5 <= found.count(200) <= 5 + time.monotonic() - began + 1


def test_requests_at_the_same_time_are_exact_across_hosts(hosts: Hosts) -> None:
    first = len(hosts.upstream.requests)
    hosts.upstream.default = Reply(delay=0.3, usage=USAGE)
    try:
        passed, refused, _ = asked(hosts.both, "at-once", 48)
    finally:
        hosts.upstream.default = Reply(usage=USAGE)
    assert passed
    assert refused
    assert refused[0].json()["error"]["message"] == "This client key is limited to 4 requests at the same time."
    assert hosts.upstream.most_at_once(first) == 4
    assert [ask(hosts.both[number % 2], "at-once").status_code for number in range(6)] == [200] * 6


def test_a_request_that_a_budget_pays_counts_no_more_as_under_way_when_it_is_over(hosts: Hosts) -> None:
    assert [ask(hosts.both[number % 2], "paid").status_code for number in range(6)] == [200] * 6


def test_without_redis_no_request_fails_and_with_it_limits_are_shared_again(hosts: Hosts) -> None:
    Gateway.wait_until(lambda: hosts.redis.client().zcard("tokenhub:limits:hosts") == 2)
    time.sleep(2.5)  # a beat: all workers know of both hosts
    stopper = threading.Timer(0.3, hosts.redis.stop)
    stopper.start()
    began, statuses = time.monotonic(), Counter[int]()
    while stopper.is_alive() or time.monotonic() - began < 0.5:
        passed, refused, _ = asked(hosts.both, "wide", 24)
        statuses += Counter([*[answer.status_code for answer in passed], *[answer.status_code for answer in refused]])
    assert set(statuses) == {200}
    for gateway in hosts.both:
        passed, refused, seconds = asked([gateway], "outage", 25)
        assert 10 <= len(passed) <= 10 + seconds / 6 + 1
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in passed} == {"10"}
        assert 1 <= int(refused[0].headers["retry-after"]) <= 6
        assert gateway.log().count("limits_fell_back") == WORKERS
    hosts.redis.start()
    for gateway in hosts.both:
        gateway.wait_until(lambda gateway=gateway: gateway.log().count("limits_shared_again") == WORKERS)  # type: ignore[misc]
    passed, _, seconds = asked(hosts.both, "afterwards", 60)
    assert 30 <= len(passed) <= 30 + seconds / 2 + 1


def test_a_killed_host_has_nothing_under_way(hosts: Hosts) -> None:
    one, two = hosts.both
    statuses: list[int] = []

    def hold() -> None:
        try:
            statuses.append(ask(two, "killed", model="slow").status_code)
        except httpx.HTTPError:
            statuses.append(0)

    first = len(hosts.upstream.requests)
    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
    Gateway.wait_until(lambda: len(hosts.upstream.requests) - first == 3)
    assert ask(one, "killed").status_code == 429
    two.kill()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 3
    one.wait_until(lambda: ask(one, "killed").status_code == 200, seconds=20)
