"""Locks between processes that were forked from one. A free lock is taken without a system call, and without giving up
the interpreter's own lock, which other threads would seize: a kernel lock costs a busy worker ten times its price.

Semaphores outlive who holds them, so each lock's holder is written down. Whoever waits for one that is dead, or that
has not moved for seconds, takes its place; a kernel lock, which ends with its process, sees to it that only one does.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from _multiprocessing import SemLock
from mmap import mmap
from secrets import token_hex
from struct import Struct
from time import monotonic
from typing import Final

_SEMAPHORE: Final = 1  # the kind that any thread may release
_HOLDER: Final = Struct("<II")  # its process, and how often that took a lock
_NOBODY: Final = (0, 0)
LOOK_SECONDS: Final = 0.02
STUCK_SECONDS: Final = 2.0  # what they guard takes microseconds


class SharedLocks:
    """Belongs to one thread of each process. Not reentrant."""

    def __init__(self, count: int) -> None:
        self._semaphores = [SemLock(_SEMAPHORE, 1, 1, f"/tokenhub-{token_hex(8)}", True) for _ in range(count)]
        self._holders = mmap(-1, count * _HOLDER.size)
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())  # to close any descriptor of it would end this process's locks
        self._taken = 0
        self._pid = os.getpid()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._pid = os.getpid()

    def acquire(self, number: int) -> None:
        if not self._semaphores[number].acquire(False):
            self._wait(number)
        self._taken = self._taken + 1 & 0xFFFFFFFF
        _HOLDER.pack_into(self._holders, number * _HOLDER.size, self._pid, self._taken)

    def release(self, number: int) -> None:
        _HOLDER.pack_into(self._holders, number * _HOLDER.size, 0, 0)
        self._semaphores[number].release()

    def _wait(self, number: int) -> None:
        """Until the lock is this process's, though its holder is not written down yet."""
        seen, since = self._holder(number), monotonic()
        while not self._semaphores[number].acquire(True, LOOK_SECONDS):
            holder = self._holder(number)
            if holder != seen:
                seen, since = holder, monotonic()
            is_dead = holder != _NOBODY and not _lives(holder[0])
            if (is_dead or monotonic() - since > STUCK_SECONDS) and self._inherit(number, holder):
                return

    def _inherit(self, number: int, holder: tuple[int, int]) -> bool:
        """Takes the place of a holder who will never release; False where somebody else did."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, number)
        try:
            if self._holder(number) != holder:
                return False
            _HOLDER.pack_into(self._holders, number * _HOLDER.size, self._pid, 0)
            return True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def _holder(self, number: int) -> tuple[int, int]:
        pid, taken = _HOLDER.unpack_from(self._holders, number * _HOLDER.size)
        return pid, taken


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
