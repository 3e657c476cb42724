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
    """`column`: of a counter, or what a measure's columns begin with; `scale`: how many of them make one of `unit`."""

    name: str
    column: str
    unit: str
    text: str
    scale: int = 1
    is_counter: bool = False

    @property
    def aggregates(self) -> tuple[str, ...]:
        return OF_COUNTERS if self.is_counter else AGGREGATES


METRICS: Final = {
    one.name: one
    for one in (
        Metric("requests", "requests", "requests", "Finished requests.", is_counter=True),
        Metric(
            "errors", "errors", "requests", "Requests that failed; `avg` is their share. By class: `error_class`.",
            is_counter=True,
        ),
        Metric(
            "rate_limited", "rate_limited", "requests", "Requests that a limit refused, ours or the provider's.",
            is_counter=True,
        ),
        Metric(
            "affinity_hits", "affinity_hits", "requests", "Requests answered by the model that their conversation was at.",
            is_counter=True,
        ),
        Metric("latency_ms", "latency_ms", "ms", "To the end of the answer, of requests that reached a model."),
        Metric("time_to_first_chunk_ms", "time_to_first_chunk_ms", "ms", "Of streams."),
        Metric("cost_usd", "cost_nano", "USD", "Of requests with a price. Exact to the nano-dollar.", NANO),
        Metric("input_tokens", "input_tokens", "tokens", "With the cached ones; of requests that used any token."),
        Metric("output_tokens", "output_tokens", "tokens", "Of requests that used any token."),
        Metric("cached_input_tokens", "cached_input_tokens", "tokens", "Of requests that used any token."),
        Metric("reward", "reward_nano", "", "What the bandit learned at the answer, 0 to 1.", NANO),
    )
}  # fmt: skip
