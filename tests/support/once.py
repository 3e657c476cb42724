"""What a whole run of the tests makes once, in whichever of its processes needs it first: a migrated database, a
PostgreSQL cluster. `tests/conftest.py` makes the folder and removes it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

VARIABLE = "TESTS_SHARED_FOLDER"
"""In the environment, so that all processes of a run have the same one."""


def once(name: str, make: Callable[[Path], None]) -> Path:
    """`make(path)` makes a file or a folder there. Everybody else waits for it, and only reads."""
    folder = Path(os.environ[VARIABLE])
    found = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            unfinished = folder / f"{name}.unfinished"
            make(unfinished)
            unfinished.rename(found)
    return found
