"""What holds for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("tokenhub", deadline=None)  # a busy machine is no defect
settings.load_profile("tokenhub")


def pytest_xdist_auto_num_workers() -> int:
    """More than there are cores: a quarter of the time, tests wait for the servers that they started."""
    cores = os.cpu_count() or 1
    return cores + (cores + 1) // 2
