"""Work in a child process that was forked from the test's own, and ends with it."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> int:
    """Its process id; whoever calls waits for it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def passed_in_children(count: int, work: Callable[[], int]) -> int:
    """The sum of what `work` tells, once in each of so many children."""
    reader, writer = os.pipe()
    children = [in_child(lambda: os.write(writer, f"{work()}\n".encode())) for _ in range(count)]
    for child in children:
        os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as told:
        return sum(map(int, told.read().split()))
