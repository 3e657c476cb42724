"""What is known of targets and providers: decayed figures, errors in a row, rests. Pure: time is an argument, in
seconds of a steady clock. Belongs to one thread; what other processes know comes in by `merge`, what they should know
goes out in `notices`."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import Final, NamedTuple

from providers.client import FailureKind
from providers.outcomes import ErrorClass
from routing.breaker import AUTH, DEGRADED_AFTER, DOWN, DOWN_AFTER, DOWN_SECONDS, RATE_LIMITED, TRIAL_SECONDS, Circuit
from routing.breaker import State as State

DECAY: Final = 0.1  # share of the newest observation in an average
HALF_LIFE_SECONDS: Final = 300.0
FADE_SECONDS: Final = 10.0  # between two corrections by the clock alone
DEFAULT_COOLDOWN_SECONDS: Final = 1.0  # after a 429 without Retry-After
AUTH_REST_SECONDS: Final = 60.0
ENDPOINT_REST_SECONDS: Final = 5.0
MISSING_SECONDS: Final = 300.0
ASSUMED_LATENCY_MS: Final = 1000.0
HEAD_START_SECONDS: Final = 1.0  # for the trial of whoever saw a target down, before those that were told
HALF_RECOVERED: Final = DOWN_AFTER - 1  # errors in a row that a probe's success leaves standing
_NO_CONNECTION = frozenset({FailureKind.CONNECT, FailureKind.DNS, FailureKind.TLS, FailureKind.REFUSED_ADDRESS})


class Notice(NamedTuple):
    """A rest (`began`, `until`) or a recovery, for other processes. `model_id` is empty for a provider."""

    provider_id: str
    model_id: str
    reason: str
    began: float = 0.0
    until: float = 0.0
    recovered_at: float | None = None
    errors_left: int = 0


class Change(NamedTuple):
    """Of the lasting state, seen by this process. `model_id` is empty for a provider. `before`: the worst that is not
    told yet, where there were several."""

    provider_id: str
    model_id: str
    before: State
    after: State
    last_error: str


class ProviderHealth(Circuit):
    """Errors of a single model leave its neighbours alone: a provider goes down as a whole only when several models
    fail, or nobody can connect, or its probes fail."""

    __slots__ = ("calls_failed", "first_to_fail", "is_broad")

    def __init__(self) -> None:
        super().__init__()
        self.first_to_fail = ""
        self.is_broad = False
        self.calls_failed = False

    def note(self, model_id: str) -> None:
        """An error of that model; empty: of the provider as such."""
        if not self.consecutive_errors:
            self.first_to_fail, self.is_broad, self.calls_failed = model_id, False, False
        self.is_broad = self.is_broad or not model_id or model_id != self.first_to_fail
        self.calls_failed = self.calls_failed or bool(model_id)


class TargetStats(Circuit):
    """Of one model at its provider. `latency_ms`: to a whole answer, or to a stream's first event."""

    __slots__ = (
        "calls", "errors", "faded_at", "failure", "first_chunk_ms", "latency_ms", "measured_ms", "provider",
        "tokens_per_guess",
    )  # fmt: skip

    def __init__(self, provider: ProviderHealth) -> None:
        super().__init__()
        self.provider = provider
        self.calls = 0
        self.errors = 0
        self.latency_ms = self.measured_ms = ASSUMED_LATENCY_MS
        self.first_chunk_ms = 0.0
        """0: no stream yet."""
        self.failure = 0.0
        self.faded_at = 0.0
        self.tokens_per_guess = 1.0
        """Input tokens that the provider counted, over those guessed from the size of the request."""

    def fade(self, now: float) -> None:
        """Old troubles lose weight: a failure goes towards none, and a latency above the assumed one towards it."""
        kept = 0.5 ** ((now - self.faded_at) / HALF_LIFE_SECONDS)
        self.faded_at = now
        self.failure *= kept
        if self.latency_ms > ASSUMED_LATENCY_MS:
            self.latency_ms = ASSUMED_LATENCY_MS + (self.latency_ms - ASSUMED_LATENCY_MS) * kept

    def share(self, now: float) -> float:
        """Of a fresh observation in the averages: the more, the longer ago the last one was."""
        if self.calls == self.errors:
            return 1.0
        return 1.0 - (1.0 - DECAY) * float(0.5 ** ((now - self.last_success_at) / HALF_LIFE_SECONDS))


