"""OpenTelemetry, from a real gateway to a real OTLP receiver."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.collector import CLIENT, ERROR, SERVER, Collector, Span
from tests.support.gateway import KEY, Gateway, environment
from tests.support.upstream import Fault, Reply, Upstream

ROOT = Path(__file__).resolve().parents[2]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PRICES = {"input_per_1k": "0.001", "output_per_1k": "0.002"}
SECRET_WORDS = "the-words-of-the-prompt"


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as one, Upstream() as other:
        yield one, other


@pytest.fixture(scope="module")
def collector_of_all() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    upstreams: tuple[Upstream, Upstream], collector_of_all: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    one, other = upstreams
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[
            {"id": "first", "type": "openai", "base_url": one.url, "dialects": ["openai-chat"]},
            {"id": "second", "type": "anthropic", "base_url": other.url},
        ],
        models=[
            {"id": "a", "provider_id": "first", "upstream_model": "gpt-fake", "weight": 9, **PRICES},
            {"id": "b", "provider_id": "second", "upstream_model": "claude-fake", "weight": 1, **PRICES},
        ],
        env={
            "TOKENHUB_OTEL_ENABLED": "true",
            "TOKENHUB_OTEL_ENDPOINT": collector_of_all.address,
            "TOKENHUB_OTEL_SERVICE_NAME": "the-hub",
        },
    ) as running:
        yield running


@pytest.fixture
def collector(collector_of_all: Collector, upstreams: tuple[Upstream, Upstream]) -> Collector:
    for upstream in upstreams:
        upstream.requests.clear()
        upstream.forget()
    collector_of_all.spans.clear()
    collector_of_all.bodies.clear()
    return collector_of_all


def ask(gateway: Gateway, model: str = "a", *, stream: bool = False, **headers: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": SECRET_WORDS}], "stream": stream}
    return gateway.post("/v1/chat/completions", body, headers=gateway.headers(**headers))


def parts(found: list[Span]) -> tuple[Span, list[Span]]:
    """The request's own span, and its calls' in their order."""
    (server,) = [span for span in found if span.kind == SERVER]
    return server, [span for span in found if span.kind == CLIENT]


def test_a_failover_is_one_span_with_one_below_for_each_call(
    gateway: Gateway, collector: Collector, upstreams: tuple[Upstream, Upstream]
) -> None:
    first, second = upstreams
    first.next(Reply(status=404))
    before = time.time_ns()
    answer = ask(gateway)
    after = time.time_ns()
    assert answer.headers["x-tokenhub-model"] == "b"
    server, (failed, answered) = parts(collector.wait_for(3))
    assert collector.paths == {"/v1/traces"}
    assert {span.trace_id for span in (server, failed, answered)} == {server.trace_id}
    assert (server.parent_id, failed.parent_id, answered.parent_id) == ("", server.span_id, server.span_id)
    assert len({server.span_id, failed.span_id, answered.span_id}) == 3
    assert (server.name, server.status) == ("POST /v1/chat/completions", 0)
    assert (
        server.attributes
        | {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "tokenhub.request_id": answer.headers["x-tokenhub-request-id"],
            "tokenhub.requested_model": "a",
            "tokenhub.model": "b",
            "tokenhub.provider": "second",
            "tokenhub.reason": answer.headers["x-tokenhub-reason"],
            "tokenhub.attempts": 2,
        }
        == server.attributes
    )
    assert server.resource["service.name"] == "the-hub"
    assert (failed.name, failed.status, failed.attributes["error.type"]) == (
        "chat gpt-fake",
        ERROR,
        "model_unavailable",
    )
    assert failed.attributes["http.response.status_code"] == 404
    assert (answered.name, answered.status) == ("chat claude-fake", 0)
    assert (
        answered.attributes
        | {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-fake",
            "gen_ai.request.stream": False,
            "server.address": "127.0.0.1",
            "server.port": second.port,
        }
        == answered.attributes
    )
    usage = answer.json()["usage"]
    assert answered.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert answered.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert answered.attributes["gen_ai.response.model"] == answer.json()["model"]
    assert "gen_ai.usage.input_tokens" not in failed.attributes
    assert before <= server.start <= failed.start <= failed.end <= answered.start <= answered.end <= server.end <= after
    for upstream, span in ((first, failed), (second, answered)):
        (request,) = upstream.requests
        assert request.headers["traceparent"] == f"00-{server.trace_id}-{span.span_id}-01"


def test_the_clients_context_is_taken_and_passed_on_with_our_span_as_the_parent(
    gateway: Gateway, collector: Collector, upstreams: tuple[Upstream, Upstream]
) -> None:
    ask(gateway, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1,other=2")
    server, (call,) = parts(collector.wait_for(2))
    assert (server.trace_id, server.parent_id, server.state) == (TRACE, PARENT, "vendor=1,other=2")
    (request,) = upstreams[0].requests
    assert request.headers["traceparent"] == f"00-{TRACE}-{call.span_id}-01"
    assert request.headers["tracestate"] == "vendor=1,other=2"


def test_a_client_that_does_not_sample_gets_no_spans_and_its_context_goes_through(
    gateway: Gateway, collector: Collector, upstreams: tuple[Upstream, Upstream]
) -> None:
    ask(gateway, "b", traceparent=f"00-{TRACE}-{PARENT}-00")
    (request,) = upstreams[1].requests
    assert request.headers["traceparent"] == f"00-{TRACE}-{PARENT}-00"
    sampled = ask(gateway)
    server, _ = parts(collector.wait_for(2))
    assert server.attributes["tokenhub.request_id"] == sampled.headers["x-tokenhub-request-id"]


def test_a_stream_is_a_call_until_its_end(
    gateway: Gateway, collector: Collector, upstreams: tuple[Upstream, Upstream]
) -> None:
    upstreams[0].next(Reply(words=10, interval=0.03))
    assert ask(gateway, stream=True).text.endswith("data: [DONE]\n\n")
    server, (call,) = parts(collector.wait_for(2))
    assert call.end - call.start > 200_000_000
    assert call.end <= server.end
    assert call.attributes["gen_ai.request.stream"] is True
    assert 0 < call.attributes["gen_ai.response.time_to_first_chunk"] < (call.end - call.start) / 1e9
    assert call.attributes["gen_ai.usage.output_tokens"] > 0
    assert call.attributes["gen_ai.response.model"]
    assert (server.status, call.status) == (0, 0)


def test_a_stream_that_breaks_is_an_error_of_its_call_and_of_the_request(
    gateway: Gateway, collector: Collector, upstreams: tuple[Upstream, Upstream]
) -> None:
    upstreams[0].next(Reply(fault=Fault.RESET_MIDWAY))
    ask(gateway, stream=True)
    server, (call,) = parts(collector.wait_for(2))
    assert (call.status, call.attributes["error.type"]) == (ERROR, "transient")
    assert (server.status, server.attributes["error.type"]) == (ERROR, "upstream_error")
    assert server.attributes["http.response.status_code"] == 200


def test_a_client_that_leaves_cancels_its_call_and_is_no_error_of_the_server(
    gateway: Gateway, collector: Collector, upstreams: tuple[Upstream, Upstream]
) -> None:
    upstreams[0].next(Reply(words=500, interval=0.02))
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with httpx.stream("POST", f"{gateway.base}/v1/chat/completions", json=body, headers=gateway.headers()) as answer:
        next(answer.iter_bytes())
    server, (call,) = parts(collector.wait_for(2))
    assert (call.status, call.attributes["error.type"]) == (ERROR, "cancelled")
    assert (server.status, server.attributes["tokenhub.client_disconnected"]) == (0, True)


def test_a_refused_request_is_a_span_without_calls(gateway: Gateway, collector: Collector) -> None:
    assert ask(gateway, "none-such").status_code == 404
    server, calls = parts(collector.wait_for(1))
    assert calls == []
    assert (server.status, server.attributes["error.type"]) == (0, "model_not_found")
    assert server.attributes["http.response.status_code"] == 404


def test_when_nobody_answers_the_request_failed(
    gateway: Gateway, collector: Collector, upstreams: tuple[Upstream, Upstream]
) -> None:
    upstreams[0].next(Reply(status=400, body=b'{"error": {"message": "the-words-of-the-provider"}}'))
    assert ask(gateway, X_TokenHub_Fallback="none").status_code == 400
    server, (call,) = parts(collector.wait_for(2))
    assert (call.status, call.attributes["error.type"]) == (ERROR, "invalid_request")
    assert server.attributes["http.response.status_code"] == 400


def test_spans_hold_neither_what_was_said_nor_secrets(gateway: Gateway, collector: Collector) -> None:
    ask(gateway)
    ask(gateway, stream=True)
    collector.wait_for(4)
    told = b"".join(collector.bodies)
    assert SECRET_WORDS.encode() not in told
    assert KEY.encode() not in told
    assert b"the-words-of-the-provider" not in told


def test_metrics_count_spans(gateway: Gateway, collector: Collector) -> None:
    ask(gateway)
    collector.wait_for(2)
    text = gateway.get("/metrics").text
    (exported,) = [line for line in text.splitlines() if line.startswith("tokenhub_spans_exported_total ")]
    assert float(exported.split()[1]) >= 2
    assert "tokenhub_spans_dropped_total 0.0" in text


def test_nothing_of_opentelemetry_is_loaded_while_tracing_is_off(tmp_path: Path) -> None:
    script = (
        "import tokenhub.asgi, sys, json; "
        "print(json.dumps([name for name in sys.modules if name.startswith('opentelemetry')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("background", [False, True])
def test_each_leg_of_a_plan_is_a_request_within_its_trace(
    gateway: Gateway, collector: Collector, background: bool
) -> None:
    body = {
        "request": {"messages": [{"role": "user", "content": "Hi"}]},
        "orchestration": {"mode": "adversarial", "primary_model_id": "a", "review_model_id": "b"},
        "background": background,
    }
    headers = gateway.headers(traceparent=f"00-{TRACE}-{PARENT}-01")
    assert gateway.post("/v1/plan", body, headers=headers).status_code == (202 if background else 200)
    found = collector.wait_for(7)  # the plan's own, and two for each leg
    (run,) = [span for span in found if span.parent_id == PARENT]
    calls = [span for span in found if span.kind == CLIENT]
    legs = [span for span in found if span.kind == SERVER and span is not run]
    assert len({span.trace_id for span in (*legs, *calls)}) == 1
    assert sorted(span.parent_id for span in calls) == sorted(span.span_id for span in legs)
    if not background:
        assert {span.trace_id for span in found} == {TRACE}
        assert {span.parent_id for span in legs} == {run.span_id}
