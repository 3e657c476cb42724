"""Counters of the data plane. Kept in plain dictionaries, because a request pays for each of them, and turned into
Prometheus' text only when somebody asks, outside the event loop. Labels are names from the configuration only."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from prometheus_client import Metric

LATENCY_BUCKETS_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000)


class Histogram:
    """Counts per bucket, the last one open."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS_MS, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        result, running = [], 0
        for limit, count in zip([*map(str, LATENCY_BUCKETS_MS), "+Inf"], self.counts, strict=True):
            running += count
            result.append((limit, float(running)))
        return result


class Metrics:
    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        self.errors: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.latency: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        self.first_chunk: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        self.cost_nano: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.tokens: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.attempts_failed: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.provider_skips: dict[str, int] = {}
        self.provider_states: Callable[[], Mapping[str, int]] = dict
        self.rate_limited = 0
        self.unlogged_refusals = 0
        self.in_flight = 0
        self.disconnects = 0
        self.shadows_dropped = 0
        self.journal_lines = 0
        self.journal_failing = 0
        self.snapshot_version = 0

    def collect(self) -> Iterator[Metric]:
        """For a Prometheus registry. Reads copies: the event loop goes on counting meanwhile."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        def counter(name: str, text: str, labels: list[str], values: Mapping[Any, float]) -> Metric:
            family = CounterMetricFamily(name, text, labels=labels)
            for key, value in values.items():
                family.add_metric(list(key), value)
            return family

        def histogram(name: str, text: str, values: dict[tuple[str, str], Histogram]) -> Metric:
            family = HistogramMetricFamily(name, text, labels=["model", "provider"])
            for key, one in values.items():
                family.add_metric(list(key), one.buckets(), one.total)
            return family

        def single(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(name, text, value=value)

        yield counter(
            "tokenhub_requests", "Finished requests.", ["mode", "model", "provider", "status"], self.requests.copy()
        )
        yield counter(
            "tokenhub_request_errors", "Requests that ended in an error.", ["endpoint", "code"], self.errors.copy()
        )
        yield counter(
            "tokenhub_attempt_errors", "Failed calls of a provider.", ["model", "provider", "error_class"],
            self.attempts_failed.copy(),
        )  # fmt: skip
        yield counter(
            "tokenhub_cost_usd", "Settled cost in dollars.", ["model", "provider"],
            {key: nano / 1e9 for key, nano in self.cost_nano.copy().items()},
        )  # fmt: skip
        yield counter("tokenhub_tokens", "Tokens by kind.", ["model", "provider", "kind"], self.tokens.copy())
        yield histogram("tokenhub_request_latency_ms", "Whole requests, in milliseconds.", self.latency.copy())
        yield histogram(
            "tokenhub_time_to_first_chunk_ms", "Streams' first bytes, in milliseconds.", self.first_chunk.copy()
        )
        yield counter(
            "tokenhub_provider_skips", "Targets passed over by the router.", ["reason"],
            {(reason,): count for reason, count in self.provider_skips.copy().items()},
        )  # fmt: skip
        states = GaugeMetricFamily(
            "tokenhub_provider_health_state", "2: healthy, 1: degraded, 0: down.", labels=["provider"]
        )
        for provider, state in self.provider_states().items():
            states.add_metric([provider], state)
        yield states
        yield counter("tokenhub_rate_limited", "Requests refused by a rate limit.", [], {(): self.rate_limited})
        yield counter("tokenhub_client_disconnects", "Clients that left early.", [], {(): self.disconnects})
        yield counter("tokenhub_shadows_dropped", "Copies that found no room.", [], {(): self.shadows_dropped})
        yield counter(
            "tokenhub_unlogged_refusals", "Refused keys beyond those the log takes.", [], {(): self.unlogged_refusals}
        )
        yield counter("tokenhub_journal_lines", "Lines appended to the journal.", [], {(): self.journal_lines})
        yield single("tokenhub_journal_failing", "1 while the disk takes no journal lines.", self.journal_failing)
        yield single("tokenhub_requests_in_flight", "Requests being answered now.", self.in_flight)
        yield single("tokenhub_snapshot_version", "Version of the configuration in use.", self.snapshot_version)


def render(metrics: Metrics) -> bytes:
    """Prometheus' text: these, and what django-prometheus counts for the control plane."""
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return generate_latest(registry) + generate_latest(REGISTRY)
