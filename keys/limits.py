"""Rate limits in memory. Pure: time is an argument, in seconds of any steady clock."""

from __future__ import annotations


class AddressLimiter:
    """A token bucket per address: `rate` requests a second on average, `burst` at once. A rate of 0 lets all pass."""

    MAX_ADDRESSES = 65_536

    def __init__(self, *, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = float(max(burst, 1))
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, address: str, now: float) -> float:
        """0.0 and one token taken, or the seconds until there is one."""
        if not self.rate:
            return 0.0
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
        return int(self._buckets.get(address, (self.burst, 0.0))[0])

    def _forget_full(self, now: float) -> None:
        """Drops the addresses whose bucket is full again; if that frees too little, the older half."""
        full = [key for key, (tokens, at) in self._buckets.items() if tokens + (now - at) * self.rate >= self.burst]
        for key in full or list(self._buckets)[: self.MAX_ADDRESSES // 2]:
            del self._buckets[key]
