"""The same schedule on a real Celery worker and a real beat, on a Redis of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.jobs.test_jobs_served import TOKEN, ask, jobs
from tests.support import redis
from tests.support.gateway import ROOT, Gateway, environment
from tokenhub.celery import app, broker, task_of
from tokenhub.checks import celery_has_a_broker
from tokenhub.jobs import JOBS, SCHEDULE, Scope


# -- what Celery is told -----------------------------------------------------------------------------------------------
def test_every_job_is_a_task_and_those_of_the_installation_are_on_the_schedule() -> None:
    assert {task_of(job) for job in SCHEDULE} <= set(app.tasks)
    entries = app.conf.beat_schedule
    assert set(entries) <= {job.name for job in SCHEDULE if job.scope is Scope.INSTALLATION}
    for name, entry in entries.items():
        assert entry["schedule"].total_seconds() == JOBS[name].every_seconds
    assert {"rollup", "prune", "update_prices", "key_rotation_reminders", "webhooks", "fold_posterior"} <= set(entries)


@pytest.mark.parametrize(
    ("url", "spelt"),
    [
        ("redis://h:6379/2", "redis://h:6379/2"),
        ("rediss://u:p%40w@h:6379/2?socket_timeout=2", "rediss://u:p%40w@h:6379/2"),
        ("redis://h:6379?db=3", "redis://h:6379/3"),
        ("unix:///run/redis.sock?db=4", "redis+socket:///run/redis.sock?virtual_host=4"),
        ("unix://:pw@/run/redis.sock", "redis+socket://:pw@/run/redis.sock?virtual_host=0"),
    ],
)
def test_the_redis_of_the_limits_is_spelt_for_celery(url: str, spelt: str) -> None:
    assert broker(url) == spelt


def test_the_check_warns_of_celery_without_a_broker(settings: Settings) -> None:
    settings.TOKENHUB_JOBS, settings.TOKENHUB_REDIS_URL = "celery", ""
    assert [one.id for one in celery_has_a_broker()] == ["tokenhub.W003"]
    settings.TOKENHUB_REDIS_URL = "redis://h:6379/0"
    assert celery_has_a_broker() == []


# -- running -----------------------------------------------------------------------------------------------------------
@contextmanager
def celery(gateway: Gateway, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "celery", "-A", "tokenhub", *arguments]
    with (gateway.folder / f"{arguments[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(gateway.folder, gateway.env) | {"C_FORCE_ROOT": "1"},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(timeout=15)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def outcome(gateway: Gateway, name: str) -> tuple[object, object]:
    row = jobs(gateway)[name]
    return row["last_outcome"], row["last_by"]


@pytest.mark.skipif(bool(redis.why_not()), reason=redis.why_not())
def test_beat_and_worker_run_the_schedule_and_what_is_asked_for(tmp_path: Path) -> None:
    with redis.Redis() as server:
        env = {"TOKENHUB_ADMIN_TOKEN": TOKEN, "TOKENHUB_JOBS": "celery", "TOKENHUB_REDIS_URL": server.patient_url}
        with Gateway(tmp_path, env=env) as gateway:
            Gateway.wait_until(lambda: "ingest_journal" in jobs(gateway), seconds=20)
            assert ask(gateway, "ingest_journal") == 200
            Gateway.wait_until(lambda: outcome(gateway, "ingest_journal")[0] == "ok", seconds=20)
            # the worker's scheduler has looked since this one was due, and left it to Celery
            assert outcome(gateway, "key_rotation_reminders")[0] is None
            worker = celery(gateway, "worker", "--concurrency", "1", "--without-gossip", "--without-mingle")
            with worker, celery(gateway, "beat", "--pidfile", ""):
                Gateway.wait_until(
                    lambda: outcome(gateway, "key_rotation_reminders") == ("ok", "the schedule"), seconds=60
                )
                assert ask(gateway, "rollup") == 200
                Gateway.wait_until(lambda: outcome(gateway, "rollup") == ("ok", "admin-token"), seconds=30)
            server.stop()
            assert ask(gateway, "rollup") == 503
    logs = "".join((tmp_path / name).read_text() for name in ("worker.log", "beat.log"))
    assert "Traceback" not in logs, logs[-3000:]
    assert not list(tmp_path.glob("celerybeat*")) + list(ROOT.glob("celerybeat*"))
