"""Whoever asks the same again soon after an answer was not satisfied with it. Remembers hashes only, of so many
requests. Pure: `now` is an argument.

Programs repeat themselves, too: what comes sooner than anybody reads, or once more and once more, says nothing."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_REMEMBERED: Final = 10_000
WITHIN_SECONDS: Final = 300.0
SOONEST_SECONDS: Final = 1.0
MOST_REPEATS: Final = 2


def fingerprint(owner: str, system: bytes, turns: bytes) -> int:
    """Of a request, as this process knows it. `owner`: the client key's id."""
    return hash((owner, system, turns))


@dataclass(slots=True)
class _Asked:
    request_id: str
    answered_at: float
    repeats: int = 0


class Repeats:
    """One per process, for answers of that process."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._asked: OrderedDict[int, _Asked] = OrderedDict()

    def asked(self, request: int, now: float) -> str:
        """The id of the answer that is asked for again; empty when there is none. Each is told once."""
        known = self._asked.get(request)
        if known is None:
            return ""
        since = now - known.answered_at
        if since > WITHIN_SECONDS:
            del self._asked[request]
            return ""
        known.repeats += 1
        if since < SOONEST_SECONDS or known.repeats > MOST_REPEATS:
            known.request_id = ""
        found, known.request_id = known.request_id, ""
        return found

    def answered(self, request: int, request_id: str, now: float) -> None:
        known = self._asked.get(request)
        repeats = known.repeats if known is not None and now - known.answered_at <= WITHIN_SECONDS else 0
        self._asked[request] = _Asked(request_id, now, repeats)
        self._asked.move_to_end(request)
        if len(self._asked) > self._limit:
            self._asked.popitem(last=False)
