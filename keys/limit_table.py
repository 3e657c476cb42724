"""Rate limits of one host, exact across its workers: a table in memory that the workers share because it was mapped
before they were forked. Whoever changes an entry holds the lock of its set. What a worker that was killed had under way
ends with it: each holds a record lock of the kernel on its column.

An entry that is pushed out of a full set begins anew: a set has eight, and full buckets go first."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from math import inf
from mmap import mmap
from struct import Struct
from time import monotonic
from typing import Final

from keys.limit_lease import LEASE_SECONDS, Lease
from keys.limits import CONCURRENT, MINUTE, SECOND, TOKENS, Bucket, LimitExceeded, Limits, network_of
from keys.shared_locks import SharedLocks

WAYS: Final = 8
WORKERS: Final = 576  # twice as many as may be set, for those that are leaving, and some
CONCURRENT_RETRY_SECONDS: Final = 1.0
LOCKS: Final = 64  # one for every so many sets
_HEAD: Final = Struct("<16s6dI")  # owner, when each bucket is full again, when it was last, requests under way
_CELL: Final = Struct("<H")  # of those, one worker's
_COLUMNS: Final = Struct("<H")  # how many were ever taken, behind the cells
_ENTRY_BYTES: Final = _HEAD.size
_EMPTY: Final = (b"", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
Later = Callable[[float, Callable[[], None]], object]
"""Calls something after so many seconds, in the thread that the table belongs to."""


@lru_cache(maxsize=8_192)
def owner_of(kind: str, name: str) -> bytes:
    return blake2b(f"{kind}\0{name}".encode(), digest_size=16).digest()


@lru_cache(maxsize=8_192)
def owner_of_address(address: str) -> bytes:
    return owner_of("address", network_of(address))


def _refusal(
    limits: Limits, count: int, full_at: tuple[float, float, float], tokens: float, now: float
) -> LimitExceeded:
    """By the limit that makes the request wait longest."""
    waits = [(CONCURRENT_RETRY_SECONDS, CONCURRENT)] if limits.concurrent and count >= limits.concurrent else []
    buckets = ((limits.second, 1.0, SECOND), (limits.minute, 1.0, MINUTE), (limits.tokens, tokens, TOKENS))
    for at, (bucket, amount, which) in zip(full_at, buckets, strict=True):
        if bucket is not None:
            waits.append((bucket.wait(at, amount, now), which))
    wait, which = max(waits, key=lambda one: one[0])
    return LimitExceeded(limits, which, retry_after_seconds=wait)


class LimitTable:
    """Belongs to one thread of each process."""

    def __init__(self, sets: int = 4_096) -> None:
        self._sets = sets
        self._memory = mmap(-1, sets * WAYS * _ENTRY_BYTES)
        self._column_bytes = sets * WAYS * _CELL.size
        self._cells = mmap(-1, WORKERS * self._column_bytes + _COLUMNS.size)  # column by column: most stay untouched
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())  # to close any descriptor of it would end this process's locks
        self._locks = SharedLocks(LOCKS)
        self.name = os.urandom(8)
        """Of this table, whichever process looks at it."""
        self._worker = -1
        self._leases: dict[bytes, Lease] = {}
        self._later: Later | None = None
        self._is_swept = False
        os.register_at_fork(after_in_child=self._forked)

    def lease_by(self, later: Later | None) -> None:
        """From now on this process may take some ahead; `later` calls back to give back what is not used. None: no
        longer."""
        self._later, self._is_swept = later, False
        if later is None:
            self.sweep(inf)

    def enter(self, limits: Limits, tokens: float, now: float) -> Lease:
        """As `enter_all`."""
        return self.enter_all((limits,), tokens, now)[0]

    def enter_all(self, all_limits: Iterable[Limits], tokens: float, now: float) -> list[Lease]:
        """Lets one request in, which may take so many tokens. Raises LimitExceeded, and then nothing has changed. Must
        be followed by `leave_all`."""
        entered: list[Lease] = []
        for limits in all_limits:
            lease = self._leases.get(limits.owner)
            if (
                lease is not None
                and lease.passes > 0
                and lease.tokens >= tokens
                and now < lease.until
                and lease.limits is limits
            ):
                lease.passes -= 1
                lease.tokens -= tokens
            else:
                try:
                    lease = self._enter(limits, lease, tokens, now)
                except LimitExceeded:
                    for one in entered:
                        self.leave(one.limits, -tokens, now, undo=True)
                    raise
            entered.append(lease)
        return entered

    def _enter(self, limits: Limits, lease: Lease | None, tokens: float, now: float) -> Lease:
        """By the table, unless there are more passes. `lease`: the owner's, which cannot let it in at once."""
        is_good = lease is not None and lease.limits is limits and now < lease.until and lease.tokens >= tokens
        if lease is not None and is_good and lease.fill():
            lease.passes -= 1
            lease.tokens -= tokens
            return lease
        if self._worker < 0:
            self._claim()
        one_set = int.from_bytes(limits.owner[:8], "little") % self._sets
        self._locks.acquire(one_set % LOCKS)
        try:
            if lease is not None:
                self._give_back(lease, now)
            return self._let_in(limits, tokens, now, one_set, is_hot=lease is not None and now < lease.until)
        finally:
            self._locks.release(one_set % LOCKS)

    def _let_in(self, limits: Limits, tokens: float, now: float, one_set: int, *, is_hot: bool) -> Lease:
        place = self._find(one_set, limits.owner)
        entry = _HEAD.unpack_from(self._memory, place) if place >= 0 else _EMPTY
        _, second_at, minute_at, tokens_at, second_full_at, minute_full_at, tokens_full_at, count = entry
        if limits.concurrent and count >= limits.concurrent:
            count = self._living(place)
            _HEAD.pack_into(self._memory, place, *entry[:-1], count)
        second, minute, per_minute = limits.second, limits.minute, limits.tokens
        if (
            (limits.concurrent and count >= limits.concurrent)
            or (second is not None and second.wait(second_at, 1.0, now))
            or (minute is not None and minute.wait(minute_at, 1.0, now))
            or (per_minute is not None and per_minute.wait(tokens_at, tokens, now))
        ):
            raise _refusal(limits, count, (second_at, minute_at, tokens_at), tokens, now)
        if second is not None:
            second_full_at = now if second_at <= now else second_full_at
            second_at = second.taken(second_at, 1.0, now)
        if minute is not None:
            minute_full_at = now if minute_at <= now else minute_full_at
            minute_at = minute.taken(minute_at, 1.0, now)
        if per_minute is not None:
            tokens_full_at = now if tokens_at <= now else tokens_full_at
            tokens_at = per_minute.taken(tokens_at, tokens, now)
        if place < 0:
            place = self._make_room(one_set, now)
        lease = Lease(limits, now, (second_at, minute_at, tokens_at), tokens_full_at)
        calls = 1 if limits.concurrent else 0
        if self._later is not None:
            if is_hot:
                calls += lease.take_ahead(count + calls, tokens, now)
            self._keep(lease)
        if calls:
            count += calls
            self._count(place, calls)
        full_at = (second_full_at, minute_full_at, tokens_full_at)
        _HEAD.pack_into(self._memory, place, limits.owner, *lease.full_at, *full_at, count)
        return lease

    def adopt(self, limits: Limits, full_at: tuple[float, float, float], calls: int, now: float) -> None:
        """What was let in elsewhere: buckets that are full again no sooner than that, and so many more requests under
        way, each of which must be followed by `leave`."""
        if self._worker < 0:
            self._claim()
        one_set = int.from_bytes(limits.owner[:8], "little") % self._sets
        self._locks.acquire(one_set % LOCKS)
        try:
            place = self._find(one_set, limits.owner)
            if place < 0:
                place = self._make_room(one_set, now)
            _, second_at, minute_at, tokens_at, *full, count = _HEAD.unpack_from(self._memory, place)
            if calls:
                self._count(place, calls)
            known = map(max, (second_at, minute_at, tokens_at), full_at)
            _HEAD.pack_into(self._memory, place, limits.owner, *known, *full, count + calls)
        finally:
            self._locks.release(one_set % LOCKS)

    def leave(self, limits: Limits, more_tokens: float, now: float, *, since: float = inf, undo: bool = False) -> None:
        """The request that was let in at `since` is over. `more_tokens` than `enter` was told; negative: fewer, which
        come back unless the bucket was full in the meantime. `undo`: it was none."""
        lease = self._leases.get(limits.owner)
        if lease is not None and lease.most_calls and now < lease.until and lease.limits is limits and not undo:
            if more_tokens > 0 or since >= lease.tokens_full_at:
                lease.tokens -= more_tokens
            lease.ended += 1
            lease.count()
            if lease.calls > lease.most_calls:
                self._end(lease, now)
        elif limits.concurrent or undo or (limits.tokens is not None and more_tokens):
            number = int.from_bytes(limits.owner[:8], "little") % self._sets % LOCKS
            self._locks.acquire(number)
            try:
                self._put_back(limits, 1.0 if undo else 0.0, -more_tokens, 1 if limits.concurrent else 0, now, since)
            finally:
                self._locks.release(number)

    def leave_all(self, entered: Iterable[Lease], more_tokens: float, since: float) -> None:
        """As `leave`, of all that `enter_all` told."""
        for lease in entered:
            if lease.most_calls:
                lease.ended += 1
                lease.tokens -= more_tokens
            else:  # it was given back before
                self.leave(lease.limits, more_tokens, monotonic(), since=since)

    def take_back(self, lease: Lease, passes: int, tokens: float, ended: int) -> None:
        """What an allowance has left of a lease, and how many of its requests are over."""
        if lease.most_calls:
            lease.passes += passes
            lease.tokens += tokens
            lease.ended += ended
            return
        limits = lease.limits  # the lease was given back before
        number = int.from_bytes(limits.owner[:8], "little") % self._sets % LOCKS
        self._locks.acquire(number)
        try:
            calls = passes + ended if limits.concurrent else 0
            self._put_back(limits, passes, tokens, calls, monotonic(), lease.since)
        finally:
            self._locks.release(number)

    def _put_back(self, limits: Limits, requests: float, tokens: float, calls: int, now: float, since: float) -> None:
        """Into buckets that were not full since it was taken, at `since`; negative: takes more. Holds the lock."""
        one_set = int.from_bytes(limits.owner[:8], "little") % self._sets
        place = self._find(one_set, limits.owner)
        if place < 0:
            return
        entry = _HEAD.unpack_from(self._memory, place)
        _, second_at, minute_at, tokens_at, second_full_at, minute_full_at, tokens_full_at, count = entry
        if limits.tokens is not None:
            if tokens < 0:
                tokens_full_at = now if tokens_at <= now else tokens_full_at
                tokens_at = limits.tokens.taken(tokens_at, -tokens, now)
            elif tokens_full_at <= since:
                tokens_at -= tokens * limits.tokens.unit
        if requests and limits.second is not None and second_full_at <= since:
            second_at -= requests * limits.second.unit
        if requests and limits.minute is not None and minute_full_at <= since:
            minute_at -= requests * limits.minute.unit
        if calls:
            count = max(count + self._count(place, -calls), 0)
        at = (second_at, minute_at, tokens_at, second_full_at, minute_full_at, tokens_full_at)
        _HEAD.pack_into(self._memory, place, limits.owner, *at, count)

    # -- taken ahead ---------------------------------------------------------------------------------------------------
    def _keep(self, lease: Lease) -> None:
        self._leases[lease.limits.owner] = lease
        if not self._is_swept and self._later is not None:
            self._is_swept = True
            self._later(LEASE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._is_swept = False
        self.sweep(monotonic())
        if self._leases and self._later is not None:
            self._is_swept = True
            self._later(LEASE_SECONDS, self._sweep)

    def sweep(self, now: float) -> None:
        """Gives back what is left of leases that ended."""
        for lease in [one for one in self._leases.values() if now >= one.until]:
            self._end(lease, min(now, monotonic()))

    def _end(self, lease: Lease, now: float) -> None:
        if not lease.most_calls:
            del self._leases[lease.limits.owner]
            return
        number = int.from_bytes(lease.limits.owner[:8], "little") % self._sets % LOCKS
        self._locks.acquire(number)
        try:
            self._give_back(lease, now)
        finally:
            self._locks.release(number)

    def _give_back(self, lease: Lease, now: float) -> None:
        """Holds the lock."""
        del self._leases[lease.limits.owner]
        if lease.most_calls:
            lease.count()
            requests, tokens, calls = (one if one < inf else 0.0 for one in (lease.requests, lease.tokens, lease.calls))
            lease.close()
            self._put_back(lease.limits, requests, tokens, int(calls), now, lease.since)

    # -- entries -------------------------------------------------------------------------------------------------------
    def _find(self, one_set: int, owner: bytes) -> int:
        """The place of the owner's entry; -1 where there is none."""
        first = one_set * WAYS * _ENTRY_BYTES
        return self._memory.find(owner, first, first + WAYS * _ENTRY_BYTES)  # random bytes stand nowhere else

    def _make_room(self, one_set: int, now: float) -> int:
        """An entry with nothing under way whose buckets are full again the soonest, emptied."""
        first = one_set * WAYS * _ENTRY_BYTES
        places = range(first, first + WAYS * _ENTRY_BYTES, _ENTRY_BYTES)

        def worth(place: int) -> tuple[int, float]:
            _, second_at, minute_at, tokens_at, *_, count = _HEAD.unpack_from(self._memory, place)
            return min(count, 1), max(second_at, minute_at, tokens_at)

        place = min(places, key=worth)
        if worth(place)[0]:  # nothing but requests under way: perhaps of workers that are dead
            for one in places:
                owner, *full_at, _ = _HEAD.unpack_from(self._memory, one)
                _HEAD.pack_into(self._memory, one, owner, *full_at, self._living(one))
            place = min(places, key=worth)
        self._memory[place : place + _ENTRY_BYTES] = bytes(_ENTRY_BYTES)
        for worker in range(self._columns()):
            _CELL.pack_into(self._cells, self._cell(place, worker), 0)
        return place

    def _forked(self) -> None:
        self._worker = -1
        self._leases.clear()  # another process's
        self._later, self._is_swept = None, False

    # -- requests under way --------------------------------------------------------------------------------------------
    def _count(self, place: int, change: int) -> int:
        """Changes this worker's own; by how many, for it has not less than none."""
        cell = self._cell(place, self._worker)
        (count,) = _CELL.unpack_from(self._cells, cell)
        change = max(change, -count)
        _CELL.pack_into(self._cells, cell, count + change)
        return change

    def _cell(self, place: int, worker: int) -> int:
        return worker * self._column_bytes + place // _ENTRY_BYTES * _CELL.size

    def _columns(self) -> int:
        """Of living and dead workers; behind them nobody ever was."""
        return int(_COLUMNS.unpack_from(self._cells, WORKERS * self._column_bytes)[0])

    def _living(self, place: int) -> int:
        """How many there are, after those of dead workers were taken out."""
        total = 0
        for worker in range(self._columns()):
            cell = self._cell(place, worker)
            (count,) = _CELL.unpack_from(self._cells, cell)
            if count and worker != self._worker and self._lock_worker(worker):
                _CELL.pack_into(self._cells, cell, 0)
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, worker)
                count = 0
            total += count
        return total

    def _claim(self) -> None:
        """A column for this process, for as long as it lives; what is left in it of another one goes."""
        for worker in range(WORKERS):
            if self._lock_worker(worker):
                break
        else:
            raise RuntimeError(f"more than {WORKERS} workers share one table of limits")
        self._locks.acquire(0)
        if worker >= self._columns():
            _COLUMNS.pack_into(self._cells, WORKERS * self._column_bytes, worker + 1)
        self._locks.release(0)
        self._worker = worker
        column = self._cells[worker * self._column_bytes : (worker + 1) * self._column_bytes]
        for entry, (found,) in enumerate(_CELL.iter_unpack(column)):
            if found:
                self._locks.acquire(entry // WAYS % LOCKS)
                place = entry * _ENTRY_BYTES
                owner, *full_at, count = _HEAD.unpack_from(self._memory, place)
                (left,) = _CELL.unpack_from(self._cells, self._cell(place, worker))
                _CELL.pack_into(self._cells, self._cell(place, worker), 0)
                _HEAD.pack_into(self._memory, place, owner, *full_at, max(count - left, 0))
                self._locks.release(entry // WAYS % LOCKS)

    def _lock_worker(self, worker: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, worker)
        except OSError:
            return False
        return True


class Addresses:
    """Requests a second of each client address: `rate` on average, `burst` at once, by all workers together. A rate of
    0 lets all pass. Without locks: of two workers that count in the same microsecond, one may be lost."""

    ENTRY: Final = Struct("<16sd")

    def __init__(self, memory: mmap, *, rate: float, burst: int) -> None:
        self._memory = memory
        self._sets = len(memory) // (WAYS * self.ENTRY.size)
        self.bucket = Bucket(rate, float(max(burst, 1))) if rate else None
        self.whole = self.bucket

    def share(self, hosts: int) -> None:
        """From now on this is one of so many hosts, which know nothing of each other."""
        self.bucket = self.whole.share(hosts) if self.whole is not None else None

    def take(self, address: str, now: float) -> float:
        """0.0 and one taken, or the seconds until there is one."""
        bucket = self.bucket
        if bucket is None:
            return 0.0
        place, full_at = self._find(address)
        if wait := bucket.wait(full_at, 1.0, now):
            return wait
        self.ENTRY.pack_into(self._memory, place, owner_of_address(address), bucket.taken(full_at, 1.0, now))
        return 0.0

    def learn(self, address: str, full_at: float) -> None:
        """Its bucket is full again no sooner than that: what other hosts have let in."""
        place, known = self._find(address)
        self.ENTRY.pack_into(self._memory, place, owner_of_address(address), max(known, full_at))

    def _find(self, address: str) -> tuple[int, float]:
        """Its place, or that of the one that is full again the soonest; and when its bucket is full again."""
        owner, memory, size = owner_of_address(address), self._memory, self.ENTRY.size
        first = int.from_bytes(owner[:8], "little") % self._sets * WAYS * size
        oldest, room = 1e300, first
        for place in range(first, first + WAYS * size, size):
            found, full_at = self.ENTRY.unpack_from(memory, place)
            if found == owner:
                return place, full_at
            if full_at < oldest:
                oldest, room = full_at, place
        return room, 0.0


TABLE: Final = LimitTable()
ADDRESS_MEMORY: Final = mmap(-1, 16_384 * WAYS * Addresses.ENTRY.size)
"""Of this machine's workers."""
