"""What holds for all tests: how many at a time and in which order, and what they share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import once

settings.register_profile("tokenhub", deadline=None)  # a busy machine is no defect
settings.load_profile("tokenhub")
SHARED = pytest.StashKey[str]()
FIRST = (
    "gateway", "browser", "test_docs_examples.py", "orchestration", "deploy", "jobs", "agents", "tokenhub", "vault",
    "admin", "adminapi",
)  # fmt: skip
"""Folders, and a file beside them, whose modules take longest: no worker is left alone with one of them at the end."""


def pytest_xdist_auto_num_workers() -> int:
    """More than there are cores: most of the time, a test waits for the servers that it started."""
    return 2 * (os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    # a run starts hundreds of processes of Python, and none of them shall compile everything anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if once.VARIABLE not in os.environ:  # the process that starts the others
        config.stash[SHARED] = os.environ[once.VARIABLE] = tempfile.mkdtemp(prefix="tokenhub-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(SHARED, None):
        del os.environ[once.VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return FIRST.index(folder) if folder in FIRST else len(FIRST)

    items.sort(key=place)  # keeps modules together, and the order within them
