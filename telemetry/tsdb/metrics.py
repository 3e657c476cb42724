"""What can be asked of the time series: metrics, aggregates, labels. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from telemetry.tsdb.totals import Labels

NANO: Final = 1_000_000_000
LABELS: Final = Labels._fields
PERCENTILES: Final = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
OF_COUNTERS: Final = ("sum", "count", "rate", "avg")
AGGREGATES: Final = (*OF_COUNTERS, "min", "max", *PERCENTILES)
EMPTY_IS_ZERO: Final = frozenset({"sum", "count", "rate"})


class Metric(NamedTuple):
    """`column`: of a counter, or what a measure's columns begin with; `scale`: how many of it make one of `unit`."""

    name: str
    unit: str
    text: str
    column: str
    scale: int = 1
    is_counter: bool = False

    @property
    def aggregates(self) -> tuple[str, ...]:
        return OF_COUNTERS if self.is_counter else AGGREGATES


def _counter(name: str, text: str) -> Metric:
    return Metric(name, "requests", text, name, is_counter=True)


def _measure(name: str, unit: str, text: str, column: str = "", scale: int = 1) -> Metric:
    return Metric(name, unit, text, column or name, scale)


_METRICS: Final = (
    _counter("requests", "Finished requests."),
    _counter("errors", "Requests that failed; their average is the share of all. By class: error_class."),
    _counter("rate_limited", "Requests that a rate limit refused, ours or the provider's."),
    _counter("affinity_hits", "Requests answered by the model that their conversation was at."),
    _measure("latency_ms", "ms", "To the end of the answer, of requests that reached a model."),
    _measure("time_to_first_chunk_ms", "ms", "Of streams."),
    _measure("cost_usd", "USD", "Of requests with a price; exact to the nano-dollar.", "cost_nano", NANO),
    _measure("input_tokens", "tokens", "With the cached ones; of requests that used any token."),
    _measure("output_tokens", "tokens", "Of requests that used any token."),
    _measure("cached_input_tokens", "tokens", "Of requests that used any token."),
    _measure("reward", "", "What the bandit learned at the answer, 0 to 1.", "reward_nano", NANO),
)
METRICS: Final = {one.name: one for one in _METRICS}
