"""The last events of a host, in a file of fixed size that all its processes map: whoever appends takes the file's lock
and numbers what it adds, so there is one order, a number is never given twice, and a reader sees what it missed.

A file, because it needs no process in the middle that could die or fall behind: workers, commands and the master write
to it alike, a worker may be killed at any byte (the head moves last), and it outlives a restart. Linux keeps the pages
of a shared map coherent between processes; the data folder belongs to one host anyway."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import Final, Protocol

FILE_NAME: Final = "events.ring"
DATA_BYTES: Final = 8 << 20
MAX_EVENT_BYTES: Final = 8192
_MAGIC: Final = b"THEVENT1"
_EPOCH: Final = slice(8, 16)
_HEAD: Final = struct.Struct("<QQ")  # at 16: number of the last event, and where the next one begins
_TAIL: Final = struct.Struct("<QQ")  # at 32: where the oldest event begins, and its number
_UNTIL: Final = struct.Struct("<d")  # at 48: until when somebody listens, wall time
_WANTED: Final = 56
_DATA: Final = 4096
_SIZE: Final = struct.Struct("<I")
Record = tuple[int, bytes]


class Reader(Protocol):
    """One reader's place. `epoch` names the series that the numbers belong to."""

    epoch: str

    def read(self, limit: int) -> list[Record]:
        """The next events, from the oldest on; numbers that are missing were overwritten. May wait for half a second.
        Raises OSError."""


class Store(Protocol):
    """Where events are kept; for one thread. Methods raise OSError."""

    @property
    def wanted(self) -> bytearray | memoryview:
        """Its only item is true while somebody listens."""

    def append(self, payloads: Sequence[bytes]) -> None: ...

    def reader(self) -> Reader: ...

    def listen(self, seconds: float) -> bool:
        """Somebody listens, for so long from now on. Whether nobody did."""

    def refresh(self) -> None:
        """Brings `wanted` up to date."""

    def close(self) -> None: ...


class FileRing:
    """Not to be used across a fork: the lock would be shared with the parent."""

    def __init__(self, folder: Path) -> None:
        """Makes the file if there is none. Raises OSError."""
        path = folder / FILE_NAME
        self._descriptor = _opened(path)
        self._map = mmap.mmap(self._descriptor, _DATA + DATA_BYTES)
        self.wanted = memoryview(self._map)[_WANTED : _WANTED + 1]

    def close(self) -> None:
        self.wanted = memoryview(b"\0")
        self._map.close()
        os.close(self._descriptor)

    @property
    def epoch(self) -> str:
        return self._map[_EPOCH].decode("ascii")

    def append(self, payloads: Sequence[bytes]) -> None:
        with self._locked(fcntl.LOCK_EX):
            self._append(payloads)

    def _append(self, payloads: Sequence[bytes]) -> None:
        number, head = _HEAD.unpack_from(self._map, 16)
        tail, oldest = _TAIL.unpack_from(self._map, 32)
        for payload in payloads:
            end = head + _SIZE.size + len(payload)
            while end - tail > DATA_BYTES:
                tail += _SIZE.size + self._size_at(tail)
                oldest += 1
            _TAIL.pack_into(self._map, 32, tail, oldest)  # before its bytes are gone
            self._put(head, _SIZE.pack(len(payload)) + payload)
            number, head = number + 1, end
            _HEAD.pack_into(self._map, 16, number, head)  # after they are there

    def reader(self) -> FileReader:
        return FileReader(self)

    def listen(self, seconds: float) -> bool:
        with self._locked(fcntl.LOCK_EX):
            was_off = not self._map[_WANTED]
            _UNTIL.pack_into(self._map, 48, max(time() + seconds, _UNTIL.unpack_from(self._map, 48)[0]))
            self._map[_WANTED] = 1
        return was_off

    def refresh(self) -> None:
        if self._map[_WANTED] and _UNTIL.unpack_from(self._map, 48)[0] < time():
            with self._locked(fcntl.LOCK_EX):
                if _UNTIL.unpack_from(self._map, 48)[0] < time():
                    self._map[_WANTED] = 0

    # -- for the reader --------------------------------------------------------------------------------------------
    def has_more(self, position: int) -> bool:
        return bool(_HEAD.unpack_from(self._map, 16)[1] != position)

    def after(self, number: int, position: int, limit: int) -> tuple[list[Record], int]:
        """Up to `limit` events from that place on, and the place after them."""
        found: list[Record] = []
        with self._locked(fcntl.LOCK_SH):
            _, head = _HEAD.unpack_from(self._map, 16)
            tail, oldest = _TAIL.unpack_from(self._map, 32)
            if position < tail:
                number, position = oldest - 1, tail
            while position < head and len(found) < limit:
                number += 1
                size = self._size_at(position)
                found.append((number, self._get(position + _SIZE.size, size)))
                position += _SIZE.size + size
        return found, position

    # -- bytes, around the end ---------------------------------------------------------------------------------------
    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fcntl.flock(self._descriptor, how)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _size_at(self, position: int) -> int:
        return int(_SIZE.unpack(self._get(position, _SIZE.size))[0])

    def _get(self, position: int, size: int) -> bytes:
        start = position % DATA_BYTES
        first = self._map[_DATA + start : _DATA + min(start + size, DATA_BYTES)]
        return first if len(first) == size else first + self._map[_DATA : _DATA + size - len(first)]

    def _put(self, position: int, data: bytes) -> None:
        start = position % DATA_BYTES
        fits = min(len(data), DATA_BYTES - start)
        self._map[_DATA + start : _DATA + start + fits] = data[:fits]
        if fits < len(data):
            self._map[_DATA : _DATA + len(data) - fits] = data[fits:]


class FileReader:
    def __init__(self, ring: FileRing) -> None:
        self._ring = ring
        self._number = 0
        self._position = 0
        self.epoch = ring.epoch

    def read(self, limit: int) -> list[Record]:
        if not self._ring.has_more(self._position):
            return []
        found, self._position = self._ring.after(self._number, self._position, limit)
        if found:
            self._number = found[-1][0]
        return found


def _opened(path: Path) -> int:
    """A descriptor of the file, which is whole whenever it can be seen."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        for _ in range(2):
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                _make(fresh)
                with suppress(FileExistsError):
                    os.link(fresh, path)  # whoever is first wins
                continue
            if os.pread(descriptor, len(_MAGIC), 0) == _MAGIC and os.fstat(descriptor).st_size == _DATA + DATA_BYTES:
                return descriptor
            os.close(descriptor)  # of another version
            _make(fresh)
            fresh.replace(path)
        return os.open(path, os.O_RDWR)
    finally:
        fresh.unlink(missing_ok=True)


def _make(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        header = _MAGIC + secrets.token_hex(4).encode() + _HEAD.pack(0, 0) + _TAIL.pack(0, 1)
        os.pwrite(descriptor, header, 0)
        os.posix_fallocate(descriptor, 0, _DATA + DATA_BYTES)  # a full disk is told here: in a map it would be a signal
    finally:
        os.close(descriptor)
