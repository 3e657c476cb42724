"""The event bus: what happened, told to whoever listens at the moment. Nobody waits for it and nothing depends on it;
what must arrive goes through webhooks, too (`telemetry.webhooks.announce`).

`publish` may be called on any thread, the event loop's too: it puts the event into a short queue, and a thread of this
process hands it on, to the host's ring file or, with TOKENHUB_REDIS_URL, to the stream in Redis. Events of requests are
made only while somebody listens, anywhere: `BUS.wanted[0]` is the one check that a request pays for otherwise.

Both the queue and the rate of each type are bounded. What did not fit is counted, and told as a `gap`."""

from __future__ import annotations

import atexit
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import msgspec
from django.conf import settings

from telemetry.event_ring import MAX_EVENT_BYTES, FileRing, Store
from telemetry.journal import COUNT_TOKENS, Entry
from telemetry.logs import EventLogger

log = EventLogger(__name__)
OF_REQUESTS: Final = ("route_success", "route_error", "escalation", "stream_started")
RARE: Final = ("health_change", "vault_change", "budget_threshold", "budget_overrun", "key_rotation_due")
WORKFLOWS: Final = (
    "workflow_started", "workflow_leg_started", "workflow_leg_completed", "workflow_completed", "workflow_failed",
    "workflow_cancelled",
)  # fmt: skip
EVENTS: Final = (*OF_REQUESTS, *RARE, *WORKFLOWS)
GAP: Final = "gap"
PER_SECOND: Final = 100
BURST: Final = 300
MAX_WAITING: Final = 2000
TICK_SECONDS: Final = 0.05
IDLE_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 1.0
GAP_SECONDS: Final = 1.0
FLUSH_SECONDS: Final = 3.0
SILENT_ENDPOINTS: Final = frozenset({"/v1/models", "/v1/feedback", COUNT_TOKENS})
_OVERFLOW: Final = "context_overflow"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder(enc_hook=str).encode
Told = tuple[str, datetime, Mapping[str, Any]]


def publish(event: str, data: Mapping[str, Any]) -> None:
    """`data`: what JSON can hold; never a prompt, an answer or a secret. Does not wait, and does not fail for reasons
    outside. After a transaction: `transaction.on_commit`."""
    BUS.publish(event, data)


def open_store() -> Store:
    """Raises OSError."""
    if url := str(settings.TOKENHUB_REDIS_URL):
        from telemetry.event_redis import RedisStream

        return RedisStream(url)
    return FileRing(Path(settings.TOKENHUB_DATA_DIR))


def encoded(event: str, at: datetime, data: Mapping[str, Any]) -> bytes:
    return _encode({"type": event, "timestamp": at, "data": data})


def gap(reason: str, *, missed: int | None = None, types: Mapping[str, int | None] | None = None) -> bytes:
    """An event that says that others are missing."""
    data: dict[str, Any] = {"reason": reason, "missed": missed}
    return encoded(GAP, datetime.now(UTC), data | {"types": dict(types)} if types else data)


