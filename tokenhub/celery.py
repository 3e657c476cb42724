"""The same schedule on Celery: a task for each job, and the entries of beat for those that are needed once in all. Jobs
that need a host's files stay with the workers of that host. The broker is the Redis at TOKENHUB_REDIS_URL.

    celery -A tokenhub worker
    celery -A tokenhub beat

The lease of a run holds here, too: a message that comes twice, or a second beat, runs nothing twice. Imported by these
two, and where somebody wants a job to run now; never by the data plane."""

from __future__ import annotations

import os
import ssl
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")

from celery import Celery
from django.conf import settings

from tokenhub.jobs import SCHEDULE, Job, Scope

QUEUE: Final = "jobs"
KEYS: Final = "tokenhub:celery:"
GRACE_SECONDS: Final = 30
MAX_EARLY: Final = timedelta(seconds=30)


def broker(url: str) -> str:
    """As kombu spells it: other words for a socket, and nothing of timeouts, for it waits for messages."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        number = dict(parse_qsl(parts.query)).get("db")
        return parts._replace(query="", path=f"/{number}" if number else parts.path).geturl()
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    number = dict(parse_qsl(parts.query)).get("db", "0")
    return f"redis+socket://{user}{parts.path}?virtual_host={number}"


def task_of(job: Job) -> str:
    return f"tokenhub.{job.name}"


app: Any = Celery("tokenhub", broker=broker(settings.TOKENHUB_REDIS_URL) if settings.TOKENHUB_REDIS_URL else None)
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,  # the log lines are Django's
    worker_send_task_events=False,
    enable_utc=True,
    timezone="UTC",
    broker_connection_timeout=4,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "global_keyprefix": KEYS,
        "visibility_timeout": 2 * max(job.limit_seconds for job in SCHEDULE),
    },
    broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if settings.TOKENHUB_REDIS_URL.startswith("rediss:") else None,
    beat_scheduler="tokenhub.celery_beat:Scheduler",
    beat_schedule={
        job.name: {
            "task": task_of(job),
            "schedule": timedelta(seconds=job.every_seconds),
            "options": {"expires": job.every_seconds},  # none piles up while no worker is there
        }
        for job in SCHEDULE
        if job.scope is Scope.INSTALLATION and job.every_seconds
    },
)


def _register(job: Job) -> None:
    @app.task(  # type: ignore[untyped-decorator]  # Celery has no types
        name=task_of(job),
        soft_time_limit=job.limit_seconds,
        time_limit=job.limit_seconds + GRACE_SECONDS,
    )
    def task() -> str:
        from tokenhub import job_runs  # when Django is ready

        host = job_runs.this_host()
        job_runs.ensure(host)
        # beat's clock is not the row's: what comes a little early is due
        early = min(timedelta(seconds=job.every_seconds) / 2, MAX_EARLY)
        return "ran" if job_runs.run(job, host=host, early=early) else "not due"


for _job in SCHEDULE:
    _register(_job)


def send(job: Job) -> None:
    """Has a worker run it. Raises QueueUnreachable."""
    from kombu.exceptions import OperationalError

    from tokenhub.job_runs import QueueUnreachable

    try:
        app.send_task(task_of(job), retry=False)
    except (OperationalError, OSError) as problem:
        raise QueueUnreachable from problem
