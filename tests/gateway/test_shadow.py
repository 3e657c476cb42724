"""Shadow variants: asked beside the client's answer, logged, never heard."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.upstream import Fault, Reply, Upstream


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as real, Upstream() as shadow:
        yield real, shadow


@pytest.fixture(scope="module")
def gateway(upstreams: tuple[Upstream, Upstream], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    real, shadow = upstreams
    prices = {"input_per_1k": "0.001", "output_per_1k": "0.002"}
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[
            {"id": "real", "type": "openai", "base_url": real.url, "dialects": ["openai-chat"]},
            {"id": "shadow", "type": "anthropic", "base_url": shadow.url},
            {"id": "chats", "type": "openai", "base_url": shadow.url, "dialects": ["openai-chat"]},
        ],
        models=[
            {"id": "now", "provider_id": "real", **prices},
            {"id": "next", "provider_id": "shadow", **prices},
            {"id": "chat", "provider_id": "chats", **prices},
        ],
        aliases=[
            {
                "name": "always",
                "variants": [{"model_id": "now"}, {"model_id": "next", "weight": 100, "is_shadow": True}],
            },
            {
                "name": "half",
                "variants": [{"model_id": "now"}, {"model_id": "next", "weight": 50, "is_shadow": True}],
            },
            {
                "name": "chats",
                "variants": [{"model_id": "now"}, {"model_id": "chat", "weight": 100, "is_shadow": True}],
            },
        ],
    ) as running:
        yield running


def rows(gateway: Gateway, answer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request's own row and its shadow's, as soon as both are there."""
    own = answer.headers["x-tokenhub-request-id"]
    found: dict[str, dict[str, Any]] = {}

    def both() -> bool:
        for row in gateway.rows():
            detail = json.loads(row["detail"])
            if detail.get("shadow_of") == own:
                found["shadow"] = row | {"detail": detail}
            elif str(row["request_id"]).replace("-", "") == own.replace("-", ""):
                found["own"] = row
        return len(found) == 2

    gateway.wait_until(both)
    return found["own"], found["shadow"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_shadow_is_asked_in_its_dialect_and_logged_with_its_answer(
    gateway: Gateway, upstreams: tuple[Upstream, Upstream], stream: bool
) -> None:
    _, shadow = upstreams
    shadow.requests.clear()
    answer = gateway.chat("always", "Hi there", stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-tokenhub-model"] == "now"
    own, copy = rows(gateway, answer)
    assert (own["model_id"], own["alias"], own["routing_reason"]) == ("now", "always", "alias-variant")
    assert (copy["model_id"], copy["alias"], copy["routing_reason"], copy["status"]) == (
        "next", "always", "shadow", 200,
    )  # fmt: skip
    assert copy["input_tokens"] == 11
    assert float(copy["cost_usd"]) == pytest.approx((11 * 0.001 + 8 * 0.002) / 1000)
    assert "answer" not in copy["detail"]  # it is sealed: tests/gateway/test_captures.py
    assert float(own["cost_usd"]) < 1.1 * float(copy["cost_usd"])  # its own alone
    (asked,) = shadow.requests
    assert asked.path.endswith("/messages")
    assert not asked.json.get("stream")
    assert "Hi there" in json.dumps(asked.json["messages"])


def test_a_failing_shadow_is_logged_and_the_client_notices_nothing(
    gateway: Gateway, upstreams: tuple[Upstream, Upstream]
) -> None:
    _, shadow = upstreams
    shadow.next(Reply(status=500))
    answer = gateway.chat("always")
    assert (answer.status_code, answer.headers["x-tokenhub-attempts"]) == (200, "1")
    own, copy = rows(gateway, answer)
    assert (own["status"], copy["status"], copy["error_class"]) == (200, 500, "transient")
    assert copy["cost_usd"] is None


def test_a_shadow_answer_that_is_of_no_use_is_on_its_own_bill(
    gateway: Gateway, upstreams: tuple[Upstream, Upstream]
) -> None:
    real, shadow = upstreams
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
    shadow.next(Reply(body=json.dumps({"object": "chat.completion", "choices": [], "usage": usage}).encode()))
    real.next(Reply(interval=0.05))  # the shadow has answered before the stream ends
    body = {"model": "chats", "max_tokens": 40, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    answer = gateway.post("/v1/messages", body)
    assert answer.status_code == 200
    own, copy = rows(gateway, answer)
    assert (own["input_tokens"], own["output_tokens"]) == (11, 8)
    assert float(own["cost_usd"]) == pytest.approx((11 * 0.001 + 8 * 0.002) / 1000)
    assert (copy["status"], copy["input_tokens"], copy["output_tokens"]) == (502, 1000, 500)
    assert float(copy["cost_usd"]) == pytest.approx((1000 * 0.001 + 500 * 0.002) / 1000)


def test_only_its_share_of_the_requests_is_copied(gateway: Gateway, upstreams: tuple[Upstream, Upstream]) -> None:
    _, shadow = upstreams
    shadow.requests.clear()
    for _ in range(60):
        assert gateway.chat("half").status_code == 200
    gateway.wait_until(lambda: len(shadow.requests) > 5)
    assert 10 <= len(shadow.requests) <= 50


def test_silent_shadows_hold_nobody_up_and_are_no_more_than_so_many(
    gateway: Gateway, upstreams: tuple[Upstream, Upstream]
) -> None:
    _, shadow = upstreams
    logged = -1
    while (now := len(gateway.rows())) != logged:  # until the copies of the tests before are through
        logged = now
        time.sleep(1.5)
    copied, dropped = copies(gateway), drops(gateway)
    shadow.requests.clear()
    silent = Reply(fault=Fault.HANG_BEFORE_HEAD)
    shadow.next(*[silent] * 20)
    for _ in range(20):
        assert gateway.chat("always").status_code == 200
    assert drops(gateway) - dropped == 4
    gateway.wait_until(lambda: len(shadow.requests) == 16)
    shadow.forget()  # first: a call on a kept connection is made again
    shadow.drop_connections()
    gateway.wait_until(lambda: copies(gateway) - copied == 16)
    before = len(shadow.requests)
    assert gateway.chat("always").status_code == 200
    assert len(shadow.requests) == before  # it is down, and left alone


def copies(gateway: Gateway) -> int:
    return sum(row["routing_reason"] == "shadow" for row in gateway.rows())


def drops(gateway: Gateway) -> int:
    found = re.search(r"tokenhub_shadows_dropped_total (\d+)", gateway.get("/metrics").text)
    assert found is not None
    return int(found[1])
