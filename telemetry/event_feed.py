"""What the listeners of one worker see: a window of the last events. While there are listeners, a thread fills it from
where the events are kept. A listener is a place in the window: it costs nothing to be slow, and who falls out of the
window is told how much went by."""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final, NamedTuple

import msgspec

from telemetry.event_ring import Reader, Record, Store
from telemetry.events import GAP, OF_REQUESTS, gap, open_store
from telemetry.logs import EventLogger

log = EventLogger(__name__)
MAX_CLIENTS: Final = 50
WINDOW_EVENTS: Final = 4096
WINDOW_BYTES: Final = 6 << 20
BATCH: Final = 512
CHUNK_BYTES: Final = 32_768
POLL_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 1.0
CLOSING_SECONDS: Final = 1.0
TAKEN_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 300.0  # events of requests are still kept for so long when the last listener has left
RENEW_SECONDS: Final = 5.0
OLDEST: Final = "0"


class _Data(msgspec.Struct):
    model_id: str | None = None
    provider_id: str | None = None
    project: str | None = None
    types: dict[str, int | None] = {}


class _Told(msgspec.Struct):
    type: str
    data: _Data


_decode = msgspec.json.Decoder(_Told).decode


class Filter(NamedTuple):
    """Empty: any. `status`: success or error, of a request."""

    types: frozenset[str] = frozenset()
    model_id: str = ""
    provider_id: str = ""
    project: str = ""
    status: str = ""

    def takes(self, told: _Told) -> bool:
        kind, data = told.type, told.data
        if kind == GAP:
            return not self.types or not data.types or not self.types.isdisjoint(data.types)
        return (
            (not self.types or kind in self.types)
            and (not self.model_id or self.model_id == data.model_id)
            and (not self.provider_id or self.provider_id == data.provider_id)
            and (not self.project or self.project == data.project)
            and (not self.status or kind == f"route_{self.status}")
        )


class Event(NamedTuple):
    number: int
    told: _Told
    payload: bytes


class Window:
    """The last events of one series, in order; some numbers may be missing."""

    def __init__(self, *, events: int = WINDOW_EVENTS, size: int = WINDOW_BYTES) -> None:
        self.epoch = ""
        self.last = 0
        self._most, self._most_bytes = events, size
        self._events: list[Event] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    def restart(self, epoch: str) -> None:
        self.epoch, self.last, self._events, self._bytes = epoch, 0, [], 0

    def add(self, records: Iterable[Record]) -> None:
        for number, payload in records:
            try:
                told = _decode(payload)
            except msgspec.MsgspecError:
                log.error("event_unreadable", number=number)
                continue
            self._events.append(Event(number, told, payload))
            self._bytes += len(payload)
            self.last = number
        if len(self._events) > self._most or self._bytes > self._most_bytes:  # by an eighth, not one by one
            gone = max(len(self._events) - self._most, 0) + self._most // 8
            while self._bytes - sum(len(one.payload) for one in self._events[:gone]) > self._most_bytes:
                gone += self._most // 8
            self._bytes -= sum(len(one.payload) for one in self._events[:gone])
            del self._events[:gone]

    def place(self, event_id: str) -> tuple[int, bytes]:
        """Where a listener goes on that has seen this one last, and what it is told first. Empty: at the end."""
        if not event_id:
            return self.last, b""
        oldest = self._events[0].number - 1 if self._events else self.last
        if event_id == OLDEST:
            return oldest, b""
        epoch, _, number = event_id.rpartition("-")
        if epoch != self.epoch or not number.isascii() or not number.isdigit() or len(number) > 18:
            return oldest, self.shown(oldest, GAP, gap("unknown_id"))
        if int(number) > self.last:
            return oldest, self.shown(oldest, GAP, gap("unknown_id"))
        return int(number), b""

    def after(self, number: int, wanted: Filter, *, limit: int = CHUNK_BYTES) -> tuple[bytes, int]:
        """What comes after that one, as SSE, about `limit` bytes of it; and the number of the last one looked at."""
        parts: list[bytes] = []
        size = 0
        for index in range(bisect_right(self._events, number, key=lambda one: one.number), len(self._events)):
            one = self._events[index]
            if missed := one.number - number - 1:
                parts.append(self.shown(one.number - 1, GAP, gap("too_late", missed=missed)))
            number = one.number
            if wanted.takes(one.told):
                parts.append(self.shown(number, one.told.type, one.payload))
            elif not missed:
                continue
            size += len(parts[-1])
            if size >= limit:
                break
        return b"".join(parts), number

    def shown(self, number: int, event: str, payload: bytes) -> bytes:
        return b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (self.epoch.encode(), number, event.encode(), payload)

    def mark(self, number: int) -> bytes:
        """Tells a client its place without an event."""
        return b": keep-alive\nid: %s-%d\n\n" % (self.epoch.encode(), number)