class Health:
    """Keyed by ids, so that it outlives a snapshot. `wake`: called when others should know soon."""

    def __init__(self, *, down_seconds: float = DOWN_SECONDS, wake: Callable[[], object] | None = None) -> None:
        self.targets: dict[tuple[str, str], TargetStats] = {}
        self.providers: dict[str, ProviderHealth] = {}
        self.notices: deque[Notice] = deque()
        self.changes: dict[tuple[str, str], Change] = {}
        """What is to be told of each target's and provider's lasting state."""
        self.skips: defaultdict[str, int] = defaultdict(int)
        """How often a target was passed over, by reason."""
        self._down_seconds = down_seconds
        self.wake = wake
        self._endpoints: dict[tuple[str, str], float] = {}
        self._turns: dict[str, int] = {}
        self._missing: dict[str, dict[str, float]] = {}

    def provider(self, provider_id: str) -> ProviderHealth:
        found = self.providers.get(provider_id)
        if found is None:
            found = self.providers[provider_id] = ProviderHealth()
        return found

    def stats(self, provider_id: str, model_id: str) -> TargetStats:
        key = (provider_id, model_id)
        found = self.targets.get(key)
        if found is None:
            found = self.targets[key] = TargetStats(self.provider(provider_id))
        return found

    # -- calls ---------------------------------------------------------------------------------------------------
    def succeeded(
        self,
        provider_id: str,
        model_id: str,
        *,
        latency_ms: float,
        started: float | None = None,
        now: float | None = None,
        first_chunk_ms: float | None = None,
    ) -> None:
        """`started`, `now`: when the call began and when it had answered."""
        stats = self.targets.get((provider_id, model_id)) or self.stats(provider_id, model_id)
        provider = stats.provider
        share = DECAY if stats.calls > stats.errors else 1.0
        if now is not None:
            if now - stats.last_success_at > 1.0:
                share = stats.share(now)
                stats.fade(now)
            stats.faded_at = stats.last_success_at = provider.last_success_at = now
        stats.measured_ms += (latency_ms - stats.measured_ms) * share
        stats.latency_ms = stats.measured_ms
        stats.failure -= stats.failure * DECAY
        stats.calls += 1
        if first_chunk_ms is not None:
            stats.first_chunk_ms += (first_chunk_ms - stats.first_chunk_ms) * (share if stats.first_chunk_ms else 1.0)
        if stats.troubled:
            self._recovered(provider_id, model_id, stats, started)
        if provider.troubled:
            self._recovered(provider_id, "", provider, started)

    def outrun(self, provider_id: str, model_id: str, *, waited_ms: float) -> None:
        """It was silent for so long when another one answered in its place: it would have taken that long at least."""
        stats = self.stats(provider_id, model_id)
        if waited_ms > stats.measured_ms:
            stats.measured_ms += (waited_ms - stats.measured_ms) * DECAY
            stats.latency_ms = stats.measured_ms

    def counted(self, provider_id: str, model_id: str, *, guessed: int, tokens: int) -> None:
        """The provider's own count of a request's input, beside what was guessed."""
        stats = self.stats(provider_id, model_id)
        if guessed > 0 and tokens > 0:
            ratio = min(max(tokens / guessed, 0.1), 10.0)
            stats.tokens_per_guess += (ratio - stats.tokens_per_guess) * DECAY

    def failed(
        self,
        provider_id: str,
        model_id: str,
        error: ErrorClass,
        *,
        now: float,
        retry_after: float | None,
        status: int,
        started: float | None = None,
        kind: FailureKind | None = None,
    ) -> None:
        """`retry_after` in seconds; `kind`: of a call that gave no whole answer. What is the client's own fault leaves
        no mark."""
        if error in {ErrorClass.INVALID_REQUEST, ErrorClass.CONTEXT_OVERFLOW}:
            return
        stats = self.stats(provider_id, model_id)
        provider = stats.provider
        stats.fade(now)
        stats.failure += (1.0 - stats.failure) * DECAY
        stats.calls += 1
        stats.errors += 1
        stats.last_error = provider.last_error = f"{error.value} (HTTP {status})" if status else error.value
        stats.last_error_at = provider.last_error_at = now
        match error:
            case ErrorClass.RATE_LIMITED:
                pause = DEFAULT_COOLDOWN_SECONDS if retry_after is None else retry_after
                self._rest(provider_id, model_id, stats, RATE_LIMITED, now, now + pause)
            case ErrorClass.AUTH if status == 403:
                self._rest(provider_id, model_id, stats, AUTH, now, now + AUTH_REST_SECONDS)
            case ErrorClass.AUTH:
                self._refused(provider_id, now, started)
            case _:
                self._error(provider_id, model_id, stats, now, started)
                if error is not ErrorClass.MODEL_UNAVAILABLE:
                    provider.note("" if kind in _NO_CONNECTION else model_id)
                    self._error(provider_id, "", provider, now, started)

    def _refused(self, provider_id: str, now: float, started: float | None) -> None:
        """The credential. A call that left before it was changed, or before it was seen to work, says nothing."""
        provider = self.provider(provider_id)
        rests = provider.rests.get(AUTH)
        if rests is None or started is None or started > rests.recovered_at:
            self._rest(provider_id, "", provider, AUTH, now, now + AUTH_REST_SECONDS)

    def _error(self, provider_id: str, model_id: str, circuit: Circuit, now: float, started: float | None) -> None:
        speaks_against = circuit.count_error(now, started)
        if circuit.consecutive_errors == DEGRADED_AFTER and self.wake is not None:
            self.wake()
        may_open = circuit.is_broad if isinstance(circuit, ProviderHealth) else True
        if speaks_against and (circuit.is_open or (may_open and circuit.consecutive_errors >= DOWN_AFTER)):
            self._rest(provider_id, model_id, circuit, DOWN, now, now + self._down_seconds)
        self._review(provider_id, model_id, circuit)

    def _review(self, provider_id: str, model_id: str, circuit: Circuit) -> None:
        """After what this process saw; what others tell is no change of its own."""
        after, before = circuit.lasting_state, circuit.told
        if after is not before:
            if (untold := self.changes.get((provider_id, model_id))) is not None:
                before = min(before, untold.before)
            self.changes[provider_id, model_id] = Change(provider_id, model_id, before, after, circuit.last_error)
            circuit.told = after
            if self.wake is not None:
                self.wake()

    def _rest(self, provider_id: str, model_id: str, circuit: Circuit, reason: str, now: float, until: float) -> None:
        was_resting = now < circuit.rest_until
        if until <= now:
            return
        if circuit.rest(reason, now, until):
            self.notices.append(Notice(provider_id, model_id, reason, now, until))
            if not was_resting and self.wake is not None:
                self.wake()
        self._review(provider_id, model_id, circuit)

    def _recovered(
        self,
        provider_id: str,
        model_id: str,
        circuit: Circuit,
        at: float | None,
        *,
        errors_left: int = 0,
        only: str = "",
    ) -> None:
        """`at` None: after all that is known."""
        if at is None:
            at = circuit.last_error_at
        for reason in circuit.recover(at, errors_left=errors_left, only=only):
            self.notices.append(Notice(provider_id, model_id, reason, recovered_at=at, errors_left=errors_left))
            if self.wake is not None:
                self.wake()
        self._review(provider_id, model_id, circuit)

    def credential_changed(self, provider_id: str, now: float | None = None) -> None:
        """A new credential gets its chance at once."""
        self._recovered(provider_id, "", self.provider(provider_id), now, only=AUTH)
        for (owner, model_id), stats in self.targets.items():
            if owner == provider_id and AUTH in stats.rests:
                self._recovered(provider_id, model_id, stats, now, only=AUTH)

    # -- probes --------------------------------------------------------------------------------------------------
    def probed(
        self,
        provider_id: str,
        *,
        started: float,
        now: float,
        error: ErrorClass | None,
        status: int = 0,
        text: str = "",
        accepted: bool = False,
    ) -> None:
        """What a probe found; no error: the provider is alive. `accepted`: its credential, too. `text`: what failed.
        A probe says nothing of a single model: one that is down gets a trial at once, and stays under suspicion."""
        provider = self.provider(provider_id)
        if error is None:
            self._alive(provider_id, provider, started)
            if accepted and AUTH in provider.rests:
                self._recovered(provider_id, "", provider, started, only=AUTH)
        elif error is ErrorClass.AUTH:
            rests = provider.rests.get(AUTH)
            since = rests.recovered_at if rests is not None else -inf
            if status == 403 and provider.last_success_at > since:
                return  # it may not list models, but calls work with it
            provider.last_error, provider.last_error_at = f"probe: {text or error.value}", now
            self._refused(provider_id, now, started)
        else:
            provider.last_error = f"probe: {text or error.value}"
            provider.note("")
            self._error(provider_id, "", provider, now, started)

    def _alive(self, provider_id: str, provider: ProviderHealth, started: float) -> None:
        if provider.is_open:
            left = HALF_RECOVERED if provider.calls_failed else 0
            self._recovered(provider_id, "", provider, started, errors_left=left, only=DOWN)
        elif not provider.calls_failed:
            provider.consecutive_errors = 0
            self._review(provider_id, "", provider)
        for (owner, model_id), stats in self.targets.items():
            if owner == provider_id and stats.is_open:
                self._recovered(provider_id, model_id, stats, started, errors_left=HALF_RECOVERED, only=DOWN)

    # -- who may be asked ----------------------------------------------------------------------------------------
    def resting(self, provider_id: str, model_id: str, now: float) -> str:
        """Why the target is skipped at the moment; empty when it is not. Also the moment at which its figures fade."""
        stats = self.targets.get((provider_id, model_id)) or self.stats(provider_id, model_id)
        if now - stats.faded_at > FADE_SECONDS:
            stats.fade(now)
        provider = stats.provider
        why = provider.why_not(now) if provider.troubled else ""
        if not why and stats.troubled:
            why = stats.why_not(now)
        if why:
            self.skips[why] += 1
        return why

    def rest_seconds(self, provider_id: str, model_id: str, now: float) -> float:
        return max(self.provider(provider_id).rest_until - now, self.stats(provider_id, model_id).rest_until - now, 0.0)

    def admitted(self, provider_id: str, model_id: str, now: float) -> float | None:
        """To be asked right before a call: None when the target is to be left alone by now. Else 0, or the mark of the
        one trial of a circuit that is half open, which `released` must get back when the call is over."""
        stats = self.stats(provider_id, model_id)
        provider = stats.provider
        if not stats.troubled and not provider.troubled:
            return 0.0
        if provider.why_not(now) or stats.why_not(now):
            return None
        trial = 0.0
        for circuit in (provider, stats):
            if circuit.is_open:
                trial = circuit.trial_until = now + TRIAL_SECONDS
        return trial

    def released(self, provider_id: str, model_id: str, trial: float) -> None:
        stats = self.stats(provider_id, model_id)
        for circuit in (stats.provider, stats):
            if circuit.trial_until == trial:
                circuit.trial_until = 0.0

    # -- other processes -----------------------------------------------------------------------------------------
    def merge(self, notices: Iterable[Notice]) -> None:
        """In any order, and more than once."""
        for one in notices:
            circuit: Circuit = self.provider(one.provider_id)
            if one.model_id:
                circuit = self.stats(one.provider_id, one.model_id)
            elif one.reason == DOWN and isinstance(circuit, ProviderHealth):
                circuit.calls_failed = True  # for all that is known here
            until = one.until + (HEAD_START_SECONDS if one.reason == DOWN else 0.0)
            circuit.merge(
                one.reason,
                rest=(one.began, until) if one.until else None,
                recovered_at=one.recovered_at,
                errors_left=one.errors_left,
            )
            circuit.told = circuit.lasting_state

    def provider_state(self, provider_id: str, model_ids: Collection[str], now: float) -> State:
        """Of a provider with these models."""
        found = self.providers.get(provider_id)
        own = found.state(now) if found is not None else State.HEALTHY
        models = [self.targets.get((provider_id, model_id)) for model_id in model_ids]
        return combined(own, [one.state(now) if one is not None else State.HEALTHY for one in models])

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


def provider_states(health: Health, targets: Iterable[tuple[str, str]], now: float) -> dict[str, State]:
    """Of every provider in `targets`, pairs of provider and model."""
    models: defaultdict[str, list[str]] = defaultdict(list)
    for provider_id, model_id in targets:
        models[provider_id].append(model_id)
    return {provider_id: health.provider_state(provider_id, owned, now) for provider_id, owned in models.items()}


def combined(own: State, models: Collection[State]) -> State:
    """A provider's state: its own, worsened by models that are down, and by all of them in trouble."""
    best = max(models, default=State.HEALTHY)
    if State.DOWN in {own, best}:
        return State.DOWN
    return State.DEGRADED if State.DEGRADED in {own, best} or State.DOWN in models else State.HEALTHY
