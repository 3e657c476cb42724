"""Rate limits of one host, exact across its workers: a table in memory that the workers share because it was mapped
before they were forked. Whoever changes an entry holds the lock of its set. What a worker that was killed had under way
ends with it: each holds a record lock of the kernel on its column.

An entry that is pushed out of a full set begins anew: a set has eight, and full buckets go first."""

from __future__ import annotations

import fcntl
import os
import tempfile
from functools import lru_cache
from hashlib import blake2b
from mmap import mmap
from struct import Struct
from typing import Final

from keys.limits import CONCURRENT, MINUTE, SECOND, TOKENS, Bucket, LimitExceeded, Limits, Standings
from keys.shared_locks import SharedLocks

WAYS: Final = 8
WORKERS: Final = 64
CONCURRENT_RETRY_SECONDS: Final = 1.0
LOCKS: Final = 64  # one for every so many sets
_HEAD: Final = Struct("<16s3dI")  # owner, when each bucket is full again, requests under way
_CELL: Final = Struct("<H")  # of those, one worker's
_ENTRY_BYTES: Final = _HEAD.size + WORKERS * _CELL.size
_EMPTY: Final = (b"", 0.0, 0.0, 0.0, 0)


@lru_cache(maxsize=8_192)
def owner_of(kind: str, name: str) -> bytes:
    return blake2b(f"{kind}\0{name}".encode(), digest_size=16).digest()


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
    return LimitExceeded(limits, limits.what(which), retry_after_seconds=wait)


