"""What one worker took of an owner's limits ahead of its requests, so that most of them need not look at the table that
all workers share. Only of an owner who asks often and has plenty left, for a moment, and a small part of what is left:
where a limit is near, each request is decided in the table. What is not used goes back. Pure."""

from __future__ import annotations

from math import inf
from typing import Final

from keys.limits import Limits, Standings

LEASE_SECONDS: Final = 0.25
HOT_SECONDS: Final = 0.02  # who asks again so soon asks often
PART: Final = 128  # of what is left, a lease takes no more than one part
MOST: Final = 1_024  # requests
LEAST: Final = 4
Moments = tuple[float, float, float]


class Lease:
    """`requests`, `tokens`, `calls` (at the same time): left of it, infinite where nothing limits them; of requests and
    calls as of the last `count`. Since then requests began, of which `passes` more may at once, and `ended` of them
    did. `full_at`: of the buckets, with all of the lease taken out of them. `tokens_full_at`: when the bucket of tokens
    was last found full. `most_calls`: more are not kept; 0: it is the record of one request, and nothing was taken
    ahead. `asked_at`: the last time that a request asked for itself."""

    __slots__ = (
        "_filled", "asked_at", "calls", "ended", "full_at", "limits", "most_calls", "passes", "requests",
        "since", "tokens", "tokens_full_at", "until",
    )  # fmt: skip

    def __init__(self, limits: Limits, since: float, full_at: Moments, tokens_full_at: float) -> None:
        self.limits = limits
        self.since = since
        self.until = since + HOT_SECONDS
        self.full_at = full_at
        self.tokens_full_at = tokens_full_at
        self.requests: float = 0
        self.tokens: float = 0
        self.calls: float = 0
        self.most_calls: float = 0
        self.passes = self.ended = self._filled = 0
        self.asked_at = 0.0

    def count(self) -> None:
        """What began and ended since the last time."""
        began = self._filled - self.passes
        self.requests -= began
        self.calls += self.ended - began
        self._filled, self.ended = self.passes, 0

    def fill(self) -> bool:
        """Whether there is another pass."""
        self.count()
        self.passes = self._filled = int(min(self.requests, self.calls, MOST))
        return self.passes > 0

    def close(self) -> None:
        """Nothing is taken ahead any more."""
        self.full_at = self.standing_at()
        self.requests = self.tokens = self.calls = self.most_calls = 0
        self.passes = self.ended = self._filled = 0

    def standing_at(self) -> Moments:
        """When the buckets are full again without what is left of it."""
        second_at, minute_at, tokens_at = self.full_at
        if self.most_calls:
            self.count()
            limits = self.limits
            if limits.second is not None:
                second_at -= self.requests * limits.second.unit
            if limits.minute is not None:
                minute_at -= self.requests * limits.minute.unit
            if limits.tokens is not None:
                tokens_at -= self.tokens * limits.tokens.unit
        return second_at, minute_at, tokens_at

    def standings(self, now: float) -> Standings:
        """As clients are told: what is taken ahead is not used yet."""
        return self.limits.standings(self.standing_at(), now)

    def lines(self, now: float) -> bytes:
        """The same as the last lines of an answer's head."""
        limits, full_at = self.limits, self.full_at
        is_ahead = self.most_calls > 0
        self.count()
        values: tuple[object, ...] = ()
        if (bucket := limits.requests_told) is not None:
            lacking = full_at[limits.requests_at] - now
            if is_ahead:
                lacking -= self.requests * bucket.unit
            values = bucket.told(lacking)
        if (bucket := limits.tokens) is not None:
            lacking = full_at[2] - now
            if is_ahead:
                lacking -= self.tokens * bucket.unit
            values += bucket.told(lacking)
        return limits.lines % values

    def take_ahead(self, count: int, tokens: float, now: float) -> int:
        """Takes a part of what is left beside `count` requests under way, and tells how many of those it took. Takes
        nothing where there is too little of something. `tokens`: of one request."""
        limits, (second_at, minute_at, tokens_at) = self.limits, self.full_at
        requests: float = MOST
        for bucket, at in ((limits.second, second_at), (limits.minute, minute_at)):
            if bucket is not None:
                requests = min(requests, bucket.left(at, now) // PART)
        calls = min(MOST, (limits.concurrent - count) // PART) if limits.concurrent else MOST
        many = limits.tokens.left(tokens_at, now) // PART if limits.tokens is not None else inf
        if requests < LEAST or calls < LEAST or many < LEAST * max(tokens, 1.0):
            return 0
        is_counted = limits.second is not None or limits.minute is not None
        self.requests = requests if is_counted else inf
        self.tokens = many
        self.calls = calls if limits.concurrent else inf
        self.most_calls = 2 * self.calls
        self.until = self.since + LEASE_SECONDS
        if limits.second is not None:
            second_at = limits.second.taken(second_at, requests, now)
        if limits.minute is not None:
            minute_at = limits.minute.taken(minute_at, requests, now)
        if limits.tokens is not None:
            tokens_at = limits.tokens.taken(tokens_at, many, now)
        self.full_at = (second_at, minute_at, tokens_at)
        return calls if limits.concurrent else 0
