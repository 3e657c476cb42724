"""When a target or a provider rests, and when it may be asked again. Pure: time is an argument, in seconds of a steady
clock.

    closed ──5 errors in a row──▶ open ──rest is over──▶ half open: one trial at a time
       ▲                           ▲                        │
       └────────── success ────────┼────────────────────────┤
                                   └─────── failure ────────┘

What several processes know of rests can be merged in any order, and more than once."""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import Final

DEGRADED_AFTER: Final = 2
DOWN_AFTER: Final = 5
DOWN_SECONDS: Final = 30.0
TRIAL_SECONDS: Final = 60.0  # a trial that takes longer no longer holds others back
MAX_SPANS: Final = 8

DOWN: Final = "down"
AUTH: Final = "auth"
RATE_LIMITED: Final = "rate_limited"


class State(IntEnum):
    DOWN = 0
    DEGRADED = 1
    HEALTHY = 2


class Rests:
    """The rests of one target for one reason, and the last recovery from them. Only a recovery from what began before
    it shortens a rest. `errors_left`: of the recovery; above 0 for half of one, see `Circuit.recover`."""

    __slots__ = ("errors_left", "recovered_at", "spans")

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []
        self.recovered_at = -inf
        self.errors_left = 0

    def rest(self, began: float, until: float) -> bool:
        """Whether that was news. Kept are those spans that no other one outlasts from a later beginning."""
        if began <= self.recovered_at or any(begin >= began and end >= until for begin, end in self.spans):
            return False
        spans = [one for one in self.spans if (one[0] > began or one[1] > until) and one[1] > began]
        spans.append((began, until))
        if len(spans) > MAX_SPANS:
            spans.sort(key=lambda one: one[1])
            (first, _), (second, end) = spans[:2]
            spans[:2] = [(max(first, second), end)]
        self.spans = spans
        return True

    def recover(self, at: float, errors_left: int = 0) -> bool:
        """Ends what began by then. Whether that was news."""
        if (at, -errors_left) <= (self.recovered_at, -self.errors_left):
            return False
        self.recovered_at, self.errors_left = at, errors_left
        self.spans = [one for one in self.spans if one[0] > at]
        return True

    @property
    def longest(self) -> tuple[float, float] | None:
        return max(self.spans, key=lambda one: one[1], default=None)


class Circuit:
    """Of a target, or of a provider as a whole."""

    __slots__ = (
        "consecutive_errors", "is_open", "last_error", "last_error_at", "last_success_at", "opened_at", "rest_reason",
        "rest_until", "rests", "told", "trial_until", "troubled",
    )  # fmt: skip

    def __init__(self) -> None:
        self.consecutive_errors = 0
        self.is_open = False
        self.opened_at = -inf
        self.rest_until = 0.0
        self.rest_reason = ""
        self.rests: dict[str, Rests] = {}
        self.trial_until = 0.0
        self.troubled = False
        """There is something to recover from."""
        self.last_error = ""
        self.last_error_at = -inf
        self.last_success_at = -inf
        self.told = State.HEALTHY
        """What others were told of `lasting_state`, or told."""

    def why_not(self, now: float) -> str:
        """Why it is to be left alone at the moment; empty when it may be asked."""
        if now < self.rest_until:
            return self.rest_reason
        return DOWN if self.is_open and now < self.trial_until else ""

    def rest(self, reason: str, began: float, until: float) -> bool:
        """Whether that was news. A rest because it is down opens the circuit."""
        if reason == DOWN:
            self.opened_at = max(self.opened_at, began)
        is_news = self._rests(reason).rest(began, until)
        self._settle()
        return is_news

    def count_error(self, now: float, started: float | None) -> bool:
        """Whether the error speaks against the circuit as it is now: a call that left before the circuit opened says
        nothing new by failing."""
        self.troubled = True
        self.last_error_at = now
        self.consecutive_errors += 1
        return not (self.is_open and started is not None and started < self.opened_at)

    def recover(self, at: float, *, errors_left: int = 0, only: str = "") -> list[str]:
        """What began at `at` went well, which ends the rests that began by then. `errors_left`: it was no call, but
        speaks for one; so many errors in a row still stand, and an open circuit becomes half open. `only`: for that
        reason. Gives the reasons for which that was news."""
        ended = []
        for reason in [only] if only else list(self.rests):
            rests = self._rests(reason)
            spans = len(rests.spans)
            was_open = reason == DOWN and self.is_open and self.opened_at <= at
            if rests.recover(at, errors_left if reason == DOWN else 0) and (was_open or len(rests.spans) != spans):
                ended.append(reason)
        if not only and not self.is_open:
            self.consecutive_errors = 0
        self._settle()
        return ended

    def merge(
        self, reason: str, *, rest: tuple[float, float] | None, recovered_at: float | None, errors_left: int
    ) -> None:
        """What another process tells."""
        if recovered_at is not None:
            self._rests(reason).recover(recovered_at, errors_left)
        if rest is not None:
            self.rest(reason, *rest)
        self._settle()

    def _rests(self, reason: str) -> Rests:
        found = self.rests.get(reason)
        if found is None:
            found = self.rests[reason] = Rests()
        return found

    def _settle(self) -> None:
        """What follows from the rests and recoveries that are known, in whatever order they became known."""
        spans = [(span[1], reason) for reason, rests in self.rests.items() if (span := rests.longest)]
        self.rest_until, self.rest_reason = max(spans, default=(0.0, ""))
        down = self.rests.get(DOWN)
        if down is not None and self.opened_at > -inf:
            if self.opened_at > down.recovered_at:
                self.is_open = True
                self.consecutive_errors = max(self.consecutive_errors, DOWN_AFTER)
            elif down.errors_left:
                self.is_open, self.consecutive_errors = True, down.errors_left
            elif self.is_open or self.last_error_at <= down.recovered_at:
                self.is_open, self.consecutive_errors, self.trial_until = False, 0, 0.0
        self.troubled = bool(self.consecutive_errors or self.is_open or self.rest_until)

    @property
    def lasting_state(self) -> State:
        """Changes by what happens, never by the clock: a rest that is over is no recovery, and a short pause after a
        429 is no trouble."""
        auth = self.rests.get(AUTH)
        if (self.is_open and self.consecutive_errors >= DOWN_AFTER) or (auth is not None and auth.spans):
            return State.DOWN
        return State.DEGRADED if self.consecutive_errors >= DEGRADED_AFTER else State.HEALTHY

    def state(self, now: float) -> State:
        rests = now < self.rest_until
        if (self.is_open and self.consecutive_errors >= DOWN_AFTER) or (rests and self.rest_reason in {DOWN, AUTH}):
            return State.DOWN
        return State.DEGRADED if rests or self.consecutive_errors >= DEGRADED_AFTER else State.HEALTHY
