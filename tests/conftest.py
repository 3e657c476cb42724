"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tokenhub", deadline=None)  # a busy machine is no defect
settings.load_profile("tokenhub")
