"""gunicorn's master, which renews its workers one by one on SIGHUP: a fresh one is started, and only when it serves, an
old one is told to go. gunicorn's own way starts all anew and ends the old ones before the new ones answer.

A fresh worker that cannot start (the database is away, say) ends the renewal, and the old ones go on."""

from __future__ import annotations

import signal
from typing import Any

from gunicorn.arbiter import Arbiter

from telemetry.logs import EventLogger
from tokenhub.worker import ENDING, RETIRE, PlainWorker

log = EventLogger(__name__)
STEP_SECONDS = 0.1


class Master(Arbiter):  # type: ignore[misc]  # gunicorn has no type information
    WORKERS: dict[int, PlainWorker]

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self._due: list[int] = []
        """Workers to be replaced, the oldest first."""
        self._leaving: set[int] = set()
        self._fresh = 0
        """The process id of the one that was started last, for one that is due."""

    def reload(self) -> None:
        """SIGHUP. What was loaded stays: settings and code are read again by a restart."""
        self._due = [worker.pid for worker in self._staying()]
        self._fresh = 0
        log.info("workers_renewed_one_by_one", workers=len(self._due))

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        found: list[int] = super().wait_for_signals(STEP_SECONDS if self._due else timeout)
        return found

    def manage_workers(self) -> None:
        self._leaving &= self.WORKERS.keys()
        self._due = [pid for pid in self._due if pid in self.WORKERS]
        if self._due:
            self._renew()
        staying = self._staying()
        for _ in range(self.num_workers - len(staying)):
            self.spawn_worker()
        if not self._due:
            for worker in staying[: max(len(staying) - self.num_workers, 0)]:
                self._let_go(worker)

    def spawn_worker(self) -> int:
        """A signal that meets the fork waits in the new process until `PlainWorker.init_signals`: with the handlers of
        the master, which it has until then, it would queue a SIGTERM that nobody there reads."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            pid: int = super().spawn_worker()  # returns in the master alone
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        return pid

    def _renew(self) -> None:
        """One step, which does not wait."""
        if self._fresh == 0:
            self._fresh = self.spawn_worker()
        elif self._fresh not in self.WORKERS:
            log.error("renewal_given_up", reason="a fresh worker did not start", left=len(self._due))
            self._due = []
        elif self.WORKERS[self._fresh].is_ready:
            self._let_go(self.WORKERS[self._due.pop(0)])
            self._fresh = 0
            if not self._due:
                log.info("workers_renewed")

    def _staying(self) -> list[PlainWorker]:
        """Those that were not told to go, the oldest first."""
        staying = [worker for pid, worker in self.WORKERS.items() if pid not in self._leaving]
        return sorted(staying, key=lambda worker: int(worker.age))

    def _let_go(self, worker: PlainWorker) -> None:
        self._leaving.add(worker.pid)
        self.kill_worker(worker.pid, RETIRE if worker.is_ready else signal.SIGTERM)


def before_fork(master: Master, worker: PlainWorker) -> None:
    worker.is_replaceable = any(other.is_ready for other in master.WORKERS.values())
