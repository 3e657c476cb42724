"""The runs of one process: those of its clients, and those in the background, which it holds by leases and takes over
from workers that are gone. Belongs to the event loop; what it keeps, it keeps by threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from django.db.utils import DatabaseError

from keys.auth import KeyRecord
from keys.bank import host_of
from orchestration import store, store_followed
from orchestration.following import Following
from orchestration.keeping import Behind, Follower, Keeper
from orchestration.legs import TRACE
from orchestration.payers import Payers
from orchestration.plan import Outcome, Plan, leg_error
from orchestration.runner import InProcess, Runner, Watcher
from orchestration.steps import Failed
from orchestration.store import LostRun, Taken
from orchestration.threads import disconnect, in_thread, patiently
from routing.errors import ApiError
from routing.runtime import Runtime, journal_folder, runtime
from telemetry.journal import living_holders
from telemetry.logs import REQUEST_ID, EventLogger
from telemetry.tracing import trace_of

log = EventLogger(__name__)
TEND_SECONDS: Final = 1.0
AT_ONCE: Final = 32  # runs in the background; the others wait


class Durable(Protocol):
    """What drives runs so that they outlive any process of ours; perhaps it cannot be reached. Runs that it drives are
    held by `store.DURABLE`, until they are forsaken. Belongs to the event loop."""

    @property
    def is_up(self) -> bool: ...

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def begin(self, plan: Plan) -> None:
        """A run that the database has. Does not wait; if it fails, the run is forsaken."""

    def end(self, run_id: str) -> None:
        """One that was cancelled, if it drives it. Does not wait."""

    def unattended(self) -> None:
        """It was reached, and nobody there took up a run. It is not up for a while."""


DURABLY: Final[list[Callable[[Runtime], Durable]]] = []
"""How to make one, where it is enabled: so nobody else loads it."""


class _Entry:
    """A run of this process. `is_kept`: the database knows it; `is_over`: no one need cancel it any more; `has_client`:
    who waits for it here, so that nobody else can go on with it."""

    __slots__ = ("has_client", "is_cancelled", "is_kept", "is_over", "task")

    def __init__(self, task: asyncio.Task[Any], *, is_kept: bool, has_client: bool) -> None:
        self.task = task
        self.has_client = has_client
        self.is_kept = is_kept
        self.is_over = self.is_cancelled = False


class Worker:
    def __init__(self, held: Runtime) -> None:
        self._runtime = held
        self.runner: Runner = InProcess(held)
        self._entries: dict[str, _Entry] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None] | None = None
        self._unreadable: set[str] = set()
        self._payers = Payers(held)
        self.durable = DURABLY[0](held) if DURABLY else None
        self.behind = Behind()
        self._following = Following(self._unattended)

    @property
    def holder(self) -> str:
        return self._runtime.journal.holder

    def start(self) -> None:
        if self._tending is None:
            self._host = host_of(journal_folder())
            self._tending = asyncio.get_running_loop().create_task(self._tend())
            if self.durable is not None:
                self.durable.start()

    async def stop(self) -> None:
        """Runs in the background are left to others."""
        if self._tending is None:
            return
        for task in (self._tending, *self._background):
            task.cancel()
        await asyncio.gather(self._tending, *self._background, return_exceptions=True)
        await self._following.stop()
        await self.behind.stop()
        if self.durable is not None:
            await self.durable.stop()
        with suppress(DatabaseError):
            await in_thread(partial(store.release, holder=self.holder))
        await in_thread(disconnect)

    # -- with a client that waits ----------------------------------------------------------------------------------
    async def foreground(self, plan: Plan, key: KeyRecord, watcher: Watcher) -> Outcome:
        """Ends with its client. What is kept of it is kept behind its back, but where it outlives this process. Raises
        ApiError when it is cancelled."""
        self.start()
        if self.is_durable and (outcome := await self._durably(plan, key, watcher)) is not None:
            return outcome
        follower = Follower(self.behind, watcher, plan.id, self.holder)
        task = asyncio.get_running_loop().create_task(self.runner.run(plan, lambda: key, follower))
        entry = self._entries[plan.id] = _Entry(task, is_kept=False, has_client=True)
        inserted = partial(store.begin, plan, key, holder=self.holder, host=self._host, is_background=False)
        self.behind.put(inserted, then=partial(setattr, entry, "is_kept", True))
        try:
            outcome = await task
            self.behind.put(partial(store.finish, plan.id, holder=self.holder, outcome=outcome))
            return outcome
        except asyncio.CancelledError:
            if entry.is_cancelled:
                raise ApiError("overloaded", "This request was cancelled by the operator.") from None
            self.behind.put(partial(store.cancel, plan.id, holder=self.holder))
            raise
        finally:
            entry.is_over = True
            self._entries.pop(plan.id, None)

    @property
    def is_durable(self) -> bool:
        """Whether runs that begin now outlive this process."""
        return self.durable is not None and self.durable.is_up

    async def _durably(self, plan: Plan, key: KeyRecord, watcher: Watcher) -> Outcome | None:
        """As what drives it does it, or whoever takes the run over. None: the database does not answer."""
        durable = self.durable
        assert durable is not None  # noqa: S101  it is up
        begin = partial(store.begin, plan, key, holder=store.DURABLE, host=store.DURABLE)
        try:
            await in_thread(partial(begin, is_background=False, is_followed=True))
            durable.begin(plan)
            outcome = await self._following.outcome(plan.id, watcher)
        except DatabaseError as problem:
            log.warning("plan_run_not_durable", plan=plan.id, error=type(problem).__name__)
            return None
        except asyncio.CancelledError:
            self.behind.put(partial(store.cancel, plan.id))
            self.drop(plan.id)
            raise
        except ApiError:  # whoever drives it need not: nobody waits any more
            self.behind.put(partial(store.cancel, plan.id))
            self.behind.put(partial(store.forget, plan.id))
            self.drop(plan.id)
            raise
        self.behind.put(partial(store.forget, plan.id))
        return outcome

    def _unattended(self, run_id: str) -> None:
        """Nobody has begun it yet: whoever finds it, does it."""
        log.warning("plan_run_unattended", plan=run_id)
        self.behind.put(partial(store.forsake, run_id))
        if self.durable is not None:
            self.durable.unattended()

    # -- in the background -----------------------------------------------------------------------------------------
    async def submit(self, plan: Plan, key: KeyRecord) -> None:
        """From here on the run outlives this process. Raises DatabaseError."""
        self.start()
        durable = self.durable
        if durable is not None and self.is_durable:
            await self._submitted(plan, key, holder=store.DURABLE, host=store.DURABLE)
            durable.begin(plan)
            return
        has_room = len(self._background) < AT_ONCE
        await self._submitted(plan, key, holder=self.holder if has_room else "", host=self._host)
        if has_room:
            self._begin(Taken(plan))

    async def _submitted(self, plan: Plan, key: KeyRecord, *, holder: str, host: str) -> None:
        """Raises DatabaseError. A client that leaves meanwhile knows of no run, and asks for it anew."""
        try:
            await in_thread(partial(store.begin, plan, key, holder=holder, host=host, is_background=True))
        except asyncio.CancelledError:
            self.behind.put(partial(store.cancel, plan.id))
            raise

    def drop(self, run_id: str) -> None:
        """It was cancelled: if it runs here, at once."""
        if (entry := self._entries.get(run_id)) is not None and not entry.is_over:
            entry.is_cancelled = True
            entry.task.cancel()
        elif entry is None and self.durable is not None:
            self.durable.end(run_id)

    def _begin(self, taken: Taken) -> None:
        task = asyncio.get_running_loop().create_task(self._run(taken))
        self._entries[taken.plan.id] = _Entry(task, is_kept=True, has_client=False)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _run(self, taken: Taken) -> None:
        plan = taken.plan
        REQUEST_ID.set(plan.id)
        if self._runtime.tracer is not None:
            TRACE.set(trace_of(()))
        entry = self._entries[plan.id]
        keeper = Keeper(self.holder, taken)
        try:
            try:
                outcome = await self.runner.run(
                    plan, partial(self._payers.key, plan.key_id), keeper, known=taken.known, lost_nano=taken.lost_nano
                )
            except (LostRun, DatabaseError, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("plan_run_failed", plan=plan.id)
                error = ApiError("internal_error", "TokenHub failed to finish this plan. The log says why.")
                outcome = Outcome(Failed(leg_error(error)), taken.known, taken.lost_nano)
            entry.is_over = True
            await patiently(partial(store.finish, plan.id, holder=self.holder, outcome=outcome))
        except LostRun:
            log.info("plan_run_left", plan=plan.id)
        except DatabaseError as problem:  # its lease will be over, and somebody take it up
            log.error("plan_run_not_kept", plan=plan.id, error=type(problem).__name__)
        finally:
            self._entries.pop(plan.id, None)

    # -- leases ----------------------------------------------------------------------------------------------------
    async def _tend(self) -> None:
        while True:
            try:
                await self._look()
            except DatabaseError as problem:
                log.warning("plan_runs_not_tended", error=type(problem).__name__)
            except Exception:  # must outlive a defect: it is how abandoned runs are found
                log.exception("plan_runs_not_tended")
            await asyncio.sleep(TEND_SECONDS)

    async def _look(self) -> None:
        watched = {run_id: one.has_client for run_id, one in self._entries.items() if one.is_kept and not one.is_over}
        room = AT_ONCE - len(self._background)
        mine = list(self._entries)
        ended, taken = await in_thread(partial(self._look_in_database, watched=watched, mine=mine, room=room))
        for run_id in ended:
            self.drop(run_id)
        for one in taken:
            if one.plan.id not in self._entries:
                self._begin(one)

    def _look_in_database(
        self, *, watched: dict[str, bool], mine: list[str], room: int
    ) -> tuple[list[str], list[Taken]]:
        """Those of the watched runs that must end, and runs to go on with. A client's run goes on though its lease ran
        out, as it does without a database: only who cancels it ends it."""
        lost = watched.keys() - store.tend(watched, holder=self.holder) if watched else set()
        cancelled = store.cancelled([run_id for run_id in lost if watched[run_id]])
        ended = [run_id for run_id in lost if not watched[run_id] or run_id in cancelled]
        if self.durable is not None and not self.durable.is_up:
            store.forsake()
        if self.durable is not None:
            store_followed.end_abandoned()
        taken = store.take(
            holder=self.holder,
            host=self._host,
            living=partial(living_holders, journal_folder()),
            most=room,
            unreadable=self._unreadable,
            mine=mine,
        )
        return ended, taken


_WORKER: Worker | None = None


def worker() -> Worker:
    """This process's. Called on the event loop only, once the runtime is ready."""
    global _WORKER
    if _WORKER is None:
        _WORKER = Worker(runtime())
    return _WORKER
