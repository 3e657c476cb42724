"""Locks between forked processes: they exclude, and outlive whoever is killed while holding one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from mmap import mmap
from struct import Struct

import pytest

from keys import shared_locks
from keys.shared_locks import SharedLocks

COUNT = Struct("<Q")


def forked(work: Callable[[], object]) -> int:
    if pid := os.fork():
        return pid
    try:
        work()
    finally:
        os._exit(0)


def test_no_two_processes_hold_the_same_lock() -> None:
    locks, memory, each = SharedLocks(2), mmap(-1, 16), 3_000

    def count() -> None:
        for _ in range(each):
            locks.acquire(1)
            (seen,) = COUNT.unpack_from(memory, 0)
            if seen % 500 == 0:
                time.sleep(0)  # so that others come in between, if they can
            COUNT.pack_into(memory, 0, seen + 1)
            locks.release(1)

    children = [forked(count) for _ in range(4)]
    for child in children:
        os.waitpid(child, 0)
    assert COUNT.unpack_from(memory, 0) == (4 * each,)


@pytest.mark.parametrize("reaped", [True, False])
def test_whoever_is_killed_while_holding_a_lock_leaves_it_to_others(
    reaped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead process that nobody has waited for yet still has its number: then time tells."""
    monkeypatch.setattr(shared_locks, "STUCK_SECONDS", 0.3)
    locks, memory = SharedLocks(1), mmap(-1, 16)

    def hold() -> None:
        locks.acquire(0)
        memory[0:1] = b"x"
        signal.pause()

    child = forked(hold)
    while memory[0:1] != b"x":
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    if reaped:
        os.waitpid(child, 0)
    try:
        waiting = [forked(lambda: take_and_count(locks, memory)) for _ in range(3)]
        for one in waiting:
            os.waitpid(one, 0)
        assert COUNT.unpack_from(memory, 8) == (3,)
        locks.acquire(0)
        locks.release(0)
    finally:
        if not reaped:
            os.waitpid(child, 0)


def take_and_count(locks: SharedLocks, memory: mmap) -> None:
    locks.acquire(0)
    (seen,) = COUNT.unpack_from(memory, 8)
    time.sleep(0.01)
    COUNT.pack_into(memory, 8, seen + 1)
    locks.release(0)
