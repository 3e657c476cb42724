"""What this process has seen of its targets: decayed latency and failures, cooldowns. Pure: time is an argument, in
seconds of a steady clock."""

from __future__ import annotations

from collections.abc import Collection

from providers.outcomes import ErrorClass

DECAY = 0.1  # share of the newest observation in an average
DEFAULT_COOLDOWN_SECONDS = 1.0  # after a 429 without Retry-After
AUTH_REST_SECONDS = 60.0
DOWN_AFTER = 5
DOWN_SECONDS = 30.0
ENDPOINT_REST_SECONDS = 5.0
MISSING_SECONDS = 300.0
ASSUMED_LATENCY_MS = 1000.0


class TargetStats:
    """Of one model at its provider."""

    __slots__ = (
        "calls", "consecutive_errors", "failure", "latency_ms", "rest_reason", "rest_until", "tokens_per_guess"
    )  # fmt: skip

    def __init__(self) -> None:
        self.latency_ms = ASSUMED_LATENCY_MS
        self.failure = 0.0
        self.calls = 0
        self.consecutive_errors = 0
        self.rest_until = 0.0
        self.rest_reason = ""
        self.tokens_per_guess = 1.0
        """Input tokens that the provider counted, over those guessed from the size of the request."""


class Health:
    """Keyed by ids, so that it outlives a snapshot."""

    def __init__(self) -> None:
        self._targets: dict[tuple[str, str], TargetStats] = {}
        self._providers: dict[str, tuple[float, str]] = {}
        self._endpoints: dict[tuple[str, str], float] = {}
        self._turns: dict[str, int] = {}
        self._missing: dict[str, dict[str, float]] = {}

    def stats(self, provider_id: str, model_id: str) -> TargetStats:
        key = (provider_id, model_id)
        found = self._targets.get(key)
        if found is None:
            found = self._targets[key] = TargetStats()
        return found

    def succeeded(self, provider_id: str, model_id: str, *, latency_ms: float) -> None:
        stats = self.stats(provider_id, model_id)
        share = DECAY if stats.calls else 1.0
        stats.latency_ms += (latency_ms - stats.latency_ms) * share
        stats.failure -= stats.failure * DECAY
        stats.calls += 1
        stats.consecutive_errors = 0
        stats.rest_until = 0.0

    def counted(self, provider_id: str, model_id: str, *, guessed: int, tokens: int) -> None:
        """The provider's own count of a request's input, beside what was guessed."""
        stats = self.stats(provider_id, model_id)
        if guessed > 0 and tokens > 0:
            ratio = min(max(tokens / guessed, 0.1), 10.0)
            stats.tokens_per_guess += (ratio - stats.tokens_per_guess) * DECAY

    def failed(
        self, provider_id: str, model_id: str, error: ErrorClass, *, now: float, retry_after: float | None, status: int
    ) -> None:
        """`retry_after` in seconds. What is the client's own fault leaves no mark."""
        if error in {ErrorClass.INVALID_REQUEST, ErrorClass.CONTEXT_OVERFLOW}:
            return
        stats = self.stats(provider_id, model_id)
        stats.failure += (1.0 - stats.failure) * DECAY
        stats.calls += 1
        match error:
            case ErrorClass.RATE_LIMITED:
                pause = DEFAULT_COOLDOWN_SECONDS if retry_after is None else retry_after
                stats.rest_until, stats.rest_reason = now + pause, "rate_limited"
            case ErrorClass.AUTH if status == 403:
                stats.rest_until, stats.rest_reason = now + AUTH_REST_SECONDS, "auth"
            case ErrorClass.AUTH:
                self._providers[provider_id] = (now + AUTH_REST_SECONDS, "auth")
            case _:
                stats.consecutive_errors += 1
                if stats.consecutive_errors >= DOWN_AFTER:
                    stats.rest_until, stats.rest_reason = now + DOWN_SECONDS, "down"

    def resting(self, provider_id: str, model_id: str, now: float) -> str:
        """Why the target is skipped at the moment; empty when it is not."""
        rest = self._providers.get(provider_id)
        if rest is not None:
            if now < rest[0]:
                return rest[1]
            del self._providers[provider_id]
        stats = self._targets.get((provider_id, model_id))
        return stats.rest_reason if stats is not None and now < stats.rest_until else ""

    def rest_seconds(self, provider_id: str, model_id: str, now: float) -> float:
        until = max(self._providers.get(provider_id, (0.0, ""))[0], self.stats(provider_id, model_id).rest_until)
        return max(until - now, 0.0)

    def credential_changed(self, provider_id: str) -> None:
        """A new credential gets its chance at once."""
        self._providers.pop(provider_id, None)
        for (provider, _), stats in self._targets.items():
            if provider == provider_id and stats.rest_reason == "auth":
                stats.rest_until = 0.0

    # -- what a provider lacks ---------------------------------------------------------------------------------------
    def missing(self, provider_id: str, now: float) -> Collection[str]:
        """Dialects that the provider is said to speak, and was found not to."""
        if not self._missing:
            return ()
        found = self._missing.get(provider_id, {})
        return [name for name, until in found.items() if now < until]

    def lacks(self, provider_id: str, dialect: str, now: float) -> None:
        self._missing.setdefault(provider_id, {})[dialect] = now + MISSING_SECONDS

    # -- several addresses of one provider -------------------------------------------------------------------------
    def next_endpoint(self, provider_id: str, shown: tuple[str, ...], now: float, avoid: set[str]) -> int:
        """Index of the address whose turn it is; those that failed lately or stand in `avoid` only if all did."""
        count = len(shown)
        if count == 1:
            return 0
        turn = self._turns.get(provider_id, -1) + 1
        self._turns[provider_id] = turn % count
        order = [(turn + step) % count for step in range(count)]
        for index in order:
            if shown[index] not in avoid and now >= self._endpoints.get((provider_id, shown[index]), 0.0):
                return index
        return next((index for index in order if shown[index] not in avoid), order[0])

    def endpoint_failed(self, provider_id: str, shown: str, now: float) -> None:
        self._endpoints[provider_id, shown] = now + ENDPOINT_REST_SECONDS

    def endpoint_answered(self, provider_id: str, shown: str) -> None:
        self._endpoints.pop((provider_id, shown), None)