class LimitTable:
    """Belongs to one thread of each process."""

    def __init__(self, sets: int = 4_096) -> None:
        self._sets = sets
        self._memory = mmap(-1, sets * WAYS * _ENTRY_BYTES)
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())  # to close any descriptor of it would end this process's locks
        self._locks = SharedLocks(LOCKS)
        self.name = os.urandom(8)
        """Of this table, whichever process looks at it."""
        self._worker = -1
        os.register_at_fork(after_in_child=self._forked)

    def enter(self, limits: Limits, tokens: float, now: float) -> Standings:
        """Lets one request in, which may take so many tokens. Raises LimitExceeded, and then nothing has changed. Must
        be followed by `leave`."""
        if self._worker < 0:
            self._claim()
        one_set = int.from_bytes(limits.owner[:8], "little") % self._sets
        self._locks.acquire(one_set % LOCKS)
        try:
            place = self._find(one_set, limits.owner)
            _, second_at, minute_at, tokens_at, count = _HEAD.unpack_from(self._memory, place) if place >= 0 else _EMPTY
            if limits.concurrent and count >= limits.concurrent:
                count = self._living(place)
                _HEAD.pack_into(self._memory, place, limits.owner, second_at, minute_at, tokens_at, count)
            second, minute, per_minute = limits.second, limits.minute, limits.tokens
            if (
                (limits.concurrent and count >= limits.concurrent)
                or (second is not None and second.wait(second_at, 1.0, now))
                or (minute is not None and minute.wait(minute_at, 1.0, now))
                or (per_minute is not None and per_minute.wait(tokens_at, tokens, now))
            ):
                raise _refusal(limits, count, (second_at, minute_at, tokens_at), tokens, now)
            if second is not None:
                second_at = second.taken(second_at, 1.0, now)
            if minute is not None:
                minute_at = minute.taken(minute_at, 1.0, now)
            if per_minute is not None:
                tokens_at = per_minute.taken(tokens_at, tokens, now)
            if place < 0:
                place = self._make_room(one_set, now)
            if limits.concurrent:
                count += 1
                self._count(place, 1)
            _HEAD.pack_into(self._memory, place, limits.owner, second_at, minute_at, tokens_at, count)
        finally:
            self._locks.release(one_set % LOCKS)
        return limits.standings((second_at, minute_at, tokens_at), now)

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
            _, *known, count = _HEAD.unpack_from(self._memory, place)
            if calls:
                self._count(place, calls)
            _HEAD.pack_into(self._memory, place, limits.owner, *map(max, known, full_at), count + calls)
        finally:
            self._locks.release(one_set % LOCKS)

    def leave(self, limits: Limits, more_tokens: float, now: float, *, undo: bool = False) -> None:
        """The request is over. `more_tokens` than `enter` was told; negative: fewer. `undo`: it was none."""
        if not (limits.concurrent or undo or (limits.tokens is not None and more_tokens)):
            return
        one_set = int.from_bytes(limits.owner[:8], "little") % self._sets
        self._locks.acquire(one_set % LOCKS)
        try:
            place = self._find(one_set, limits.owner)
            if place < 0:
                return
            _, second_at, minute_at, tokens_at, count = _HEAD.unpack_from(self._memory, place)
            if limits.tokens is not None:
                if more_tokens > 0:
                    tokens_at = limits.tokens.taken(tokens_at, more_tokens, now)
                else:
                    tokens_at += more_tokens / limits.tokens.rate
            if undo:
                second_at -= 1.0 / limits.second.rate if limits.second is not None else 0.0
                minute_at -= 1.0 / limits.minute.rate if limits.minute is not None else 0.0
            if limits.concurrent and self._count(place, -1):
                count = max(count - 1, 0)
            _HEAD.pack_into(self._memory, place, limits.owner, second_at, minute_at, tokens_at, count)
        finally:
            self._locks.release(one_set % LOCKS)

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
            _, *full_at, count = _HEAD.unpack_from(self._memory, place)
            return min(count, 1), max(full_at)

        place = min(places, key=worth)
        if worth(place)[0]:  # nothing but requests under way: perhaps of workers that are dead
            for one in places:
                owner, *full_at, _ = _HEAD.unpack_from(self._memory, one)
                _HEAD.pack_into(self._memory, one, owner, *full_at, self._living(one))
            place = min(places, key=worth)
        self._memory[place : place + _ENTRY_BYTES] = bytes(_ENTRY_BYTES)
        return place

    def _forked(self) -> None:
        self._worker = -1

    # -- requests under way --------------------------------------------------------------------------------------------
    def _count(self, place: int, change: int) -> bool:
        """Changes this worker's own; False where it had none."""
        cell = place + _HEAD.size + self._worker * _CELL.size
        (count,) = _CELL.unpack_from(self._memory, cell)
        if count + change < 0:
            return False
        _CELL.pack_into(self._memory, cell, count + change)
        return True

    def _living(self, place: int) -> int:
        """How many there are, after those of dead workers were taken out."""
        total = 0
        for worker in range(WORKERS):
            cell = place + _HEAD.size + worker * _CELL.size
            (count,) = _CELL.unpack_from(self._memory, cell)
            if count and worker != self._worker and self._lock_worker(worker):
                _CELL.pack_into(self._memory, cell, 0)
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
        self._worker = worker
        for place in range(0, len(self._memory), _ENTRY_BYTES):
            cell = place + _HEAD.size + worker * _CELL.size
            if self._memory[cell : cell + _CELL.size] != b"\0\0":
                one_set = place // (WAYS * _ENTRY_BYTES)
                self._locks.acquire(one_set % LOCKS)
                owner, *full_at, count = _HEAD.unpack_from(self._memory, place)
                (left,) = _CELL.unpack_from(self._memory, cell)
                _CELL.pack_into(self._memory, cell, 0)
                _HEAD.pack_into(self._memory, place, owner, *full_at, max(count - left, 0))
                self._locks.release(one_set % LOCKS)

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
        self.ENTRY.pack_into(self._memory, place, owner_of("address", address), bucket.taken(full_at, 1.0, now))
        return 0.0

    def learn(self, address: str, full_at: float) -> None:
        """Its bucket is full again no sooner than that: what other hosts have let in."""
        place, known = self._find(address)
        self.ENTRY.pack_into(self._memory, place, owner_of("address", address), max(known, full_at))

    def _find(self, address: str) -> tuple[int, float]:
        """Its place, or that of the one that is full again the soonest; and when its bucket is full again."""
        owner, memory, size = owner_of("address", address), self._memory, self.ENTRY.size
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
