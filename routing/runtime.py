"""What one process of the data plane holds: snapshot, engine, journal, counters. Made on the first request or at
start-up, whichever comes first, because not every ASGI server says when it starts."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from datetime import timedelta
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from time import monotonic, time
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import close_old_connections
from django.db.utils import DatabaseError
from django.utils import timezone

from keys.allowance import Allowances
from keys.bank import DatabaseBank, host_of, recalled, settled
from keys.ledger import Ledger, OutcomeUnknown
from keys.limit_table import ADDRESS_MEMORY, TABLE, Addresses
from keys.limits import AddressLimiter
from providers.client import Transport, build_transport
from providers.outbox import Outbox
from providers.sandbox import SandboxTransport
from routing.aside import Asides
from routing.attempt import Timeouts
from routing.bandit import RewardWeights
from routing.breaker import State
from routing.capturing import Captures
from routing.changes import CHANGED
from routing.engine import Engine
from routing.health import Health, provider_states
from routing.health_store import HealthStore
from routing.judging import Judge
from routing.learning import Learner
from routing.learning_store import LearningStore
from routing.probes import Finding, Prober, Subject
from routing.shadow import Shadows
from routing.snapshot import Snapshot
from routing.snapshot_build import build_snapshot, config_version
from telemetry import webhooks
from telemetry.capture_text import Redaction
from telemetry.events import BUS
from telemetry.ingest import Ingester
from telemetry.journal import Journal
from telemetry.logs import EventLogger
from telemetry.loop_lag import LoopLag
from telemetry.metrics import Metrics, Page, alone
from telemetry.metrics_page import of_registry
from telemetry.metrics_shared import Shared, its_run
from vault import capture_key
from vault.errors import VaultLocked
from vault.keyring import KEYRING
from vault.services import lock_when_idle, open_from_environment

if TYPE_CHECKING:
    from keys.shared_limits import SharedLimits
    from telemetry.tracing_export import Tracer

log = EventLogger(__name__)
POLL_SECONDS = 0.5
REFUSALS_LOGGED_PER_SECOND = 10
ASIDES_AT_ONCE = 16
SPENT_SECONDS = 5.0
HURRY_SECONDS = 0.05  # while processes pass a nearly spent budget to each other
HURRIES_FOR_SECONDS = 3.0
LAST_WORDS_SECONDS = 1.5


AT_START: list[Callable[[threading.Event], None]] = []
"""What the layers above do beside serving, each in a thread of its own, until the event is set."""


class Runtime:
    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.health = Health()
        self.learner = Learner(
            rng=Random(),  # noqa: S311  draws, no secret
            weights=RewardWeights(**settings.TOKENHUB_REWARD_WEIGHTS),
        )
        self.shared_health = HealthStore(self.health, post=self._post, wake=CHANGED.set)
        self.health.wake = self.shared_health.wake
        self.shared_learning = LearningStore(self.learner, post=self._post)
        self.without_count: dict[str, float] = {}
        """Providers that count no tokens, and until when they are not asked again."""
        self.metrics = Metrics()
        self.metrics.provider_skips = self.health.skips
        self.metrics.provider_states = self._provider_states
        self._lag = LoopLag()
        self.journal = Journal(journal_folder())
        self.events = BUS
        self.captures = Captures(
            Redaction(settings.TOKENHUB_CAPTURE_REDACT),
            most=settings.TOKENHUB_CAPTURE_MAX_BYTES,
            lost=self._capture_lost,
        )
        self.outbox = Outbox(before=self.journal.flush)
        self.output_repairs: int = settings.TOKENHUB_OUTPUT_REPAIRS
        self.addresses = Addresses(
            ADDRESS_MEMORY, rate=settings.TOKENHUB_RATE_LIMIT_RPS, burst=settings.TOKENHUB_RATE_LIMIT_BURST
        )
        self.shared_limits: SharedLimits | None = None
        self.refusals = AddressLimiter(rate=REFUSALS_LOGGED_PER_SECOND, burst=REFUSALS_LOGGED_PER_SECOND)
        self.max_body_bytes: int = settings.TOKENHUB_MAX_BODY_BYTES
        self.body_timeout: float = settings.TOKENHUB_BODY_TIMEOUT_SECS
        self.stream_idle_timeout: float = settings.TOKENHUB_STREAM_IDLE_TIMEOUT_SECS
        self.stream_keepalive: float = settings.TOKENHUB_STREAM_KEEPALIVE_SECS
        self.cors_origins = frozenset(origin.encode("latin-1") for origin in settings.TOKENHUB_CORS_ORIGINS)
        self.trusted_proxies = _networks(settings.TOKENHUB_TRUSTED_PROXIES)
        self.ready = False
        self.starting = asyncio.Lock()
        self._stop = threading.Event()
        self._webhooks = webhooks.Sender()
        self._poller = threading.Thread(target=self._poll, name="snapshot-poller", daemon=True)
        self._ingester = Ingester(journal_folder())
        self.money_fail_open: bool = settings.TOKENHUB_MONEY_FAIL_OPEN
        self._recalls_read_to = timezone.now()
        self._spent_read_at = 0.0
        self._hurry_until = 0.0
        self._transports: list[Transport] = []
        self.tracer: Tracer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Raises DatabaseError or OSError when there is nothing to serve from."""
        async with self.starting:
            if self.ready:
                return
            await asyncio.to_thread(self._load)
            await asyncio.to_thread(self._load_health)
            self._loop = asyncio.get_running_loop()
            TABLE.lease_by(self._loop.call_later)
            self.allowances = Allowances(TABLE, self._loop.call_later)
            if KEYRING.is_untouched:  # no master process did it: uvicorn or daphne by themselves
                await asyncio.to_thread(_open_vault)
            await asyncio.to_thread(self._make_capture_key)
            self.journal.open()
            self._bank = DatabaseBank(holder=self.journal.holder, host=host_of(journal_folder()))
            self.ledger = Ledger(self._bank)
            self.ledger.collect = self.allowances.close_all
            default, sandbox = build_transport(settings.TOKENHUB_UPSTREAM_TRANSPORT), SandboxTransport()
            self._transports = [default, sandbox]
            self._prober = Prober(self.health, default)
            self.engine = Engine(
                doors={"": default, "sandbox": sandbox},
                health=self.health,
                timeouts=Timeouts(
                    settings.TOKENHUB_PROVIDER_TIMEOUT_SECS,
                    settings.TOKENHUB_REQUEST_TIMEOUT_SECS,
                    settings.TOKENHUB_HEDGE_AFTER_MS / 1000,
                ),
                rng=Random(),  # noqa: S311  jitter, no secret
                vault_is_open=lambda: KEYRING.is_open,
                learner=self.learner,
            )
            self._asides = self._make_asides()
            self.shadows = Shadows(self._asides, rng=Random())  # noqa: S311  draws, no secret
            self.judge = Judge(
                self._asides,
                self.learner,
                model_id=settings.TOKENHUB_JUDGE_MODEL,
                share=settings.TOKENHUB_JUDGE_SHARE,
                rng=Random(),  # noqa: S311  draws, no secret
            )
            if settings.TOKENHUB_REDIS_URL:
                from keys.shared_limits import SharedLimits  # with hiredis and ssl: only where they are needed

                self.shared_limits = SharedLimits(settings.TOKENHUB_REDIS_URL, addresses=self.addresses)
                await self.shared_limits.start()
            self.all_metrics = Shared(its_run(metrics_folder()), self._page)
            self.all_metrics.start()
            if settings.TOKENHUB_OTEL_ENABLED:
                self.tracer = await asyncio.to_thread(_tracer)
            self._lag.start()
            self._poller.start()
            self._ingester.start()
            self._webhooks.start()
            for task in AT_START:
                threading.Thread(target=task, args=(self._stop,), name=task.__name__, daemon=True).start()
            await asyncio.to_thread(self.events.start)
            _settle()
            self.ready = True

    async def stop(self) -> None:
        """Lets nothing be lost: the journal is written out. The rows follow from it, now or after the next start."""
        if not self.ready:
            return
        self.ready = False
        self._stop.set()
        self.allowances.close_all()
        TABLE.lease_by(None)
        CHANGED.set()
        self._webhooks.stop()
        await self._last_words()
        await self._prober.stop()
        await self._asides.stop()
        if self.shared_limits is not None:
            await self.shared_limits.stop()
        for transport in self._transports:
            await transport.close()
        self.journal.close()
        self._lag.stop()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.stop)
        await asyncio.to_thread(self.all_metrics.stop)
        await asyncio.to_thread(self._ingester.stop)
        await asyncio.to_thread(self._end_health)
        await asyncio.to_thread(self.events.stop)

    async def _last_words(self) -> None:
        """Requests that the server has cut off are not in the journal yet, where they let go of something first."""
        until = monotonic() + LAST_WORDS_SECONDS
        while self.metrics.in_flight and monotonic() < until:  # noqa: ASYNC110  a number
            await asyncio.sleep(0.01)

    # -- the configuration ----------------------------------------------------------------------------------------
    def _load(self) -> None:
        try:
            fresh = build_snapshot()
        finally:
            close_old_connections()
        old, self.snapshot = self.snapshot, fresh
        self.metrics.snapshot_version = fresh.version
        changed: set[str] = set()
        for target in old.targets.values():
            now = fresh.targets.get(target.model_id)
            before = target.provider.credential
            after = now.provider.credential if now else None
            if before is not None and after is not None and before.sealed != after.sealed:
                changed.add(target.provider.id)
        for provider_id in changed:
            self._post(partial(self.health.credential_changed, provider_id, monotonic()))

    def _make_capture_key(self) -> None:
        """With the first that is to be captured, once the vault is open."""
        if not self.snapshot.is_capturing or self.snapshot.capture_key is not None or not KEYRING.is_open:
            return
        try:
            capture_key.make()
            self._load()
        except VaultLocked:
            pass
        finally:
            close_old_connections()

    def _poll(self) -> None:
        """Follows the version in the database; at once after a change made in this process. Leases that others wait for
        are looked at more often."""
        followed_at = -inf
        while not self._stop.is_set():
            CHANGED.wait(HURRY_SECONDS if monotonic() < self._hurry_until else POLL_SECONDS)
            woken = CHANGED.is_set()
            CHANGED.clear()
            if self._stop.is_set():
                return
            try:
                if woken or monotonic() - followed_at >= POLL_SECONDS:
                    followed_at = monotonic()
                    self._follow()
                self._settle_leases()
            except DatabaseError as problem:
                log.warning("snapshot_not_refreshed", error=type(problem).__name__)
            except Exception:  # the thread must outlive a defect: it is how revoked keys are learnt
                log.exception("snapshot_not_refreshed")
            finally:
                close_old_connections()

    def _follow(self) -> None:
        lock_when_idle()
        if time() >= self.snapshot.stale_at or config_version() != self.snapshot.version:
            self._load()
        self._make_capture_key()
        self._share_health()
        self.shared_learning.sync()

    # -- health, shared with other workers -------------------------------------------------------------------------
    def _load_health(self) -> None:
        try:
            self.shared_health.load()
            self.shared_learning.load()
        finally:
            close_old_connections()

    def _share_health(self) -> None:
        """In the poller's thread."""
        try:
            self.shared_health.sync()
        except DatabaseError as problem:
            log.warning("health_not_shared", error=type(problem).__name__)

    def probe(self, subjects: Sequence[Subject]) -> list[Finding]:
        """A round over the connections of the traffic. For a thread that may wait; nothing once the worker stops."""
        if not self.ready or self._loop is None:
            return []
        try:
            return asyncio.run_coroutine_threadsafe(self._prober.round(subjects), self._loop).result()
        except CancelledError:
            return []

    def _end_health(self) -> None:
        self._poller.join(timeout=10)
        try:
            self.shared_health.sync()
            self.shared_health.save()
            self.shared_learning.end()
            self.ledger.surrender(everything=True)
            self._return_leases()
        except DatabaseError as problem:
            log.warning("health_not_saved", error=type(problem).__name__)
        finally:
            close_old_connections()

    # -- leases of budgets -----------------------------------------------------------------------------------------
    def _settle_leases(self) -> None:
        """In the poller's thread. Gives back what is idle, and what other processes need; learns what is spent."""
        if not (periods := self.ledger.periods()) and not self.ledger.returns:
            return
        since = self._recalls_read_to
        self._recalls_read_to = timezone.now() - timedelta(seconds=1)  # a transaction may end later than its clock says
        if wanted := recalled(periods, since):
            self._hurry_until = monotonic() + HURRIES_FOR_SECONDS
        self._post(partial(self._surrender, wanted))
        if monotonic() - self._spent_read_at > SPENT_SECONDS:
            self._spent_read_at = monotonic()
            self._post(partial(self.ledger.saw, settled(periods)))
        self._return_leases()

    def _surrender(self, periods: list[int]) -> None:
        self.ledger.surrender(recalled=periods)
        if self.ledger.returns:
            CHANGED.set()

    def _return_leases(self) -> None:
        while self.ledger.returns:
            try:
                self._bank.give_back(self.ledger.returns[0])
            except OutcomeUnknown:  # twice would be too much; at worst it comes back when this process has ended
                log.warning("lease_return_unknown")
            self.ledger.returns.popleft()

    def _post(self, call: Callable[[], object]) -> None:
        """Has the event loop call it: health belongs to it alone."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _provider_states(self) -> dict[str, State]:
        targets = ((target.provider.id, target.model_id) for target in self.snapshot.targets.values())
        return provider_states(self.health, targets, monotonic())

    def _page(self, with_foreign: bool) -> Page:
        """What this process has counted. From any thread."""
        others = {
            "tokenhub_journal_lines_total": self.journal.lines,
            "tokenhub_journal_failing": int(self.journal.is_failing),
            "tokenhub_event_loop_lag_seconds": self._lag.seconds(),
            "tokenhub_spans_exported_total": self.tracer.exported if self.tracer is not None else 0,
            "tokenhub_spans_dropped_total": self.tracer.dropped if self.tracer is not None else 0,
        }
        return Page(time(), self.metrics.series() | alone(others), of_registry() if with_foreign else [])

    def _make_asides(self) -> Asides:
        def dropped() -> None:
            self.metrics.shadows_dropped += 1

        return Asides(
            engine=self.engine,
            journal=self.journal,
            ledger=self.ledger,
            captures=self.captures,
            at_once=ASIDES_AT_ONCE,
            dropped=dropped,
        )

    def _capture_lost(self) -> None:
        self.metrics.captures_lost += 1

    def is_trusted_proxy(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.trusted_proxies)

    def count_refusal(self, address: str) -> bool:
        """Whether a refused key is still worth a row in the log; the rest is counted."""
        if self.refusals.take(address, monotonic()) == 0.0:
            return True
        self.metrics.unlogged_refusals += 1
        return False


def _open_vault() -> None:
    try:
        open_from_environment()
    finally:
        close_old_connections()


def _settle() -> None:
    """What is loaded by now stays: the collector need not look at it again. Requests make hardly any cycles, so it may
    look more rarely at the rest, too."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    sys.setswitchinterval(0.001)  # the ingester shares the interpreter: answers should not wait 5 ms for it


def journal_folder() -> Path:
    return Path(settings.TOKENHUB_DATA_DIR) / "journal"


def _tracer() -> Tracer | None:
    from telemetry.tracing_export import Tracer  # nobody else pays for it

    tracer = Tracer(
        endpoint=settings.TOKENHUB_OTEL_ENDPOINT,
        service=settings.TOKENHUB_OTEL_SERVICE_NAME,
        version=settings.VERSION,
    )
    try:
        tracer.start()
    except ImportError as problem:
        log.error("tracing_unavailable", reason=str(problem))
        return None
    return tracer


def metrics_folder() -> Path:
    return Path(settings.TOKENHUB_DATA_DIR) / "metrics"


def _networks(entries: tuple[str, ...]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    result = []
    for entry in entries:
        try:
            result.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            log.error("trusted_proxy_unreadable", entry=entry)
    return result


_RUNTIME: Runtime | None = None


def runtime() -> Runtime:
    """This process's. Called on the event loop only."""
    global _RUNTIME
    if _RUNTIME is None:
        _RUNTIME = Runtime()
    return _RUNTIME


def serving() -> Runtime | None:
    """This process's, if it serves. From any thread."""
    return _RUNTIME if _RUNTIME is not None and _RUNTIME.ready else None
