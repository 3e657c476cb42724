"""Who answers a request, and what happens when one does not: the ranked targets and the loop of attempts.

The client's named model comes first, then the others by score; up to five targets. A transient failure is tried again
after a pause; after that, and after any other failure that another target may not have, the next target follows.
Once the first byte has gone out nothing is retried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from random import Random
from time import monotonic
from typing import Final

from keys.ledger import BudgetExceeded
from providers.client import FailureKind, Transport
from providers.formats.dialect import Relay
from providers.formats.errors import InvalidRequest
from providers.outcomes import ErrorClass, is_retriable
from routing.accounts import attempt_record, outrun_record, reason_of
from routing.affinity import AFFINITY
from routing.attempt import AttemptFailed, Delivery, Timeouts, attempt
from routing.breaker import RATE_LIMITED
from routing.call import Call
from routing.eligibility import unusable_because
from routing.errors import ApiError
from routing.failures import after_failures, nobody_eligible, rejected, unusable
from routing.health import Health
from routing.hedging import first_of
from routing.learning import Learner
from routing.patience import Patience
from routing.purse import NoPrice, exceeded
from routing.ranking import last_resort, rank
from routing.snapshot import Endpoint, Target
from routing.variants import Variants
from routing.visit import estimate
from telemetry.journal import Attempt
from vault.errors import VaultLocked

MAX_TARGETS: Final = 5
MAX_RETRIES: Final = 2
BACKOFF_SECONDS: Final = 0.1
UNIVERSAL: Final = "openai-chat"  # whoever speaks several dialects speaks this one
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
        learner: Learner | None = None,
    ) -> None:
        self._doors = doors
        self._health = health
        self._learner = learner
        self._affinity = AFFINITY
        self.variants = Variants(rng, self._affinity)
        self._timeouts = timeouts
        self._rng = rng
        self._vault_is_open = vault_is_open

    async def deliver(self, call: Call) -> Delivery:
        """The first delivery that a target gives. Raises ApiError. Every attempt is noted in `call.attempts`."""
        failures: list[tuple[Target, AttemptFailed]] = []
        skipped: set[str] = set()
        targets = self._targets(call)
        waiting: list[Target] = []
        held_back: list[Target] = []  # by now at rest, or tried by somebody else: asked if there is nobody besides
        while len({target.model_id for target, _ in failures}) < MAX_TARGETS:
            target = waiting.pop(0) if waiting else next(targets, None)
            nobody_else = target is None and bool(held_back) and not failures
            if target is None:
                if not nobody_else:
                    break
                target = held_back.pop(0)
            if target.provider.id in skipped:
                continue
            trial = self._health.admitted(target.provider.id, target.model_id, monotonic())
            if trial is None and not nobody_else:
                held_back.append(target)
                continue
            failed = len(failures)
            try:
                delivery = await self._hedged(call, target, targets, waiting, failures, skipped)
            finally:
                if trial:
                    self._health.released(target.provider.id, target.model_id, trial)
            if delivery is not None:
                delivery.reason = reason_of(call, delivery.target, failures)
                if (talk := call.conversation) is not None:
                    model_id, now = delivery.target.model_id, monotonic()
                    delivery.at_home = self._affinity.target(talk, now, call.snapshot.targets) == model_id
                    self._affinity.remember(talk, model_id, now)
                return delivery
            for who, one in failures[failed:]:
                if one.error is ErrorClass.AUTH and one.status != 403:
                    skipped.add(who.provider.id)
            failure = next((one for who, one in reversed(failures) if who is target), None)
            if failure is None:
                continue  # the request cannot be said in this target's dialect
            match failure.error:
                case ErrorClass.INVALID_REQUEST if target is call.hint:
                    raise rejected(failure)
                case ErrorClass.CONTEXT_OVERFLOW:
                    rest = [*waiting, *targets]
                    waiting = sorted(rest, key=lambda one: -one.max_context_tokens)
                    waiting = [one for one in waiting if one.max_context_tokens > target.max_context_tokens]
                    targets = iter(())
            if call.deadline_passed:
                break
        raise self._final_error(call, failures)

    async def _hedged(
        self,
        call: Call,
        target: Target,
        targets: Iterator[Target],
        waiting: list[Target],
        failures: list[tuple[Target, AttemptFailed]],
        skipped: set[str],
    ) -> Delivery | None:
        """As `_try`; where hedging is on, a stream's next target is asked too when this one is silent. What the
        one that is not heard costs is on the bill, as far as one can tell."""
        spare = None
        if self._timeouts.hedge_after and call.envelope.stream:
            spare = self._spare(targets, waiting, skipped)
        if spare is None:
            return await self._try(call, target, failures)
        started = monotonic()
        begun: dict[str, bool] = {}
        ended: list[Target] = []
        payer = call.payer.beside() if call.payer is not None else None

        async def leg(one: Target) -> Delivery | None:
            own = replace(call, patience=Patience(armed=True), begun=begun, payer=payer)
            try:
                delivery = await self._try(own, one, failures)
                ended.append(one)
                if delivery is None and one is call.hint and failures and failures[-1][0] is one:
                    _heed(failures[-1][1])
                return delivery
            finally:
                call.unaffordable = call.unaffordable or own.unaffordable
                call.unsayable = call.unsayable or own.unsayable

        def discard(late: Delivery) -> None:
            late.close()
            if late.relay is not None:
                _bill(call, late.target, late.relay)

        delivery, was_asked = await first_of(
            partial(leg, target), partial(leg, spare), after_seconds=self._timeouts.hedge_after, discard=discard
        )
        if not was_asked:
            waiting.insert(0, spare)
        elif delivery is not None:
            other = target if delivery.target is spare else spare
            if other.model_id in begun and other not in ended and all(one is not other for one, _ in failures):
                waited_ms = (monotonic() - started) * 1000
                call.attempts.insert(-1, outrun_record(other, waited_ms))
                if begun[other.model_id]:
                    _bill(call, other, None)
                if other is target:
                    self._health.outrun(target.provider.id, target.model_id, waited_ms=waited_ms)
        return delivery

    def _spare(self, targets: Iterator[Target], waiting: list[Target], skipped: set[str]) -> Target | None:
        """The next target, if nothing stands against asking it beside another one."""
        while (spare := waiting.pop(0) if waiting else next(targets, None)) is not None:
            if spare.provider.id in skipped:
                continue
            if self._is_sound(spare):
                return spare
            waiting.insert(0, spare)
            return None
        return None

    def _is_sound(self, target: Target) -> bool:
        """Nothing stands against asking it beside another one: it is no trial of one that was down."""
        trial = self._health.admitted(target.provider.id, target.model_id, monotonic())
        if trial:
            self._health.released(target.provider.id, target.model_id, trial)
        return trial == 0.0

    def first_choice(self, call: Call) -> Target:
        """Who would be asked first. Raises ApiError when nobody could be."""
        target = next(self._targets(call), None)
        if target is None:
            raise self._final_error(call, [])
        return target

    async def ask(self, call: Call, target: Target) -> Delivery:
        """One attempt in the client's own dialect, which leaves no mark on the target's health. Raises as `attempt`."""
        door = self._doors.get(target.provider.type) or self._doors[""]
        endpoint = self._endpoint(target, set(), monotonic())
        return await attempt(call, target, call.dialect, endpoint, door, self._timeouts)

    def rests(self, target: Target) -> bool:
        return bool(self._health.resting(target.provider.id, target.model_id, monotonic()))

    async def ask_once(self, call: Call, target: Target) -> Delivery:
        """One attempt, in whatever dialect the target speaks; it tells of the target's health. Raises AttemptFailed,
        ApiError, InvalidRequest."""
        if reason := unusable_because(target, dialect=call.dialect, vault_open=self._vault_is_open()):
            raise unusable(target, reason)
        if call.payer is not None:
            try:
                call, _ = await call.payer.cover(call, target)
            except NoPrice:
                raise unusable(target, "no_price") from None
            except BudgetExceeded as problem:
                raise exceeded(problem) from None
        door = self._doors.get(target.provider.type) or self._doors[""]
        provider, model, started = target.provider.id, target.model_id, monotonic()
        endpoint = self._endpoint(target, set(), started)
        dialect = target.dialect_for(call.dialect, self._health.missing(provider, started)) or call.dialect
        try:
            delivery = await attempt(call, target, dialect, endpoint, door, self._timeouts)
        except VaultLocked:
            raise unusable(target, "vault_locked") from None
        except AttemptFailed as failure:
            self._note_failure(call, target, failure, endpoint, started, [], set())
            raise
        now = monotonic()
        self._health.succeeded(provider, model, latency_ms=(now - started) * 1000, started=started, now=now)
        return delivery

    # -- which targets -------------------------------------------------------------------------------------------
    def _targets(self, call: Call) -> Iterator[Target]:
        """Lazily: a request whose named model answers never pays for the ranking."""
        hint = call.hint
        if hint is None:
            yield from self.ranked(call) or self._last_resort(call)
            return
        if reason := unusable_because(hint, dialect=call.dialect, vault_open=self._vault_is_open()):
            if reason in {"vault_locked", "no_dialect"} or not call.allow_fallback:
                raise unusable(hint, reason)
            yield from self._others(call) or self._last_resort(call)
            return
        resting = self._health.resting(hint.provider.id, hint.model_id, monotonic())
        others = self._others(call) if resting and call.allow_fallback else []
        if not others:  # an only target is asked even while it rests: its provider knows best
            yield hint
            others = self._others(call) if call.allow_fallback else []
        yield from others

    def _others(self, call: Call) -> list[Target]:
        """Who comes after the named target: the further variants of its alias, as far as they serve, and the rest."""
        now, vault_open = monotonic(), self._vault_is_open()
        variants = [
            target
            for target in call.variants
            if not unusable_because(target, dialect=call.dialect, vault_open=vault_open)
            and not self._health.resting(target.provider.id, target.model_id, now)
        ]
        return [*variants, *(target for target in self.ranked(call) if target not in variants)]

    def _last_resort(self, call: Call) -> list[Target]:
        """One that is down, when nobody else is left; it is tried once."""
        found = call.last_resort = last_resort(
            call.snapshot, dialect=call.dialect, needs=call.needs, policy=call.policy, key=call.key,
            health=self._health, vault_open=self._vault_is_open(), now=monotonic(),
        )  # fmt: skip
        return [found] if found is not None else []

    def ranked(self, call: Call) -> list[Target]:
        """The eligible targets but the named one, best first. What was looked at is noted in `call.candidates`."""
        now = monotonic()
        targets, call.candidates[:] = rank(
            call.snapshot,
            dialect=call.dialect,
            needs=call.needs,
            policy=call.policy,
            key=call.key,
            health=self._health,
            vault_open=self._vault_is_open(),
            now=now,
            hint=call.hint,
            home=self._affinity.target(call.conversation, now, call.snapshot.targets)
            if call.conversation is not None
            else "",
            learner=self._learner,
            lesson=call.lesson,
        )
        return targets

    # -- one target ----------------------------------------------------------------------------------------------
    async def _try(self, call: Call, target: Target, failures: list[tuple[Target, AttemptFailed]]) -> Delivery | None:
        """The target's delivery, after retries where they help. None: it failed, as the last of `failures` says, or the
        request cannot be said in its dialect. A 404 may be about the endpoint, which compatible services lack in part:
        then the client is translated."""
        payer = call.payer
        if payer is None or payer.cover_at_once(call, target):
            return await self._tried(call, target, failures)
        try:
            call, amount = await payer.cover(call, target)
        except NoPrice:
            if target is call.hint:
                raise unusable(target, "no_price") from None
            return None
        except BudgetExceeded as problem:
            call.unaffordable = problem
            if target is call.hint and call.alias is None:
                raise exceeded(problem) from None
            return None
        try:
            return await self._tried(call, target, failures)
        finally:
            payer.over(amount)

    async def _tried(self, call: Call, target: Target, failures: list[tuple[Target, AttemptFailed]]) -> Delivery | None:
        door = self._doors.get(target.provider.type) or self._doors[""]
        provider, model = target.provider.id, target.model_id
        missing = self._health.missing(provider, monotonic())
        dialect = target.dialect_for(call.dialect, missing) or call.dialect
        lacking = ""
        avoid: set[str] = set()
        retry = 0
        while True:
            started = monotonic()
            endpoint = self._endpoint(target, avoid, started)
            try:
                delivery = await attempt(call, target, dialect, endpoint, door, self._timeouts)
            except InvalidRequest as problem:
                if target is call.hint and not lacking:
                    raise ApiError.of(problem) from None
                call.unsayable = problem
                return None
            except VaultLocked:
                raise unusable(target, "vault_locked") from None
            except AttemptFailed as failure:
                self._note_failure(call, target, failure, endpoint, started, failures, avoid)
                other = None
                if failure.status in {404, 405} and dialect is call.dialect and dialect.name != UNIVERSAL:
                    other = target.dialect_for(dialect, {dialect.name, *missing})
                if other is not None:
                    lacking, dialect = dialect.name, other
                    continue
                if not is_retriable(failure.error, failure.kind) or call.deadline_passed or retry == MAX_RETRIES:
                    return None
                if self._health.rest_seconds(provider, model, monotonic()):
                    return None
                await asyncio.sleep(BACKOFF_SECONDS * 2**retry * (0.5 + self._rng.random()))
                retry += 1
            else:
                now = monotonic()
                call.attempts.append(Attempt(model=model, provider=provider, latency_ms=int((now - started) * 1000)))
                elapsed_ms = (now - started) * 1000
                first_chunk_ms = elapsed_ms if call.envelope.stream else None
                self._health.succeeded(
                    provider, model, latency_ms=elapsed_ms, started=started, now=now, first_chunk_ms=first_chunk_ms
                )
                self._health.endpoint_answered(provider, endpoint.shown)
                if lacking:
                    self._health.lacks(provider, lacking, now)
                return delivery

    def _note_failure(
        self,
        call: Call,
        target: Target,
        failure: AttemptFailed,
        endpoint: Endpoint,
        started: float,
        failures: list[tuple[Target, AttemptFailed]],
        avoid: set[str],
    ) -> None:
        now, provider = monotonic(), target.provider.id
        failures.append((target, failure))
        call.attempts.append(attempt_record(target, failure, (now - started) * 1000))
        if failure.usage is not None and call.wasted is not None:
            call.wasted(target, failure.usage)
        if failure.error is ErrorClass.TIMEOUT and call.deadline_passed:
            return  # it was the client who did not wait longer
        is_own_fault = failure.error not in {ErrorClass.INVALID_REQUEST, ErrorClass.CONTEXT_OVERFLOW}
        if call.lesson is not None and self._learner is not None and is_own_fault:
            self._learner.failed(call.lesson, target.model_id)
        self._health.failed(
            provider,
            target.model_id,
            failure.error,
            now=now,
            retry_after=failure.retry_after,
            status=failure.status,
            started=started,
            kind=failure.kind,
        )
        if failure.kind in _CONNECTION_FAILURES or failure.status >= 500:
            avoid.add(endpoint.shown)
            self._health.endpoint_failed(provider, endpoint.shown, now)

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
        if call.unaffordable is not None:
            return exceeded(call.unaffordable)
        if call.unsayable is not None:
            return ApiError.of(call.unsayable)
        self.ranked(call)
        excluded = {one.model: one.excluded for one in call.candidates if one.excluded}
        now, limited = monotonic(), [one for one in call.candidates if one.excluded == RATE_LIMITED]
        rests = [self._health.rest_seconds(one.provider, one.model, now) for one in limited]
        return nobody_eligible(call.snapshot, excluded, retry_after_seconds=min(rests, default=None))


def _heed(failure: AttemptFailed) -> None:
    """Of the model that the client named. Raises ApiError where nobody else shall answer."""
    if failure.error is ErrorClass.INVALID_REQUEST:
        raise rejected(failure)


def _bill(call: Call, target: Target, heard: Relay | None) -> None:
    """For a stream that was begun and that the client does not get; None: it had not said anything yet."""
    if call.wasted is not None:
        seen, size = (heard.usage, heard.produced_bytes) if heard is not None else (None, 0)
        usage = estimate(seen, input_tokens=call.needs.input_tokens, produced_bytes=size)
        call.wasted(target, usage, estimated=True)
