"""What the requests of one series and one span add up to. Pure: from entries and rows in, a row out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from telemetry.journal import COUNT_TOKENS, Entry
from telemetry.sketch import Sketch, add_encoded, add_to, bucket_of, encode

LARGEST: Final = 1 << 48
"""Of one number: 281 trillion tokens, or nano-dollars. A provider that tells more must not make a sum overflow."""
FULL: Final = (1 << 63) - 1
"""A sum that has come so far stays there: the databases have no larger number."""
CLIENT_LEFT: Final = 499
_LIMITS: Final = frozenset({"rate_limit_exceeded", "upstream_rate_limited"})
_OF_ONE: Final = frozenset({"invalid_request", "context_overflow"})
"""Classes that blame the request. Where several models failed, they are only the last one's."""
_NANO: Final = 1_000_000_000


class Labels(NamedTuple):
    model_id: str
    provider_id: str
    project: str
    mode: str
    error_class: str


def labels_of(entry: Entry) -> Labels:
    """A request without a fault has no error class; one whose fault has no class goes by its code. What only counted
    tokens is a request, but none of the model's: as for its health, the model has answered nothing."""
    error = ""
    if entry.status >= 400 and entry.status != CLIENT_LEFT:
        error = entry.error_class or entry.error_code or "unknown"
        if entry.status >= 500 and error in _OF_ONE:
            error = entry.error_code or error
    if entry.endpoint == COUNT_TOKENS:
        return Labels("", "", entry.project, entry.mode, error)
    return Labels(entry.model, entry.provider, entry.project, entry.mode, error)


class Measure:
    """Numbers are appended to `waiting`, and counted all at once: for a busy series, that takes half the time."""

    __slots__ = ("count", "largest", "least", "sketch", "total", "waiting")

    def __init__(self) -> None:
        self.count = self.total = self.least = self.largest = 0
        self.sketch: Sketch = {}
        self.waiting: list[int] = []

    def merge(self, count: int, total: int, least: int, largest: int, encoded: bytes) -> None:
        if not count:
            return
        self.least = min(self.least, least) if self.count else least
        self.largest = max(self.largest, largest)
        self.count += count
        self.total += total
        add_encoded(self.sketch, encoded)

    def parts(self) -> tuple[int, int, int, int, bytes]:
        """In the order of the models' PARTS."""
        if numbers := self.waiting:
            if min(numbers) < 0 or max(numbers) > LARGEST:
                numbers = [min(max(number, 0), LARGEST) for number in numbers]
            counts = Counter(map(bucket_of, numbers))
            self.merge(len(numbers), sum(numbers), min(numbers), max(numbers), b"")
            add_to(self.sketch, counts)
            self.waiting = []
        return self.count, min(self.total, FULL), self.least, self.largest, encode(self.sketch)


class Totals:
    """`counters` and `measures` in the order of the models' COUNTERS and MEASURES."""

    __slots__ = ("affinity_hits", "errors", "measures", "rate_limited", "requests")

    def __init__(self) -> None:
        self.requests = self.errors = self.rate_limited = self.affinity_hits = 0
        self.measures = [Measure() for _ in range(7)]

    def add(self, entry: Entry, labels: Labels) -> None:
        latency, first_chunk, cost, input_tokens, output_tokens, cached, reward = self.measures
        self.requests += 1
        if labels.error_class:
            self.errors += 1
            if entry.error_code in _LIMITS:
                self.rate_limited += 1
        if entry.at_home:
            self.affinity_hits += 1
        if labels.model_id:  # refusals reach no model, and would make it look fast
            latency.waiting.append(entry.latency_ms)
        if entry.first_chunk_ms is not None:
            first_chunk.waiting.append(entry.first_chunk_ms)
        if entry.cost_nano is not None:
            cost.waiting.append(entry.cost_nano)
        if entry.input_tokens or entry.output_tokens:
            input_tokens.waiting.append(entry.input_tokens)
            output_tokens.waiting.append(entry.output_tokens)
            cached.waiting.append(entry.cached_input_tokens)
        if entry.reward is not None:
            reward.waiting.append(round(entry.reward * _NANO))

    def merge(self, row: Sequence[Any]) -> None:
        """Such as `row` makes."""
        self.requests += row[0]
        self.errors += row[1]
        self.rate_limited += row[2]
        self.affinity_hits += row[3]
        for at, measure in zip(range(4, len(row), 5), self.measures, strict=True):
            measure.merge(*row[at : at + 5])

    def row(self) -> list[Any]:
        """The counters, then five parts of each measure."""
        row: list[Any] = [self.requests, self.errors, self.rate_limited, self.affinity_hits]
        for one in self.measures:
            row += one.parts()
        return row
