"""W3C's trace context, and the queue to the collector."""

from __future__ import annotations

from time import monotonic

from hypothesis import given
from hypothesis import strategies as st

from telemetry.tracing import Trace, trace_of
from telemetry.tracing_export import MAX_WAITING, Tracer, provider_name
from tests.support.collector import Collector
from tests.support.gateway import free_port

IDS = {16: st.integers(1, 2**128 - 1), 8: st.integers(1, 2**64 - 1)}


def header(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"traceparent", text.encode())]


def until(condition: object, *, seconds: float = 15.0) -> None:
    assert callable(condition)
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline


def tracer(endpoint: str) -> Tracer:
    made = Tracer(endpoint=endpoint, service="s", version="1")
    made.start()
    return made


def finish(to: Tracer, trace: Trace | None = None) -> None:
    to.finish(trace or trace_of([]), "POST /v1", failed=False, leg_error="", told={"a": 1})


# -- the client's context ----------------------------------------------------------------------------------------------
@given(IDS[16], IDS[8], st.integers(0, 255))
def test_a_valid_context_is_taken_whole(trace_id: int, span_id: int, flags: int) -> None:
    found = trace_of(header(f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"))
    assert (found.trace_id, found.parent_id, found.flags) == (trace_id, span_id, flags)
    assert found.is_recorded == bool(flags & 1)
    leg = found.began("chat", "m", {})
    parent = leg.span_id if found.is_recorded else span_id
    assert leg.headers == header(f"00-{trace_id:032x}-{parent:016x}-{flags:02x}")


@given(st.binary(max_size=80))
def test_any_other_bytes_begin_a_trace_of_our_own(value: bytes) -> None:
    found = trace_of([(b"traceparent", value)])
    assert found.parent_id == 0
    assert found.is_recorded
    assert found.trace_id
    assert found.span_id


def test_contexts_that_the_standard_forbids_are_not_taken() -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    for text in (
        f"ff-{trace}-{span}-01",
        f"00-{'0' * 32}-{span}-01",
        f"00-{trace}-{'0' * 16}-01",
        f"00-{trace}-{span}-01-more",
        f"00-{trace.upper()}-{span}-01",
        f"00-{trace}-{span}",
    ):
        assert trace_of(header(text)).parent_id == 0, text
    assert trace_of(header(f"cc-{trace}-{span}-01-what-comes-later")).parent_id == int(span, 16)


def test_state_comes_along_from_all_its_lines_and_only_with_a_context() -> None:
    states = [(b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
    context = header("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert trace_of([*context, *states]).state == b"a=1,b=2"
    assert trace_of(states).state == b""
    assert trace_of([*context, (b"tracestate", b"a=" + b"x" * 600)]).state == b""
    assert trace_of([*context, (b"tracestate", b"a=\r\nevil: 1")]).state == b""


def test_what_was_used_belongs_to_the_last_call_that_was_answered() -> None:
    trace = trace_of([])
    first, second, third = (trace.began("chat", name, {}) for name in "abc")
    first.has_answered = second.has_answered = third.has_answered = True
    third.end("cancelled")
    trace.used({"tokens": 5})
    assert (first.told, second.told, third.told) == ({}, {"tokens": 5}, {})


def test_providers_have_the_names_of_the_conventions() -> None:
    assert provider_name("openai", "api.groq.com") == "groq"
    assert provider_name("openai", "mine.openai.azure.com") == "azure.ai.openai"
    assert provider_name("vllm", "10.0.0.1") == "vllm"


# -- the queue ---------------------------------------------------------------------------------------------------------
def test_every_span_arrives() -> None:
    with Collector() as collector:
        to = tracer(f"http://{collector.address}/v1/traces")
        for _ in range(300):
            trace = trace_of([])
            trace.began("chat", "m", {}).end()
            finish(to, trace)
        assert len({span.span_id for span in collector.wait_for(600)}) == 600
        until(lambda: to.exported == 600)
        to.stop()
        assert to.dropped == 0


def test_what_waits_at_the_end_is_sent() -> None:
    with Collector() as collector:
        to = tracer(f"http://{collector.address}/v1/traces")
        finish(to)
        to.stop()
        assert len(collector.spans) == to.exported == 1


def test_what_the_collector_refuses_is_counted() -> None:
    with Collector() as collector:
        collector.status = 400
        to = tracer(f"http://{collector.address}/v1/traces")
        finish(to)
        to.stop()
        assert (to.exported, to.dropped) == (0, 1)


def test_a_collector_that_is_away_fills_the_queue_and_holds_up_nobody() -> None:
    to = tracer(f"http://127.0.0.1:{free_port()}/v1/traces")
    for _ in range(MAX_WAITING + 1000):
        finish(to)
    assert to.dropped > 0
    assert to.exported == 0
    started = monotonic()
    to.stop()
    assert monotonic() - started < 20


def test_a_state_that_cannot_be_read_costs_no_span() -> None:
    with Collector() as collector:
        to = tracer(f"http://{collector.address}/v1/traces")
        context = header("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        finish(to, trace_of([*context, (b"tracestate", b"nonsense,,=,a=b=c, \t")]))
        finish(to)
        assert len(collector.wait_for(2)) == 2
        to.stop()
