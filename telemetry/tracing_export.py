"""Finished requests on their way to an OpenTelemetry collector: a queue that the event loop appends to, and a thread
that makes spans of what is in it and sends them by OTLP over HTTP. What finds no room, or no collector, is counted and
lost; a request never waits. The only module that imports OpenTelemetry, and only where tracing is on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import time_ns
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from telemetry.logs import EventLogger
from telemetry.tracing import Leg, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = EventLogger(__name__)
MAX_WAITING: Final = 2048
"""Requests; each is a span, and one more for every call of a provider."""
BATCH: Final = 128
FLUSH_SECONDS: Final = 1.0
EXPORT_SECONDS: Final = 10.0
STOP_SECONDS: Final = 3.0
_KNOWN_HOSTS: Final = {
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.openai.com": "openai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
}


@dataclass(frozen=True, slots=True)
class Finished:
    """`failed`: the server's fault."""

    trace: Trace
    name: str
    ended: int
    failed: bool
    told: dict[str, Any]


def provider_name(kind: str, host: str) -> str:
    """As the conventions for generative AI call it: by its address, where that is a well-known one; else its type."""
    if host.endswith(".openai.azure.com"):
        return "azure.ai.openai"
    return _KNOWN_HOSTS.get(host, kind)


class Tracer:
    """One per process. `finish` is called on the event loop."""

    def __init__(self, *, endpoint: str, service: str, version: str) -> None:
        self._endpoint = endpoint
        self._resource = {"service.name": service, "service.version": version}
        self.waiting: deque[Finished] = deque()
        self._no_room = self._lost = self.exported = 0
        self._stop = threading.Event()
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)
        self._is_failing = False
        self._send: Callable[[list[ReadableSpan]], bool]
        self._end: Callable[[], None]

    @property
    def dropped(self) -> int:
        return self._no_room + self._lost

    def start(self) -> None:
        """Takes a third of a second. Raises ImportError."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult

        exporter = OTLPSpanExporter(endpoint=self._endpoint, timeout=EXPORT_SECONDS)
        self._send = lambda spans: exporter.export(spans) is SpanExportResult.SUCCESS
        self._end = exporter.shutdown
        self._thread.start()

    def stop(self) -> None:
        """What waits is sent, if the collector takes it soon."""
        self._stop.set()
        self._work.set()
        self._thread.join(timeout=STOP_SECONDS)
        self._end()

    def finish(self, trace: Trace, name: str, *, failed: bool, leg_error: str, told: dict[str, Any]) -> None:
        """`leg_error`: what ended the calls that are still under way."""
        if not trace.is_recorded:
            return
        trace.end(leg_error)
        if len(self.waiting) >= MAX_WAITING:
            self._no_room += 1 + len(trace.legs)
            return
        self.waiting.append(Finished(trace, name, time_ns(), failed, told))
        if len(self.waiting) >= BATCH:
            self._work.set()

    def _run(self) -> None:
        while True:
            self._work.wait(FLUSH_SECONDS)
            self._work.clear()
            while self.waiting:
                self._export([self.waiting.popleft() for _ in range(min(BATCH, len(self.waiting)))])
            if self._stop.is_set():
                return

    def _export(self, batch: list[Finished]) -> None:
        count = sum(1 + len(one.trace.legs) for one in batch)
        try:
            is_taken = self._send([span for one in batch for span in spans(one, self._resource)])
        except Exception:  # the thread must outlive a defect
            log.exception("spans_not_exported")
            is_taken = False
        if is_taken:
            self.exported += count
        else:
            self._lost += count
            if not self._is_failing:
                log.warning("spans_not_exported", endpoint=urlsplit(self._endpoint).netloc.rpartition("@")[2])
        self._is_failing = not is_taken


def spans(one: Finished, about: dict[str, str]) -> list[ReadableSpan]:
    """The request's own, and one for each call of a provider, by the semantic conventions for HTTP servers and for
    clients of generative AI."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

    trace, resource, scope = (
        one.trace,
        Resource(dict(about)),
        InstrumentationScope("tokenhub", about["service.version"]),
    )
    state = TraceState.from_header([trace.state.decode("ascii")]) if trace.state else TraceState()
    error = Status(StatusCode.ERROR)

    def context(span_id: int, *, is_remote: bool = False) -> SpanContext:
        return SpanContext(trace.trace_id, span_id, is_remote, TraceFlags(trace.flags), state)

    own = context(trace.span_id)

    def of(leg: Leg) -> ReadableSpan:
        told = {"gen_ai.operation.name": leg.operation, "gen_ai.request.model": leg.model, **leg.told}
        kind, host = str(told.pop("provider.type", "")), str(told.get("server.address", ""))
        told["gen_ai.provider.name"] = provider_name(kind, host)
        if leg.error:
            told["error.type"] = leg.error
        return ReadableSpan(
            f"{leg.operation} {leg.model}",
            context=context(leg.span_id),
            parent=own if leg.parent_id == trace.span_id else context(leg.parent_id),
            resource=resource,
            attributes=told,
            kind=SpanKind.CLIENT,
            status=error if leg.error else Status(),
            start_time=leg.started,
            end_time=leg.ended,
            instrumentation_scope=scope,
        )

    request = ReadableSpan(
        one.name,
        context=own,
        parent=context(trace.parent_id, is_remote=True) if trace.parent_id else None,
        resource=resource,
        attributes=one.told,
        kind=SpanKind.SERVER,
        status=error if one.failed else Status(),
        start_time=trace.started,
        end_time=one.ended,
        instrumentation_scope=scope,
    )
    return [request, *map(of, trace.legs)]
