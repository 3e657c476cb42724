"""Runs of jobs, each at most once at a time. A run takes its job's row by a conditional update, with a lease that it
renews; a runner that dies lets the lease run out, and the job is due again. Works alike on SQLite and PostgreSQL, and
for threads of workers and for Celery. Synchronous Django.

Nobody holds a row locked while a job runs: whoever lost his lease cannot write down an end, and jobs bear to run
twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from secrets import token_hex
from time import monotonic
from typing import Any, Final

from django.conf import settings
from django.db import close_old_connections, connection, transaction
from django.db.models import Q
from django.db.utils import DatabaseError
from django.utils import timezone

from keys.bank import host_of
from routing.runtime import journal_folder
from telemetry import audit
from telemetry.logs import EventLogger
from telemetry.redaction import Redactor
from tokenhub.jobs import JOBS, SCHEDULE, Job, Scope
from tokenhub.models import JobState, Outcome

log = EventLogger(__name__)
LEASE: Final = timedelta(seconds=15)
MAX_SHOWN: Final = 500
SCHEDULED: Final = "the schedule"


class AlreadyRunning(Exception):
    pass


class QueueUnreachable(Exception):
    """The job is noted as due, and runs with the next tick of beat."""


def this_host() -> str:
    return host_of(journal_folder())


def uses_celery() -> bool:
    return settings.TOKENHUB_JOBS == "celery"


def ensure(host: str) -> None:
    """Rows for all jobs of the schedule, as often as it says by now; none for jobs that there are no more. Raises
    DatabaseError."""
    now = timezone.now()
    rows = JobState.objects.filter(host__in=("", host))
    rows.exclude(name__in=JOBS).delete()
    known = {row.name: row for row in rows}
    JobState.objects.bulk_create(
        [
            JobState(name=job.name, host=_place(job, host), next_at=_later(now, job, job.first_seconds))
            for job in SCHEDULE
            if job.name not in known
        ],
        ignore_conflicts=True,
    )
    for name, row in known.items():
        job = JOBS[name]
        wanted = _later(now, job, job.every_seconds)
        if row.asked_by or (wanted is not None and row.next_at is not None and row.next_at <= wanted):
            continue
        if row.next_at != wanted:
            JobState.objects.filter(pk=row.pk, next_at=row.next_at).update(next_at=wanted)


def _later(now: datetime, job: Job, seconds: int) -> datetime | None:
    return now + timedelta(seconds=seconds) if job.every_seconds else None


def _place(job: Job, host: str) -> str:
    return host if job.scope is Scope.HOST else ""


def _free(now: datetime) -> Q:
    return Q(lease_until=None) | Q(lease_until__lte=now)


def due(now: datetime, *, host: str) -> tuple[list[Job], datetime | None]:
    """Jobs that could be run here, and when the next one is due. Raises DatabaseError."""
    found, upcoming = [], None
    rows = JobState.objects.filter(host__in=("", host), next_at__isnull=False)
    for name, next_at, lease_until in rows.values_list("name", "next_at", "lease_until"):
        job = JOBS.get(name)
        if job is None or next_at is None:  # of another version
            continue
        if next_at <= now and (lease_until is None or lease_until <= now):
            found.append(job)
        elif next_at > now:
            upcoming = next_at if upcoming is None else min(upcoming, next_at)
    return found, upcoming


def run(job: Job, *, host: str, early: timedelta = timedelta()) -> bool:
    """Takes the job if it is due, or will be within `early`, and nobody runs it; runs it to its end. Whether it did. A
    job's own failure is written down, and raised no further. Raises DatabaseError."""
    started = timezone.now()
    holder = token_hex(8)
    row = JobState.objects.filter(name=job.name, host=_place(job, host))
    taken = row.filter(_free(started), next_at__lte=started + early).update(
        holder=holder, running_since=started, lease_until=started + LEASE
    )
    if not taken:
        return False
    asked_by = row.values_list("asked_by", flat=True).first() or SCHEDULED
    mine = row.filter(holder=holder)
    begun = monotonic()
    outcome = Outcome.OK
    with _renewed(job, holder):
        try:
            result = job.load()()
        except Exception as problem:  # whatever it is, the job's next run must come
            log.exception("job_failed", job=job.name)
            outcome, result = Outcome.FAILED, f"{type(problem).__name__}: {problem}"
    close_old_connections()  # where the job left a broken one
    took = monotonic() - begun
    ended = started + timedelta(seconds=took)
    every = timedelta(seconds=job.every_seconds)
    kept = mine.update(
        holder="",
        running_since=None,
        lease_until=None,
        asked_by="",
        next_at=max(started + every, ended + every / 10) if every else None,
        last_started_at=started,
        last_ms=round(took * 1000),
        last_outcome=outcome,
        last_result=_redactor().text(result)[:MAX_SHOWN],
        last_by=asked_by,
    )
    if not kept:
        log.warning("job_lease_lost", job=job.name)
    log.debug("job", job=job.name, outcome=outcome.value, ms=round(took * 1000))
    return True


def _redactor() -> Redactor:
    logging: Any = settings.LOGGING
    return Redactor(tuple(logging["formatters"]["plain"]["secrets"]))


@contextmanager
def _renewed(job: Job, holder: str) -> Iterator[None]:
    """Keeps the lease as long as the job runs, until its time is over."""
    over = threading.Event()
    seconds = LEASE.total_seconds() / 3

    def renew() -> None:
        until = monotonic() + job.limit_seconds
        while not over.wait(seconds):
            if monotonic() > until:
                log.error("job_takes_too_long", job=job.name, limit_seconds=job.limit_seconds)
                return
            try:
                JobState.objects.filter(name=job.name, holder=holder).update(lease_until=timezone.now() + LEASE)
            except DatabaseError as problem:
                log.warning("job_lease_not_renewed", job=job.name, error=type(problem).__name__)
            finally:
                close_old_connections()
        connection.close()

    thread = threading.Thread(target=renew, name=f"lease-{job.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=seconds)


def ask(*, job: Job) -> None:
    """Has it run now, on each host that has it. Raises AlreadyRunning, QueueUnreachable, DatabaseError."""
    now = timezone.now()
    with transaction.atomic():
        who = audit.origin().who()[:200]
        asked = JobState.objects.filter(_free(now), name=job.name).update(next_at=now, asked_by=who)
        if not asked:
            raise AlreadyRunning
        audit.record("job.run", resource=f"job/{job.name}", name=job.name)
    if uses_celery() and job.scope is Scope.INSTALLATION:
        from tokenhub.celery import send

        send(job)
