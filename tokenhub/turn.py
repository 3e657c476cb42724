"""One order of locks for all who change the configuration: whoever does takes the turn, then locks rows, and whoever
has the turn may lock as many rows as there are, in any order. The turn lasts until the transaction ends. It costs no
concurrency: each change raises the version in the same row, so one waited for the other's end before, too.

Rows that are saved or deleted take it by themselves (routing/changes.py); whoever locks or reads them before calls
`take`. Imports no app: what is locked comes from TAKEN, which is filled from above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

TAKEN: Final[list[Callable[[], None]]] = []
"""Each locks what it knows, in the transaction that is open."""


def take() -> None:
    """To be called in a transaction, before it locks any row; again is no harm. Raises DatabaseError."""
    for lock in TAKEN:
        lock()