class Bus:
    """One per process; in a fork, a fresh one."""

    def __init__(self, store: Callable[[], Store] = open_store) -> None:
        self._open_store = store
        self.reset()

    def reset(self) -> None:
        self.wanted: bytearray | memoryview = bytearray(1)
        """Whether somebody listens: `wanted[0]`."""
        self._waiting: deque[Told] = deque()
        self._requests: deque[Entry] = deque()
        self._refused: Counter[str] = Counter()
        """By whoever publishes, since the thread last looked."""
        self._missed: Counter[str] = Counter()
        self._unsent: deque[tuple[str, bytes]] = deque()
        self._allowance: dict[str, tuple[float, float]] = {}
        self._store: Store | None = None
        self._gap_at = self._retry_at = 0.0
        self._is_failing = self._is_stopped = False
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self.turning = threading.Lock()
        """Held by the thread while it works. A process that were forked meanwhile would inherit what it holds, such as
        the lock of a module that is being imported, and wait for it without end."""
        self._thread: threading.Thread | None = None

    # -- from everywhere -------------------------------------------------------------------------------------------
    def publish(self, event: str, data: Mapping[str, Any]) -> None:
        if event not in EVENTS:
            raise ValueError(f"There is no event {event!r}.")
        self._put(event, datetime.now(UTC), data)
        self._run_thread()
        self._wake.set()

    def of_request(self, event: str, data: Mapping[str, Any]) -> None:
        """While `wanted[0]`, on the event loop."""
        self._put(event, datetime.now(UTC), data)

    def finished(self, entry: Entry) -> None:
        """While `wanted[0]`, on the event loop. The entry must not change any more, but for its charges."""
        if len(self._requests) < MAX_WAITING:
            self._requests.append(entry)
        else:
            self._refused[_outcome(entry)] += 1

    def _put(self, event: str, at: datetime, data: Mapping[str, Any]) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append((event, at, data))
        else:
            self._refused[event] += 1

    def open(self) -> Store:
        """Raises OSError."""
        if self._store is None:
            self._store = self._open_store()
            self.wanted = self._store.wanted
        return self._store

    # -- the thread --------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """In a server: from now on `wanted` tells."""
        with suppress(OSError):  # the thread tries again, and logs it
            self.open()
        self._run_thread()

    def _run_thread(self) -> None:
        if self._thread is None and not self._is_stopped:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="event-bus", daemon=True)
                    self._thread.start()
                    atexit.register(self.stop)

    def stop(self) -> None:
        """What is in the queue still goes out, if that takes no longer than three seconds."""
        self._is_stopped = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(FLUSH_SECONDS)

    def _run(self) -> None:
        while not self._is_stopped:
            self._wake.wait(TICK_SECONDS if self.wanted[0] else IDLE_SECONDS)
            self._wake.clear()
            self._guarded_turn()
        self._retry_at = 0.0
        self._guarded_turn()

    def _guarded_turn(self) -> None:
        try:
            with self.turning:
                self.turn(monotonic())
        except Exception:  # the thread must outlive a defect
            log.exception("events_not_sent")

    def turn(self, now: float) -> None:
        """Hands on what has come in; later, where that cannot be done now."""
        refused, self._refused = self._refused, Counter()
        self._missed += refused
        for event, at, data in self._taken():
            if not self._may(event, now):
                self._missed[event] += 1
                continue
            payload = encoded(event, at, data)
            if len(payload) > MAX_EVENT_BYTES:
                log.error("event_too_large", about=event, bytes=len(payload))
                self._missed[event] += 1
                continue
            self._unsent.append((event, payload))
        while len(self._unsent) > MAX_WAITING:
            self._missed[self._unsent.popleft()[0]] += 1
        if now < self._retry_at:
            return
        try:
            self._hand_on(now)
            self._is_failing = False
        except OSError as problem:
            self._retry_at = now + RETRY_SECONDS
            if not self._is_failing:
                log.error("events_not_sent", reason=str(problem)[:200])
            self._is_failing = True

    def _taken(self) -> Iterator[Told]:
        for _ in range(len(self._waiting)):
            yield self._waiting.popleft()
        for _ in range(len(self._requests)):
            yield from told_of(self._requests.popleft())

    def _may(self, event: str, now: float) -> bool:
        left, since = self._allowance.get(event, (float(BURST), now))
        left = min(left + (now - since) * PER_SECOND, float(BURST))
        self._allowance[event] = (max(left - 1.0, 0.0) if left >= 1.0 else left, now)
        return left >= 1.0

    def _hand_on(self, now: float) -> None:
        """Raises OSError."""
        store = self.open()
        store.refresh()
        if self._missed and now >= self._gap_at:
            store.append([gap("thinned", missed=self._missed.total(), types=self._missed)])
            self._gap_at = now + GAP_SECONDS
            self._missed.clear()
        if self._unsent:
            store.append([payload for _, payload in self._unsent])
            self._unsent.clear()


def _outcome(entry: Entry) -> str:
    return "route_error" if entry.status >= 400 else "route_success"


def told_of(entry: Entry) -> Iterator[Told]:
    """The events of a finished request. An escalation that led to an answer was told with it."""
    if entry.endpoint in SILENT_ENDPOINTS:
        return
    at = _EPOCH + timedelta(microseconds=entry.at)
    if entry.status >= 400 and not entry.reason and (found := escalation_of(entry.attempt_list)):
        yield "escalation", at, {**_who(entry), **found}
    data = {
        **_who(entry),
        "status": entry.status,
        "routing_reason": entry.reason,
        "error_class": entry.error_class or None,
        "error_code": entry.error_code or None,
        "stream": entry.stream,
        "input_tokens": entry.input_tokens,
        "cached_input_tokens": entry.cached_input_tokens,
        "output_tokens": entry.output_tokens,
        "reasoning_tokens": entry.reasoning_tokens,
        "cost_usd": None if entry.cost_nano is None else entry.cost_nano / 1_000_000_000,
        "latency_ms": entry.latency_ms,
        "time_to_first_chunk_ms": entry.first_chunk_ms,
        "attempts": len(entry.attempt_list),
        "client_disconnected": entry.disconnected,
    }
    yield _outcome(entry), at, data


def _who(entry: Entry) -> dict[str, Any]:
    return {
        "request_id": entry.id,
        "endpoint": entry.endpoint,
        "api_key_name": entry.key_name,
        "project": entry.project,
        "requested_model": entry.requested_model,
        "alias": entry.alias,
        "mode": entry.mode,
        "model_id": entry.model,
        "provider_id": entry.provider,
    }


def escalation_of(attempts: Any) -> dict[str, Any]:
    """Whose context the request did not fit into; empty where it fitted, or nobody was asked after that."""
    small = [one.model for one in attempts if one.error_class == _OVERFLOW]
    return {"too_small": small} if small and attempts[-1].error_class != _OVERFLOW else {}


BUS: Final = Bus()
os.register_at_fork(
    before=lambda: BUS.turning.acquire(), after_in_parent=lambda: BUS.turning.release(), after_in_child=BUS.reset
)
