"""Health in the database: what workers tell each other, and what outlives a restart. Synchronous Django; belongs to the
poller's thread and never to the event loop, to which it hands over what it heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from secrets import token_hex
from time import monotonic, time
from typing import Any, Final, NamedTuple

from django.db import DatabaseError, transaction
from django.utils import timezone

from providers.models import Provider
from routing.breaker import DOWN, DOWN_AFTER, Circuit, Rests, State
from routing.health import DECAY, Change, Health, Notice, TargetStats, combined
from routing.models import HealthNotice, HealthRecord, Model
from telemetry import webhooks
from telemetry.logs import EventLogger

log = EventLogger(__name__)
SAVE_SECONDS: Final = 2.0
PRUNE_SECONDS: Final = 60.0
KEPT_SECONDS: Final = 3600.0  # a notice, after what it tells of is over
WAKE_SECONDS: Final = 0.2
FORGOTTEN_DAYS: Final = 30
_NOTICE = ("origin", "provider_id", "model_id", "reason")
_TOLD = ("began_at", "until_at", "recovered_at", "errors_left", "expires_at")
_RECORDED = (
    "calls", "errors", "consecutive_errors", "latency_ms", "first_chunk_ms", "failure", "tokens_per_guess",
    "last_error", "last_error_at", "last_success_at", "updated_at",
)  # fmt: skip
Key = tuple[str, str]


class Clocks(NamedTuple):
    """The same moment by the wall clock and by the steady one: what is stored has wall time, what is held steady."""

    wall: float
    steady: float

    @classmethod
    def now(cls) -> Clocks:
        return cls(time(), monotonic())

    def to_wall(self, steady: float) -> datetime | None:
        if not isfinite(steady):
            return None
        return datetime.fromtimestamp(self.wall + steady - self.steady, UTC)

    def to_steady(self, at: datetime) -> float:
        return self.steady + at.timestamp() - self.wall


class _Saved(NamedTuple):
    """What this worker last wrote of one target, and how many calls the row held then."""

    mark: tuple[object, ...]
    calls: int
    errors: int
    row_calls: int


class HealthStore:
    """`post`: runs a function on the thread that owns `health`."""

    def __init__(
        self,
        health: Health,
        *,
        post: Callable[[Callable[[], None]], object] = lambda call: call(),
        wake: Callable[[], object] | None = None,
    ) -> None:
        self.origin = token_hex(8)
        self._health = health
        self._post = post
        self._wake_poller = wake
        self._own: dict[tuple[str, str, str], Rests] = {}
        self._unsent: set[tuple[str, str, str]] = set()
        self._heard: dict[tuple[str, ...], tuple[object, ...]] = {}
        self._saved: dict[Key, _Saved] = {}
        self._saving = threading.Lock()
        self._save_at = self._prune_at = self._woken_at = 0.0
        self._is_urgent = False

    def wake(self) -> None:
        """Something that others should know soon. Called by whoever owns `health`; does not wait."""
        self._is_urgent = True
        now = monotonic()
        if self._wake_poller is not None and now - self._woken_at > WAKE_SECONDS:
            self._woken_at = now
            self._wake_poller()

    def load(self) -> None:
        """At the start, before anybody else uses `health`. Raises DatabaseError."""
        clocks = Clocks.now()
        for row in HealthRecord.objects.all():
            self._restore(row, clocks)
        self._health.merge(self._hear(clocks))
        for circuit in (*self._health.targets.values(), *self._health.providers.values()):
            circuit.told = circuit.lasting_state

    def sync(self) -> None:
        """One turn: tell, hear, save what is due. Raises DatabaseError; what was not told is told the next time."""
        clocks = Clocks.now()
        urgent, self._is_urgent = self._is_urgent, False
        self._tell(clocks)
        if heard := self._hear(clocks):
            self._post(lambda: self._health.merge(heard))
        if urgent or clocks.steady >= self._save_at:
            self._save_at = clocks.steady + SAVE_SECONDS
            self.save()
        while self._health.changes:
            key, change = self._health.changes.popitem()
            try:
                _announce(change)
            except DatabaseError:
                self._health.changes.setdefault(key, change)
                raise
        if clocks.steady >= self._prune_at:
            self._prune_at = clocks.steady + PRUNE_SECONDS
            _prune()

    # -- rests ---------------------------------------------------------------------------------------------------
    def _tell(self, clocks: Clocks) -> None:
        notices = self._health.notices
        while notices:
            one = notices.popleft()
            key = (one.provider_id, one.model_id, one.reason)
            rests = self._own.setdefault(key, Rests())
            if one.recovered_at is not None:
                rests.recover(one.recovered_at, one.errors_left)
            else:
                rests.rest(one.began, one.until)
                if key not in self._unsent:
                    seconds = round(one.until - one.began, 1)
                    log.warning("target_rests", provider=key[0], model=key[1], reason=key[2], seconds=seconds)
            self._unsent.add(key)
        if not self._unsent:
            return
        HealthNotice.objects.bulk_create(
            [self._row(key, clocks) for key in self._unsent],
            update_conflicts=True,
            unique_fields=_NOTICE,
            update_fields=_TOLD,
        )
        self._unsent.clear()

    def _row(self, key: tuple[str, str, str], clocks: Clocks) -> HealthNotice:
        rests = self._own[key]
        began, until = rests.longest or (None, None)
        last = clocks.wall + max((until or 0.0) - clocks.steady, 0.0)
        return HealthNotice(
            origin=self.origin,
            provider_id=key[0],
            model_id=key[1],
            reason=key[2],
            began_at=None if began is None else clocks.to_wall(began),
            until_at=None if until is None else clocks.to_wall(until),
            recovered_at=clocks.to_wall(rests.recovered_at),
            errors_left=rests.errors_left,
            expires_at=datetime.fromtimestamp(last + KEPT_SECONDS, UTC),
        )

    def _hear(self, clocks: Clocks) -> list[Notice]:
        """What others told since the last time."""
        now = datetime.fromtimestamp(clocks.wall, UTC)
        rows = HealthNotice.objects.filter(expires_at__gt=now).exclude(origin=self.origin)
        told = {row[:4]: row[4:] for row in rows.values_list(*_NOTICE, *_TOLD)}
        fresh = [_notice(key, row, clocks) for key, row in told.items() if self._heard.get(key) != row]
        self._heard = told
        return fresh

    # -- figures -------------------------------------------------------------------------------------------------
    def save(self) -> None:
        """What has changed since the last time. Any thread may call it. Raises DatabaseError."""
        with self._saving:
            clocks = Clocks.now()
            circuits: dict[Key, Circuit] = dict(self._health.targets.copy())
            circuits |= {(provider, ""): one for provider, one in self._health.providers.copy().items()}
            changed = {key: (one, mark) for key, one in circuits.items() if (mark := self._changed(key, one))}
            if changed:
                self._write(changed, clocks)

    def _changed(self, key: Key, circuit: Circuit) -> tuple[object, ...] | None:
        calls = circuit.calls if isinstance(circuit, TargetStats) else 0
        mark = (calls, circuit.consecutive_errors, circuit.last_error)
        saved = self._saved.get(key)
        return mark if mark != (saved.mark if saved else (0, 0, "")) else None

    def _write(self, changed: Mapping[Key, tuple[Circuit, tuple[object, ...]]], clocks: Clocks) -> None:
        written: dict[Key, _Saved] = {}
        with transaction.atomic():
            found = HealthRecord.objects.select_for_update().filter(provider_id__in={key[0] for key in changed})
            rows = {(row.provider_id, row.model_id): row for row in found}
            for key, (circuit, mark) in changed.items():
                row = rows.setdefault(key, HealthRecord(provider_id=key[0], model_id=key[1]))
                saved = self._saved.get(key, _Saved((), 0, 0, 0))
                row.consecutive_errors = circuit.consecutive_errors
                row.last_error = circuit.last_error[:200]
                row.last_error_at = _later(row.last_error_at, clocks.to_wall(circuit.last_error_at))
                row.last_success_at = _later(row.last_success_at, clocks.to_wall(circuit.last_success_at))
                row.updated_at = datetime.fromtimestamp(clocks.wall, UTC)
                calls = errors = 0
                if isinstance(circuit, TargetStats):
                    calls, errors = circuit.calls, circuit.errors
                    _blend(row, circuit, calls - saved.calls, is_alone=row.calls == saved.row_calls)
                    row.calls += calls - saved.calls
                    row.errors += errors - saved.errors
                written[key] = _Saved(mark, calls, errors, row.calls)
            HealthRecord.objects.bulk_create(
                [rows[key] for key in changed],
                update_conflicts=True,
                unique_fields=["provider_id", "model_id"],
                update_fields=_RECORDED,
            )
        self._saved |= written

    def _restore(self, row: HealthRecord, clocks: Clocks) -> None:
        provider = self._health.provider(row.provider_id)
        circuit: Circuit = provider
        if row.model_id:
            circuit = stats = self._health.stats(row.provider_id, row.model_id)
            stats.calls, stats.errors = row.calls, row.errors
            stats.latency_ms = stats.measured_ms = row.latency_ms
            stats.first_chunk_ms, stats.failure = row.first_chunk_ms, row.failure
            stats.tokens_per_guess = row.tokens_per_guess
            stats.faded_at = clocks.to_steady(row.updated_at)
        circuit.last_error = row.last_error
        circuit.consecutive_errors = row.consecutive_errors
        circuit.troubled = row.consecutive_errors > 0
        if row.last_error_at is not None:
            circuit.last_error_at = clocks.to_steady(row.last_error_at)
            if row.model_id and row.consecutive_errors >= DOWN_AFTER:  # half open, unless a notice says more
                circuit.rest(DOWN, circuit.last_error_at, circuit.last_error_at)
        if row.last_success_at is not None:
            circuit.last_success_at = clocks.to_steady(row.last_success_at)
            provider.last_success_at = max(provider.last_success_at, circuit.last_success_at)
        mark = (row.calls if row.model_id else 0, row.consecutive_errors, row.last_error)
        self._saved[row.provider_id, row.model_id] = _Saved(mark, row.calls, row.errors, row.calls)


@transaction.atomic
def _announce(change: Change) -> None:
    """Tells of a change, unless another worker told of the same, or of worse that this one does not know yet. Webhooks
    get what begins or ends an outage."""
    before, after = change.before, change.after
    now, key = after.name.lower(), {"provider_id": change.provider_id, "model_id": change.model_id}
    told = [one for one in State if (one > after if after < before else before <= one < after)]
    HealthRecord.objects.get_or_create(**key, defaults={"updated_at": timezone.now()})
    rows = HealthRecord.objects.filter(**key, told_state__in=[one.name.lower() for one in told])
    if not rows.update(told_state=now):
        return
    data = {**key, "scope": "model" if change.model_id else "provider", "from": before.name.lower(), "to": now}
    if after is not State.HEALTHY:
        data["last_error"] = change.last_error
    webhooks.announce("health_change", data, durably=State.DOWN in {before, after})


def _blend(row: HealthRecord, stats: TargetStats, calls: int, *, is_alone: bool) -> None:
    """The worker's own averages, if no other worker has written meanwhile; else moved towards them, the more calls the
    further."""
    share = 1.0 if is_alone else 1.0 - (1.0 - DECAY) ** max(calls, 0)
    row.latency_ms += (stats.measured_ms - row.latency_ms) * share
    row.first_chunk_ms += (stats.first_chunk_ms - row.first_chunk_ms) * (share if row.first_chunk_ms else 1.0)
    row.failure += (stats.failure - row.failure) * share
    row.tokens_per_guess += (stats.tokens_per_guess - row.tokens_per_guess) * share


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _notice(key: tuple[Any, ...], told: tuple[Any, ...], clocks: Clocks) -> Notice:
    """A row in steady time. A host whose clock is ahead cannot rest anything for longer than it said itself."""
    _, provider_id, model_id, reason = key
    began_at, until_at, recovered_at, errors_left, _ = told
    began = until = 0.0
    if began_at is not None and until_at is not None:
        began = min(clocks.to_steady(began_at), clocks.steady)
        until = min(clocks.to_steady(until_at), clocks.steady + (until_at - began_at).total_seconds())
    recovered = None if recovered_at is None else min(clocks.to_steady(recovered_at), clocks.steady)
    return Notice(provider_id, model_id, reason, began, until, recovered, errors_left)


def _prune() -> None:
    now = timezone.now()
    if HealthNotice.objects.filter(expires_at__lte=now).exists():
        HealthNotice.objects.filter(expires_at__lte=now).delete()
    old = HealthRecord.objects.filter(updated_at__lt=now - timedelta(days=FORGOTTEN_DAYS))
    if old.exists():
        old.delete()


# -- for people ----------------------------------------------------------------------------------------------------
def health_report(*, store: HealthStore | None = None) -> dict[str, Any]:
    """Health of the enabled providers and models, as the HTTP contract shows it. `store`: of this process, if it is a
    worker, whose newest figures are saved first; those of other workers are up to two seconds old. Not for the event
    loop. Raises DatabaseError."""
    if store is not None:
        store.save()
    health = Health()
    HealthStore(health).load()
    clocks = Clocks.now()
    owned: dict[str, list[str]] = {}
    for model_id, provider_id in Model.objects.filter(enabled=True).values_list("id", "provider_id"):
        owned.setdefault(provider_id, []).append(model_id)
    ids = Provider.objects.filter(enabled=True).values_list("id", flat=True)
    return {"providers": [_provider_report(health, one, owned.get(one, []), clocks) for one in ids]}


def health_states() -> dict[Key, State]:
    """By provider and model; the latter is empty for a provider as such. Healthy is who is not in it."""
    health, now = Health(), monotonic()
    HealthStore(health).load()
    states = {key: one.state(now) for key, one in health.targets.items()}
    return states | {(provider, ""): one.state(now) for provider, one in health.providers.items()}


def _provider_report(health: Health, provider_id: str, model_ids: list[str], clocks: Clocks) -> dict[str, Any]:
    circuit = health.provider(provider_id)
    found = {model_id: health.stats(provider_id, model_id) for model_id in sorted(model_ids)}
    now = clocks.steady
    state = combined(circuit.state(now), [one.state(now) for one in found.values()])
    soonest = min((one.rest_until for one in found.values()), default=0.0)  # when a model may be asked again
    calls = sum(one.calls for one in found.values())
    latency = sum(one.measured_ms * one.calls for one in found.values() if one.calls > one.errors)
    measured = sum(one.calls for one in found.values() if one.calls > one.errors)
    return {
        "provider_id": provider_id,
        **_figures(circuit, state, clocks),
        "cooldown_until": _cooldown(max(circuit.rest_until, soonest), clocks),
        "total_requests": calls,
        "total_errors": sum(one.errors for one in found.values()),
        "avg_latency_ms": round(latency / measured, 1) if measured else None,
        "models": [
            {
                "model_id": model_id,
                **_figures(one, one.state(now), clocks),
                "total_requests": one.calls,
                "total_errors": one.errors,
                "avg_latency_ms": round(one.measured_ms, 1) if one.calls > one.errors else None,
            }
            for model_id, one in found.items()
        ],
    }


def _figures(circuit: Circuit, state: State, clocks: Clocks) -> dict[str, Any]:
    return {
        "state": state.name.lower(),
        "consec_errors": circuit.consecutive_errors,
        "last_error": circuit.last_error or None,
        "last_success_at": _shown(clocks.to_wall(circuit.last_success_at)),
        "cooldown_until": _cooldown(circuit.rest_until, clocks),
    }


def _cooldown(until: float, clocks: Clocks) -> str | None:
    return _shown(clocks.to_wall(until)) if until > clocks.steady else None


def _shown(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
