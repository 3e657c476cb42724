"""The built-in prompts: a file each, named as the modes call them. What an operator put in their place is in the
database, and comes with the snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

BUILT_IN: Final[Mapping[str, str]] = {
    file.stem: file.read_text(encoding="utf-8").strip() for file in sorted(Path(__file__).parent.glob("*.txt"))
}
