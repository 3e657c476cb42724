"""Counters of the data plane. Kept in plain slots, because a request pays for each of them, and put on a `Page` only
when another worker or Prometheus is to see them. Labels are names from the configuration only, and so many of them:
beyond that, what comes new is counted under `other`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import msgspec

LATENCY_BUCKETS_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000)
MAX_SERIES: Final = 2000
"""Of one metric, in one worker."""
MAX_TARGETS: Final = 500
"""Models whose latency, tokens and cost are told apart."""
OTHER: Final = "other"
_KEPT: Final = frozenset({"status", "error_class"})  # few by their nature; alerts need them

Key = tuple[str, ...]
Value = int | float | list[int | float]
"""Of a histogram: what is in each of its buckets, the last one open, and the sum of all."""
Series = list[tuple[Key, Value]]


@dataclass(frozen=True, slots=True)
class Spec:
    """`merge`: of a gauge over workers. `scale`: from what is counted to what is shown."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    merge: Literal["sum", "max", "min"] = "sum"
    scale: float = 1.0


def _counter(name: str, text: str, *labels: str, scale: float = 1.0) -> Spec:
    return Spec(name, "counter", text, labels, scale=scale)


def _gauge(name: str, text: str, *labels: str, merge: Literal["sum", "max", "min"] = "sum", scale: float = 1.0) -> Spec:
    return Spec(name, "gauge", text, labels, merge, scale)


def _histogram(name: str, text: str, *labels: str) -> Spec:
    return Spec(name, "histogram", text, labels)


NANO: Final = 1e-9
_ALL: Final = (
    _gauge("tokenhub_info", "The version that answers.", "version", merge="max"),
    _counter("tokenhub_requests_total", "Finished requests.", "mode", "model", "provider", "status"),
    _counter("tokenhub_request_errors_total", "Requests that ended in an error.", "endpoint", "code"),
    _histogram("tokenhub_request_latency_ms", "Whole requests, in milliseconds.", "model", "provider"),
    _histogram("tokenhub_time_to_first_chunk_ms", "Streams' first bytes, in milliseconds.", "model", "provider"),
    _counter("tokenhub_cost_usd_total", "Settled cost in dollars.", "model", "provider", scale=NANO),
    _counter("tokenhub_tokens_total", "Tokens by kind.", "model", "provider", "kind"),
    _counter("tokenhub_attempt_errors_total", "Failed calls of a provider.", "model", "provider", "error_class"),
    _gauge("tokenhub_provider_health_state", "2: healthy, 1: degraded, 0: down.", "provider", merge="min"),
    _counter("tokenhub_provider_skips_total", "Targets passed over by the router.", "reason"),
    _counter("tokenhub_rate_limited_total", "Requests refused by a rate limit."),
    _counter("tokenhub_client_disconnects_total", "Clients that left early."),
    _counter("tokenhub_shadows_dropped_total", "Copies that found no room."),
    _counter("tokenhub_captures_lost_total", "Prompts and answers that could not be sealed."),
    _counter("tokenhub_unlogged_refusals_total", "Refused keys beyond those the log takes."),
    _gauge("tokenhub_requests_in_flight", "Requests being answered now."),
    _gauge("tokenhub_budget_amount_usd", "What a budget allows.", "budget", "subject", "every", scale=NANO),
    _gauge("tokenhub_budget_spent_usd", "What is spent of it.", "budget", "subject", "every", scale=NANO),
    _gauge("tokenhub_budget_leased_usd", "What processes hold of it.", "budget", "subject", "every", scale=NANO),
    _gauge("tokenhub_budgets_unlisted", "Budgets beyond those that are shown."),
    _counter("tokenhub_journal_lines_total", "Lines appended to the journal."),
    _gauge("tokenhub_journal_failing", "1 while the disk takes no journal lines.", merge="max"),
    _gauge("tokenhub_journal_lag_bytes", "Of the journal, not in the request log yet."),
    _gauge("tokenhub_journal_lag_seconds", "Age of the oldest line that is not in the request log yet."),
    _gauge("tokenhub_event_loop_lag_seconds", "How late the event loop was at most, within 15 to 30 s.", merge="max"),
    _gauge("tokenhub_database_up", "1 while the database answers."),
    _gauge("tokenhub_vault_initialized", "1 once the vault has a password."),
    _gauge("tokenhub_vault_unlocked", "1 while credentials can be read."),
    _gauge("tokenhub_temporal_up", "1 while Temporal answers; absent where it is not used.", merge="min"),
    _gauge("tokenhub_snapshot_version", "Version of the configuration in use, the oldest of the workers.", merge="min"),
    _gauge("tokenhub_workers", "Worker processes."),
    _gauge("tokenhub_workers_silent", "Workers whose figures are older than 10 s."),
    _counter("tokenhub_spans_exported_total", "Spans that the collector took."),
    _counter("tokenhub_spans_dropped_total", "Spans that were lost: the queue was full, or the collector away."),
)  # fmt: skip
SPECS: Final[Mapping[str, Spec]] = {one.name: one for one in _ALL}


