"""When client keys were used last, from the journal; written at most once a minute for each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from django.db.models import Q

from keys.models import ClientKey
from telemetry.journal import Entry

EVERY_SECONDS: Final = 60.0
UUID_LENGTH: Final = 36
MAX_REMEMBERED: Final = 100_000


class LastUse:
    """One per process that reads journals."""

    def __init__(self) -> None:
        self._written: dict[str, float] = {}

    def note(self, entries: Sequence[Entry]) -> None:
        seen: dict[str, float] = {}
        for entry in entries:
            if len(entry.key_id) == UUID_LENGTH:
                seen[entry.key_id] = max(seen.get(entry.key_id, 0.0), entry.at / 1e6)
        for key_id, at in seen.items():
            if at - self._written.get(key_id, 0.0) < EVERY_SECONDS:
                continue
            if len(self._written) >= MAX_REMEMBERED:
                self._written.clear()
            self._written[key_id] = at
            moment = datetime.fromtimestamp(at, UTC)
            older = Q(last_used_at__isnull=True) | Q(last_used_at__lt=moment)
            ClientKey.objects.filter(older, pk=key_id).update(last_used_at=moment)  # no news for the data plane
