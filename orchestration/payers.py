"""Who pays for a run that goes on without its client. Belongs to the event loop."""

from __future__ import annotations

from time import time

from keys.auth import KeyRecord
from routing.errors import ApiError
from routing.runtime import Runtime
from routing.snapshot import Snapshot


class Payers:
    def __init__(self, held: Runtime) -> None:
        self._runtime = held
        self._keys: tuple[Snapshot | None, dict[str, KeyRecord]] = (None, {})

    def key(self, key_id: str) -> KeyRecord:
        """The key that started a run, as it is by now. Raises ApiError when it may not be used any more."""
        snapshot = self._runtime.snapshot
        if self._keys[0] is not snapshot:
            by_id: dict[str, KeyRecord] = {}
            for record in snapshot.keys.values():  # a replaced secret comes after the new one
                by_id.setdefault(record.id, record)
            self._keys = (snapshot, by_id)
        found = self._keys[1].get(key_id)
        if found is None:
            raise ApiError("invalid_api_key", "The client key that started this plan was revoked.")
        if not found.enabled:
            raise ApiError("disabled_api_key", "The client key that started this plan is disabled.")
        if found.expires_at is not None and time() >= found.expires_at:
            raise ApiError("expired_api_key", "The client key that started this plan has expired.")
        return found
