"""How a leg ends that is not heard to its end, or whose client does not wait for it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.orchestration.script import ASK, COST, PRICES, nano, plan, said, streamed
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Fault, Reply, Upstream


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[{"id": "chat", "type": "openai", "base_url": server.url, "dialects": ["openai-chat"]}],
        models=[{"id": name, "provider_id": "chat", "weight": 5, **PRICES} for name in ("a", "b")],
        keys=[{"key": KEY}],
    ) as running:
        yield running


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.forget()
    server.clear()
    server.requests.clear()
    return server


def test_a_deadline_of_the_clients_says_nothing_about_the_models_health(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(streamed("one", "two", fault=Fault.HANG_MIDWAY, at=1))
    answer = plan(gateway, "planning", stream=True, policy={"max_latency_ms": 2000}, primary_model_id="a")
    assert "upstream_timeout" in answer.text
    upstream.next(said("Once more."))
    assert gateway.chat("a").status_code == 200  # two calls, as soon as they are kept
    kept = "SELECT calls, errors FROM routing_healthrecord WHERE model_id = 'a'"
    gateway.wait_until(lambda: any(row["calls"] >= 2 for row in gateway.query(kept)))
    assert gateway.query(kept) == [{"calls": 2, "errors": 0}]


def test_a_stream_that_was_heard_whole_is_paid_for_though_its_client_leaves_before_it_is_closed(
    gateway: Gateway, upstream: Upstream
) -> None:
    whole = streamed("The plan.")
    assert whole.events is not None
    upstream.next(Reply(events=(*whole.events, b": bye\n\n"), fault=Fault.HANG_MIDWAY, at=len(whole.events)))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    body = {"request": ASK, "orchestration": {"mode": "planning", "primary_model_id": "b"}, "stream": True}
    connection.request("POST", "/v1/plan", json.dumps(body), gateway.headers())
    answer = connection.getresponse()
    while b"The plan." not in answer.readline():
        pass
    answer.close()
    connection.close()
    assert upstream.requests[0].lost.wait(10)
    gateway.wait_until(lambda: any(row["model_id"] == "b" for row in gateway.rows()))
    (leg,) = (row for row in gateway.rows() if row["model_id"] == "b")
    assert leg["status"] in {499, 200}  # a slow client leaves when the wait for the stream's end is over
    assert nano(leg["cost_usd"]) == nano(COST)
