"""Rate limits: the arithmetic of buckets. Pure: time is an argument, in seconds of a steady clock.

A limit of N per so many seconds is a bucket of `burst` that refills evenly. Of a bucket one number is kept, the moment
at which it is full again (GCRA, ITU-T I.371): taking moves it on, time lets it pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Final, NamedTuple

TOLERANCE: Final = 1e-9  # a float clock is never exact
CONCURRENT: Final = 0
SECOND: Final = 1
MINUTE: Final = 2
TOKENS: Final = 3
NAMES: Final = ("concurrency", "rps", "rpm", "tpm")
"""Of these four, as the journal and a request's page have them."""
Names = tuple[bytes, bytes, bytes]
REQUESTS_TOLD: Final = (
    b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests",
)  # fmt: skip
TOKENS_TOLD: Final = (
    b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens",
)  # fmt: skip

_SECONDS: Final = tuple(b"%.3fs" % (number / 1000) for number in range(1000))


@dataclass(frozen=True, slots=True)
class Bucket:
    """`rate` units a second, `burst` at once. `seconds` until an empty one is full again; `unit`: until one is back."""

    rate: float
    burst: float
    seconds: float = field(init=False, repr=False, compare=False)
    unit: float = field(init=False, repr=False, compare=False)
    limit: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", self.burst / self.rate)
        object.__setattr__(self, "unit", 1.0 / self.rate)
        object.__setattr__(self, "limit", round(self.burst))

    def wait(self, full_at: float, amount: float, now: float) -> float:
        """Seconds until so much can be taken; 0.0 now. More than the burst can be taken of a full bucket."""
        lacking = full_at - now if full_at > now else 0.0
        over = lacking + (min(amount, self.burst) * self.unit - self.seconds)
        return over if over > TOLERANCE else 0.0

    def taken(self, full_at: float, amount: float, now: float) -> float:
        """The new `full_at`. A negative amount gives back."""
        return (full_at if full_at > now else now) + amount * self.unit

    def left(self, full_at: float, now: float) -> float:
        return self.burst - (full_at - now) * self.rate if full_at > now else self.burst

    def share(self, hosts: int) -> Bucket:
        """One host's. What is lacking in it is as long in coming back as in the whole."""
        return Bucket(self.rate / hosts, max(self.burst / hosts, 1.0))

    def told(self, lacking: float) -> tuple[int, bytes]:
        """What is left, and the seconds until all of it is back, of a bucket that is full again in `lacking`."""
        if lacking <= 0.0:
            return self.limit, _SECONDS[0]
        left = int(self.burst - lacking * self.rate + 1e-6)
        thousandths = round(lacking * 1000.0)
        return left if left > 0 else 0, _SECONDS[thousandths] if thousandths < 1000 else b"%.3fs" % lacking

    def standing(self, full_at: float, now: float) -> Standing:
        if full_at <= now:
            return Standing(self.limit, int(self.burst), 0.0)
        reset = full_at - now
        left = self.burst - reset * self.rate
        return Standing(self.limit, int(left + 1e-6) if left > 0.0 else 0, reset)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a client key or a project. `owner`: 16 bytes that name it in tables; `whose`: as a person reads it.
    `concurrent`: requests at the same time; 0: any number. `project`: whose these are; of a key: empty."""

    owner: bytes
    whose: str
    second: Bucket | None = None
    minute: Bucket | None = None
    tokens: Bucket | None = None
    concurrent: int = 0
    project: str = ""
    requests_told: Bucket | None = field(init=False, repr=False, compare=False)
    """Of which clients are told: the one per minute or else per second."""
    requests_at: int = field(init=False, repr=False, compare=False)
    """Its place among second, minute and tokens."""
    lines: bytes = field(init=False, repr=False, compare=False)
    """What clients are told, as the last lines of an answer's head; they lack what is left and the seconds until all
    is."""

    def __post_init__(self) -> None:
        requests = self.minute if self.minute is not None else self.second
        object.__setattr__(self, "requests_told", requests)
        object.__setattr__(self, "requests_at", 1 if self.minute is not None else 0)
        lines = (
            b"%b: %d\r\n%b: %%d\r\n%b: %%b\r\n" % (size, bucket.limit, remaining, reset)
            for bucket, (size, remaining, reset) in ((requests, REQUESTS_TOLD), (self.tokens, TOKENS_TOLD))
            if bucket is not None
        )
        object.__setattr__(self, "lines", b"".join(lines) + b"\r\n")

    def what(self, which: int) -> str:
        """One of them as a person reads it: of CONCURRENT, SECOND, MINUTE, TOKENS."""
        if which == SECOND and self.second is not None:
            return f"{self.second.rate:g} requests per second, {self.second.burst:g} at once"
        if which == MINUTE and self.minute is not None:
            return f"{self.minute.limit} requests per minute"
        if which == TOKENS and self.tokens is not None:
            return f"{self.tokens.limit} tokens per minute"
        return f"{self.concurrent} requests at the same time"

    def value(self, which: int) -> float:
        """Of one of them: of the one per second its rate, of the others how many."""
        bucket = {SECOND: self.second, MINUTE: self.minute, TOKENS: self.tokens}.get(which)
        if bucket is None:
            return self.concurrent
        return bucket.rate if which == SECOND else bucket.burst

    def share(self, hosts: int) -> Limits:
        """One host's; one request at a time is the least."""
        return replace(
            self,
            second=self.second.share(hosts) if self.second is not None else None,
            minute=self.minute.share(hosts) if self.minute is not None else None,
            tokens=self.tokens.share(hosts) if self.tokens is not None else None,
            concurrent=max(self.concurrent // hosts, 1) if self.concurrent else 0,
        )

    def standings(self, full_at: Sequence[float], now: float) -> Standings:
        """As clients are told. `full_at`: of second, minute and tokens."""
        second_at, minute_at, tokens_at = full_at
        requests = None
        if self.minute is not None:
            requests = self.minute.standing(minute_at, now)
        elif self.second is not None:
            requests = self.second.standing(second_at, now)
        return Standings(requests, self.tokens.standing(tokens_at, now) if self.tokens is not None else None)


class Standing(NamedTuple):
    """Of one limit after a request was let in: its size, what is left, seconds until all of it is back."""

    limit: int
    remaining: int
    reset_seconds: float


class Standings(NamedTuple):
    """Of whoever has the least left."""

    requests: Standing | None = None
    tokens: Standing | None = None

    def told(self) -> list[tuple[bytes, bytes]]:
        """As headers."""
        headers = []
        for one, (size, remaining, reset) in ((self.requests, REQUESTS_TOLD), (self.tokens, TOKENS_TOLD)):
            if one is not None:
                headers += [
                    (size, b"%d" % one.limit),
                    (remaining, b"%d" % one.remaining),
                    (reset, b"%.3fs" % one.reset_seconds),
                ]
        return headers

    def tightest(self, other: Standings) -> Standings:
        if self is NOTHING:
            return other
        return Standings(_tighter(self.requests, other.requests), _tighter(self.tokens, other.tokens))


NOTHING: Final = Standings()


def _tighter(one: Standing | None, other: Standing | None) -> Standing | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda standing: standing.remaining)


