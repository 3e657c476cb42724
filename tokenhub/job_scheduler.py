"""Starts jobs that are due, each in a thread of its own. Every worker has a scheduler; the leases see to it that each
job runs in one of them. With Celery it is left with the jobs that need this host's files."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Final

from django.db import close_old_connections, connection
from django.db.utils import DatabaseError
from django.utils import timezone

from telemetry.logs import EventLogger
from tokenhub import job_runs
from tokenhub.jobs import Job, Scope

log = EventLogger(__name__)
LOOK_SECONDS: Final = 1.0
"""How soon a job starts that somebody asks for."""
ENSURE_SECONDS: Final = 600.0
HEAD_START_SECONDS: Final = 2.0
"""Of the worker that ran a job last: what it knows of providers goes on, and the others need not try in vain."""


class Scheduler:
    def __init__(self, *, host: str) -> None:
        self._host = host
        self._running: dict[str, threading.Thread] = {}
        self._ensure_at = 0.0
        self._ran: set[str] = set()
        self._due_since: dict[str, float] = {}

    def look(self) -> float:
        """Starts what is due. For how many seconds there is nothing to do. Raises DatabaseError."""
        if monotonic() >= self._ensure_at:
            job_runs.ensure(self._host)
            self._ensure_at = monotonic() + ENSURE_SECONDS
        now = timezone.now()
        found, upcoming = job_runs.due(now, host=self._host)
        moment = monotonic()
        self._due_since = {job.name: self._due_since.get(job.name, moment) for job in found}
        waits = False
        for job in found:
            if not self._is_mine(job) or self._runs(job):
                continue
            if job.name not in self._ran and moment - self._due_since[job.name] < HEAD_START_SECONDS:
                waits = True
            else:
                thread = threading.Thread(target=self._run, args=(job,), name=f"job-{job.name}", daemon=True)
                self._running[job.name] = thread
                thread.start()
        pause = LOOK_SECONDS if upcoming is None else min(LOOK_SECONDS, (upcoming - now).total_seconds())
        return max(0.05, min(pause, HEAD_START_SECONDS) if waits else pause)

    @staticmethod
    def _is_mine(job: Job) -> bool:
        return job.scope is Scope.HOST or not job_runs.uses_celery()

    def _runs(self, job: Job) -> bool:
        thread = self._running.get(job.name)
        return thread is not None and thread.is_alive()

    def _run(self, job: Job) -> None:
        try:
            did = job_runs.run(job, host=self._host)
            (self._ran.add if did else self._ran.discard)(job.name)
        except DatabaseError as problem:
            log.warning("job_not_run", job=job.name, error=type(problem).__name__)
        finally:
            connection.close()


def attend(stop: threading.Event) -> None:
    """A thread of a worker. What still runs at its end is daemon threads: their leases run out."""
    scheduler = Scheduler(host=job_runs.this_host())
    pause = LOOK_SECONDS
    while not stop.wait(pause):
        pause = LOOK_SECONDS
        try:
            pause = scheduler.look()
        except DatabaseError as problem:
            log.warning("jobs_not_looked_at", error=type(problem).__name__)
        except Exception:  # the thread must outlive a defect
            log.exception("jobs_not_looked_at")
        finally:
            close_old_connections()
