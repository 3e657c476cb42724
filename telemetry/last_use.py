"""When rows were used last, from the journal; written at most once a minute for each, after the requests themselves and
in no transaction with them. A kill in between loses the stamp, until the row is used again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models import Q, QuerySet

from telemetry.journal import Entry

EVERY_SECONDS: Final = 60.0
MAX_REMEMBERED: Final = 100_000


class LastUse:
    """One per process that reads journals. `keys_of`: what an entry used; an empty text is nothing. `rows`: of such
    a key."""

    def __init__(self, keys_of: Callable[[Entry], Iterable[str]], rows: Callable[[str], QuerySet[Any]]) -> None:
        self._keys_of = keys_of
        self._rows = rows
        self._written: dict[str, float] = {}

    def note(self, entries: Sequence[Entry]) -> None:
        seen: dict[str, float] = {}
        for entry in entries:
            for key in filter(None, self._keys_of(entry)):
                seen[key] = max(seen.get(key, 0.0), entry.at / 1e6)
        for key, at in seen.items():
            if at - self._written.get(key, 0.0) < EVERY_SECONDS:
                continue
            if len(self._written) >= MAX_REMEMBERED:
                self._written.clear()
            moment = datetime.fromtimestamp(at, UTC)
            older = Q(last_used_at__isnull=True) | Q(last_used_at__lt=moment)
            self._rows(key).filter(older).update(last_used_at=moment)  # no news for the data plane
            self._written[key] = at