class Listener:
    """`news`: there may be something. `first`: what it is told at once. `sending`: the limit of a write that is under
    way."""

    def __init__(self, number: int, first: bytes, epoch: str) -> None:
        self.number = number
        self.first = first
        self.epoch = epoch
        self.news = asyncio.Event()
        self.sending: asyncio.Timeout | None = None


class Feed:
    """One per process; belongs to the event loop."""

    def __init__(self, store: Callable[[], Store] = open_store) -> None:
        self._open_store = store
        self.window = Window()
        self.listeners: set[Listener] = set()
        self.is_closing = False
        self._follower: Follower | None = None

    @property
    def is_full(self) -> bool:
        return len(self.listeners) >= MAX_CLIENTS

    async def join(self, event_id: str) -> Listener:
        """Raises OSError when the events cannot be read."""
        follower = self._follower
        if follower is None:
            self.window.restart("")
            follower = self._follower = Follower(self, self._open_store, asyncio.get_running_loop())
            follower.start()
        follower.expected += 1
        try:
            await asyncio.shield(follower.loaded)
            listener = Listener(*self.window.place(event_id), self.window.epoch)
            self.listeners.add(listener)
            return listener
        finally:
            follower.expected -= 1
            self._end_if_alone()

    def leave(self, listener: Listener) -> None:
        self.listeners.discard(listener)
        self._end_if_alone()

    def close(self) -> None:
        """The server stops: all listeners are let go."""
        if not self.is_closing:
            self.is_closing = True
            self._wake()
            for one in self.listeners:
                if one.sending is not None:
                    one.sending.reschedule(asyncio.get_running_loop().time() + CLOSING_SECONDS)

    def take(self, follower: Follower, epoch: str, records: list[Record]) -> None:
        """From the follower, on the event loop."""
        if follower is not self._follower:
            return
        if epoch != self.window.epoch:
            self.window.restart(epoch)
        self.window.add(records)
        self._wake()

    def next(self, listener: Listener, wanted: Filter) -> bytes:
        """The next bytes for this listener; empty: there are none for now."""
        first, listener.first = listener.first, b""
        if listener.epoch != self.window.epoch:
            listener.epoch = self.window.epoch
            listener.number, first = self.window.place("?")
        chunk, listener.number = self.window.after(listener.number, wanted)
        return first + chunk

    def _wake(self) -> None:
        for one in self.listeners:
            one.news.set()

    def _end_if_alone(self) -> None:
        follower = self._follower
        if follower is not None and not self.listeners and not follower.expected:
            follower.end()
            self._follower = None
            self.window.restart("")


class Follower:
    """The thread that reads for a feed, and says that somebody listens."""

    def __init__(self, feed: Feed, store: Callable[[], Store], loop: asyncio.AbstractEventLoop) -> None:
        self.expected = 0
        """Who waits to listen."""
        self.loaded: asyncio.Future[None] = loop.create_future()
        self._feed = feed
        self._open_store = store
        self._loop = loop
        self._ended = threading.Event()
        self._taken = threading.Event()
        self._renew_at = 0.0
        self._thread = threading.Thread(target=self._run, name="event-follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        is_failing = False
        store: Store | None = None
        reader: Reader | None = None
        while not self._ended.is_set():
            try:
                if store is None or reader is None:
                    store = self._open_store()
                    reader = store.reader()
                self._follow(store, reader)
                is_failing = False
            except OSError as problem:
                if not is_failing:
                    log.error("events_not_read", reason=str(problem)[:200])
                is_failing = True
                self._post(self._failed, problem)
                self._ended.wait(RETRY_SECONDS)
            except Exception as problem:
                log.exception("events_not_read")
                self._post(self._failed, OSError(str(problem)))
                self._ended.wait(RETRY_SECONDS)
        if store is not None:
            store.close()

    def _follow(self, store: Store, reader: Reader) -> None:
        """One turn. Raises OSError."""
        now = monotonic()
        if now >= self._renew_at:
            if store.listen(LINGER_SECONDS):
                store.append([gap("not_kept", types=dict.fromkeys(OF_REQUESTS))])
            self._renew_at = now + RENEW_SECONDS
        records = reader.read(BATCH)
        if records or not self.loaded.done() or reader.epoch != self._feed.window.epoch:
            self._taken.clear()
            self._post(self._hand_over, reader.epoch, records)
            self._taken.wait(TAKEN_SECONDS)  # no faster than the event loop takes them
        if len(records) < BATCH:
            self._ended.wait(POLL_SECONDS)

    def _hand_over(self, epoch: str, records: list[Record]) -> None:
        self._feed.take(self, epoch, records)
        self._taken.set()
        if len(records) < BATCH and not self.loaded.done():
            self.loaded.set_result(None)

    def _failed(self, problem: OSError) -> None:
        if not self.loaded.done():
            self.loaded.set_exception(problem)
            self.loaded.exception()  # looked at, also where nobody waits any more

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the event loop has ended
            self._ended.set()


FEED: Final = Feed()
