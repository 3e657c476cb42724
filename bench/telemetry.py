#!/usr/bin/env python3
"""What it costs in process to tell what happens: counting, traces, log lines, a scrape. Microseconds, as Markdown.

    bench/telemetry.py

Processor time, the least of five rounds: the machine's noise only adds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from logging import WARNING, LogRecord
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from telemetry.logs import REQUEST_ID, Formatter
from telemetry.metrics import MAX_SERIES, MAX_TARGETS, Metrics, Page
from telemetry.metrics_page import merged, render
from telemetry.tracing import trace_of
from telemetry.tracing_export import Tracer, spans

ROUNDS = 5
WORKERS = 4
CONTEXT = [(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
TOLD = {f"tokenhub.{number}": number for number in range(15)}


def least(work: Callable[[], object], repeats: int = 20_000) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = process_time()
        for _ in range(repeats):
            work()
        rounds.append((process_time() - began) / repeats * 1e6)
    return min(rounds)


def counted(metrics: Metrics, model: str = "m") -> None:
    metrics.requests["normal", model, "p", str(200)].n += 1
    counts = metrics.targets[model, "p"]
    counts.latency.observe(123.0)
    counts.first_chunk.observe(45.0)
    counts.cost_nano += 5
    counts.input_tokens += 5
    counts.output_tokens += 6


class Taken:
    """A tracer that nobody empties but we: only the event loop's part is measured."""

    def __init__(self) -> None:
        self.tracer = Tracer(endpoint="http://127.0.0.1:1/v1/traces", service="s", version="1")

    def traced(self) -> None:
        trace = trace_of(CONTEXT)
        leg = trace.began("chat", "m", {"server.address": "h", "server.port": 1, "gen_ai.request.stream": False})
        leg.has_answered = True
        leg.end()
        trace.used({"gen_ai.usage.input_tokens": 5})
        self.tracer.finish(trace, "POST /v1/chat/completions", failed=False, leg_error="", told=dict(TOLD))
        if len(self.tracer.waiting) > 100:
            self.tracer.waiting.clear()


def main() -> None:
    small, full = Metrics(), Metrics()
    counted(small)
    for number in range(MAX_SERIES):
        counted(full, f"m{number}")
    pages = [Page(0.0, full.series()) for _ in range(WORKERS)]
    encode = msgspec.msgpack.Encoder().encode
    record = LogRecord("keys.bank", WARNING, "f", 1, "budget_threshold", None, None)
    record.data = {"budget": "$5 per total of installation", "percent": 80, "spent_usd": "4.000000"}
    formatter = Formatter("json", ["a-secret-of-ours"])
    taken = Taken()
    taken.traced()
    waiting = taken.tracer.waiting[0]
    about = {"service.name": "s", "service.version": "1"}
    rows = [
        ("each request: counting", least(lambda: counted(small))),
        ("each request: its id for log lines", least(lambda: REQUEST_ID.set("an-id"))),
        ("each request with tracing on, one call: the event loop's part", least(taken.traced)),
        (
            "the same, the thread's part",
            least(lambda: spans(waiting, about), 500),
        ),
        ("each second: a worker's page, one model", least(lambda: encode(Page(0.0, small.series())))),
        (f"each second: a worker's page, {MAX_TARGETS} models", least(lambda: encode(Page(0.0, full.series())), 50)),
        (f"each scrape: {WORKERS} workers, {MAX_TARGETS} models", least(lambda: render(merged(pages)), 10)),
        ("a log line", least(lambda: formatter.format(record), 2000)),
    ]
    print("| part | µs |")
    print("|---|---|")
    for name, microseconds in rows:
        print(f"| {name} | {microseconds:.3g} |")


if __name__ == "__main__":
    main()
