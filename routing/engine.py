"""Who answers a request, and what happens when one does not: the ranked targets and the loop of attempts.

The client's named model comes first, then the others by score; up to five targets. A transient failure is tried again
after a pause; after that, and after any other failure that another target may not have, the next target follows.
Once the first byte has gone out nothing is retried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from random import Random
from time import monotonic
from typing import Final

from providers.client import FailureKind, Transport
from providers.formats.errors import InvalidRequest
from providers.outcomes import ErrorClass, is_retriable
from routing.attempt import AttemptFailed, Delivery, Timeouts, attempt
from routing.call import Call
from routing.eligibility import exclusion, expected_cost, unusable_because
from routing.errors import ApiError
from routing.failures import after_failures, nobody_eligible, rejected, unusable
from routing.health import Health
from routing.scoring import PROFILES, Figures, scores
from routing.snapshot import Endpoint, Target
from telemetry.journal import Attempt
from vault.errors import VaultLocked

MAX_TARGETS: Final = 5
MAX_RETRIES: Final = 2
BACKOFF_SECONDS: Final = 0.1
_CONNECTION_FAILURES = frozenset({FailureKind.CONNECT, FailureKind.DNS, FailureKind.TLS, FailureKind.RESET})


class Engine:
    """One per process. `doors`: the transport by provider type; `""` is the default."""

    def __init__(
        self,
        *,
        doors: dict[str, Transport],
        health: Health,
        timeouts: Timeouts,
        rng: Random,
        vault_is_open: Callable[[], bool],
    ) -> None:
        self._doors = doors
        self._health = health
        self._timeouts = timeouts
        self._rng = rng
        self._vault_is_open = vault_is_open

    async def deliver(self, call: Call) -> Delivery:
        """The first delivery that a target gives. Raises ApiError. Every attempt is noted in `call.attempts`."""
        failures: list[tuple[Target, AttemptFailed]] = []
        skipped: set[str] = set()
        targets = self._targets(call)
        waiting: list[Target] = []
        while len({target.model_id for target, _ in failures}) < MAX_TARGETS:
            target = waiting.pop(0) if waiting else next(targets, None)
            if target is None:
                break
            if target.provider.id in skipped:
                continue
            delivery = await self._try(call, target, failures)
            if delivery is not None:
                delivery.reason = _reason(call, target, failures)
                return delivery
            if not failures or failures[-1][0] is not target:
                continue  # the request cannot be said in this target's dialect
            failure = failures[-1][1]
            match failure.error:
                case ErrorClass.INVALID_REQUEST if target is call.hint:
                    raise rejected(failure)
                case ErrorClass.AUTH if failure.status != 403:
                    skipped.add(target.provider.id)
                case ErrorClass.CONTEXT_OVERFLOW:
                    rest = [*waiting, *targets]
                    waiting = sorted(rest, key=lambda one: -one.max_context_tokens)
                    waiting = [one for one in waiting if one.max_context_tokens > target.max_context_tokens]
                    targets = iter(())
            if _deadline_passed(call):
                break
        raise self._final_error(call, failures)

    def first_choice(self, call: Call) -> Target:
        """Who would be asked first. Raises ApiError when nobody could be."""
        target = next(self._targets(call), None)
        if target is None:
            raise self._final_error(call, [])
        return target

    async def ask(self, call: Call, target: Target) -> Delivery:
        """One attempt that leaves no mark on the target's health. Raises as `attempt`."""
        door = self._doors.get(target.provider.type) or self._doors[""]
        return await attempt(call, target, self._endpoint(target, set(), monotonic()), door, self._timeouts)

    # -- which targets -------------------------------------------------------------------------------------------
    def _targets(self, call: Call) -> Iterator[Target]:
        """Lazily: a request whose named model answers never pays for the ranking."""
        hint = call.hint
        if hint is None:
            yield from self.ranked(call)
            return
        if reason := unusable_because(hint, dialect=call.dialect, vault_open=self._vault_is_open()):
            if reason in {"vault_locked", "no_dialect"} or not call.allow_fallback:
                raise unusable(hint, reason)
        else:
            resting = self._health.resting(hint.provider.id, hint.model_id, monotonic())
            others = self.ranked(call) if resting and call.allow_fallback else []
            if not others:  # an only target is asked even while it rests: its provider knows best
                yield hint
                others = self.ranked(call) if call.allow_fallback else []
            yield from others
            return
        yield from self.ranked(call)

    def ranked(self, call: Call, excluded: dict[str, str] | None = None) -> list[Target]:
        """The eligible targets but the named one, best first. `excluded` is filled with why the others are not."""
        now, vault_open = monotonic(), self._vault_is_open()
        eligible: list[Target] = []
        figures: list[Figures] = []
        for target in call.snapshot.routable:
            if target is call.hint:
                continue
            stats = self._health.stats(target.provider.id, target.model_id)
            why = exclusion(
                target,
                dialect=call.dialect,
                needs=call.needs,
                policy=call.policy,
                key=call.key,
                resting=self._health.resting(target.provider.id, target.model_id, now),
                latency_ms=stats.latency_ms if stats.calls else 0.0,
                vault_open=vault_open,
            )
            if why:
                if excluded is not None:
                    excluded[target.model_id] = why
                continue
            eligible.append(target)
            figures.append(Figures(expected_cost(target, call.needs), stats.latency_ms, stats.failure, target.weight))
        ranks = scores(figures, PROFILES[call.policy.mode])
        return [target for _, _, target in sorted(zip(ranks, range(len(ranks)), eligible, strict=True))]

    # -- one target ----------------------------------------------------------------------------------------------
    async def _try(self, call: Call, target: Target, failures: list[tuple[Target, AttemptFailed]]) -> Delivery | None:
        """The target's delivery, after retries where they help. None: it failed, as the last of `failures` says."""
        door = self._doors.get(target.provider.type) or self._doors[""]
        provider, model = target.provider.id, target.model_id
        avoid: set[str] = set()
        for retry in range(MAX_RETRIES + 1):
            if retry:
                await asyncio.sleep(BACKOFF_SECONDS * 2 ** (retry - 1) * (0.5 + self._rng.random()))
            started = monotonic()
            endpoint = self._endpoint(target, avoid, started)
            try:
                delivery = await attempt(call, target, endpoint, door, self._timeouts)
            except InvalidRequest as problem:
                if target is call.hint:
                    raise ApiError(problem.code, problem.message, param=problem.param) from None
                return None
            except VaultLocked:
                raise unusable(target, "vault_locked") from None
            except AttemptFailed as failure:
                now = monotonic()
                failures.append((target, failure))
                call.attempts.append(_attempt_record(target, failure, (now - started) * 1000))
                self._health.failed(
                    provider, model, failure.error, now=now, retry_after=failure.retry_after, status=failure.status
                )
                if failure.kind in _CONNECTION_FAILURES or failure.status >= 500:
                    avoid.add(endpoint.shown)
                    self._health.endpoint_failed(provider, endpoint.shown, now)
                if not is_retriable(failure.error, failure.kind) or _deadline_passed(call):
                    return None
            else:
                elapsed = (monotonic() - started) * 1000
                call.attempts.append(Attempt(model=model, provider=provider, latency_ms=int(elapsed)))
                self._health.succeeded(provider, model, latency_ms=elapsed)
                self._health.endpoint_answered(provider, endpoint.shown)
                return delivery
        return None

    def _endpoint(self, target: Target, avoid: set[str], now: float) -> Endpoint:
        endpoints = target.provider.endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        names = tuple(one.shown for one in endpoints)
        return endpoints[self._health.next_endpoint(target.provider.id, names, now, avoid)]

    # -- when nobody answered --------------------------------------------------------------------------------------
    def _final_error(self, call: Call, failures: list[tuple[Target, AttemptFailed]]) -> ApiError:
        if failures:
            return after_failures(failures)
        excluded: dict[str, str] = {}
        self.ranked(call, excluded)
        return nobody_eligible(call.snapshot, excluded)


def _deadline_passed(call: Call) -> bool:
    deadline = call.policy.deadline_ms
    return deadline is not None and (monotonic() - call.started_at) * 1000 >= deadline


def _reason(call: Call, target: Target, failures: list[tuple[Target, AttemptFailed]]) -> str:
    if not failures:
        return "model-hint" if target is call.hint else f"routed-weight-{target.weight}"
    last_target, last = failures[-1]
    if last_target is target:
        return "retried-transient"
    if last.error is ErrorClass.CONTEXT_OVERFLOW:
        return "escalated-context-overflow"
    return f"failover-{last.error.value}"


def _attempt_record(target: Target, failure: AttemptFailed, latency_ms: float) -> Attempt:
    return Attempt(
        model=target.model_id,
        provider=target.provider.id,
        error_class=failure.error.value,
        status=failure.status,
        latency_ms=int(latency_ms),
        message=failure.message[:300],
    )