class LimitExceeded(Exception):
    """`which`: CONCURRENT, SECOND, MINUTE or TOKENS; `what`: the same, as a person reads it."""

    def __init__(self, limits: Limits, which: int, *, retry_after_seconds: float) -> None:
        self.what = limits.what(which)
        super().__init__(self.what)
        self.limits = limits
        self.which = which
        self.retry_after_seconds = retry_after_seconds

    def noted(self) -> dict[str, str | float]:
        """For the journal. Of a limit per second also how many at once."""
        told: dict[str, str | float] = {"limit": NAMES[self.which], "value": self.limits.value(self.which)}
        if self.which == SECOND and self.limits.second is not None:
            told["at_once"] = self.limits.second.burst
        if self.limits.project:
            told["project"] = self.limits.project
        return told


def network_of(address: str) -> str:
    """Whose limit it is: of IPv6, the 64 bits of a network, in which one customer may take any address."""
    if ":" not in address:
        return address
    try:
        one = IPv6Address(address)
    except ValueError:
        return address
    if one.ipv4_mapped is not None:
        return str(one.ipv4_mapped)
    return f"{IPv6Address(int(one) >> 64 << 64)}/64"


class AddressLimiter:
    """Of one process, a bucket per address: `rate` requests a second on average, `burst` at once. A rate of 0 lets all
    pass."""

    MAX_ADDRESSES = 65_536

    def __init__(self, *, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = float(max(burst, 1))
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, address: str, now: float) -> float:
        """0.0 and one token taken, or the seconds until there is one."""
        if not self.rate:
            return 0.0
        address = network_of(address)
        tokens, at = self._buckets.get(address, (self.burst, now))
        tokens = min(self.burst, tokens + (now - at) * self.rate)
        if tokens < 1.0 - 1e-9:  # a float clock is never exact
            self._buckets[address] = (tokens, now)
            return (1.0 - tokens) / self.rate
        if len(self._buckets) >= self.MAX_ADDRESSES and address not in self._buckets:
            self._forget_full(now)
        self._buckets[address] = (tokens - 1.0, now)
        return 0.0

    def remaining(self, address: str) -> int:
        return int(self._buckets.get(network_of(address), (self.burst, 0.0))[0])

    def _forget_full(self, now: float) -> None:
        """Drops the addresses whose bucket is full again; if that frees too little, the older half."""
        full = [key for key, (tokens, at) in self._buckets.items() if tokens + (now - at) * self.rate >= self.burst]
        for key in full or list(self._buckets)[: self.MAX_ADDRESSES // 2]:
            del self._buckets[key]
