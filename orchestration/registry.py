"""Every mode by its name: those that clients may ask for, and the one of a chat. Pure."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Final

from orchestration import modes
from orchestration.chat import CHAT
from orchestration.steps import Directive, Mode


def _found() -> dict[str, Mode]:
    modules = [import_module(f"{modes.__name__}.{one.name}") for one in pkgutil.iter_modules(modes.__path__)]
    return {module.MODE.name: module.MODE for module in modules}


MODES: Final[dict[str, Mode]] = _found()


def mode_of(run: Directive) -> Mode:
    return CHAT if run.mode == CHAT.name else MODES[run.mode]