class Count:
    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Histogram:
    """Counts per bucket, the last one open."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS_MS, value)] += 1
        self.total += value

    def value(self) -> Value:
        return [*self.counts, self.total]


class TargetCounts:
    """Of one model at its provider."""

    __slots__ = ("cost_nano", "first_chunk", "input_tokens", "latency", "output_tokens")

    def __init__(self) -> None:
        self.latency = Histogram()
        self.first_chunk = Histogram()
        self.cost_nano = self.input_tokens = self.output_tokens = 0


C = TypeVar("C")


class Family(dict[Key, C]):
    """A series per label set, made when it is first counted; `other` once there are `most`."""

    __slots__ = ("_labels", "_make", "_most")

    def __init__(self, labels: tuple[str, ...], make: Callable[[], C], most: int = MAX_SERIES) -> None:
        super().__init__()
        self._labels = labels
        self._make = make
        self._most = most

    def __missing__(self, key: Key) -> C:
        if len(self) >= self._most:
            key = tuple(value if name in _KEPT else OTHER for name, value in zip(self._labels, key, strict=True))
            if (found := self.get(key)) is not None:
                return found
        made = self[key] = self._make()
        return made


class Foreign(msgspec.Struct, array_like=True):
    """A metric of somebody else's registry. A sample: name, labels, value."""

    name: str
    kind: str
    text: str
    samples: list[tuple[str, dict[str, str], float]]


class Page(msgspec.Struct):
    """What one worker has counted. `at`: Unix time."""

    at: float
    series: dict[str, Series]
    foreign: list[Foreign] = []


def _of(name: str) -> Family[Count]:
    return Family(SPECS[name].labels, Count)


class Metrics:
    """One per process. Counted on the event loop; read by `series` from any thread."""

    def __init__(self) -> None:
        self.requests = _of("tokenhub_requests_total")
        self.errors = _of("tokenhub_request_errors_total")
        self.attempts_failed = _of("tokenhub_attempt_errors_total")
        self.targets: Family[TargetCounts] = Family(("model", "provider"), TargetCounts, MAX_TARGETS)
        self.provider_skips: dict[str, int] = {}
        self.provider_states: Callable[[], Mapping[str, int]] = dict
        self.rate_limited = 0
        self.unlogged_refusals = 0
        self.in_flight = 0
        self.disconnects = 0
        self.shadows_dropped = 0
        self.captures_lost = 0
        self.snapshot_version = 0
        self.temporal_up: int | None = None
        """None: it is not used."""

    def series(self) -> dict[str, Series]:
        """Of what is counted here. From copies: the event loop goes on counting meanwhile."""
        targets, states = list(self.targets.copy().items()), list(self.provider_states().items())
        found: dict[str, Series] = {
            "tokenhub_requests_total": _counts(self.requests),
            "tokenhub_request_errors_total": _counts(self.errors),
            "tokenhub_attempt_errors_total": _counts(self.attempts_failed),
            "tokenhub_request_latency_ms": [(key, one.latency.value()) for key, one in targets],
            "tokenhub_time_to_first_chunk_ms": [
                (key, one.first_chunk.value()) for key, one in targets if any(one.first_chunk.counts)
            ],
            "tokenhub_cost_usd_total": [(key, one.cost_nano) for key, one in targets],
            "tokenhub_tokens_total": [
                part
                for key, one in targets
                for part in (((*key, "input"), one.input_tokens), ((*key, "output"), one.output_tokens))
            ],
            "tokenhub_provider_skips_total": [((reason,), n) for reason, n in self.provider_skips.copy().items()],
            "tokenhub_provider_health_state": [((name,), n) for name, n in states[:MAX_TARGETS]],
        }
        single = {
            "tokenhub_rate_limited_total": self.rate_limited,
            "tokenhub_client_disconnects_total": self.disconnects,
            "tokenhub_shadows_dropped_total": self.shadows_dropped,
            "tokenhub_captures_lost_total": self.captures_lost,
            "tokenhub_unlogged_refusals_total": self.unlogged_refusals,
            "tokenhub_requests_in_flight": self.in_flight,
            "tokenhub_snapshot_version": self.snapshot_version,
            "tokenhub_workers": 1,
        }  # fmt: skip
        if self.temporal_up is not None:
            single["tokenhub_temporal_up"] = self.temporal_up
        return found | alone(single)


def _counts(family: Family[Count]) -> Series:
    return [(key, one.n) for key, one in family.copy().items()]


def alone(values: Mapping[str, int | float]) -> dict[str, Series]:
    """Of metrics without labels."""
    return {name: [((), value)] for name, value in values.items()}
