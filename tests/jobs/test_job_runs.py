"""Runs of jobs: leases, what is written down, and who may ask for one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from uuid import UUID

import pytest
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from providers.models import CredentialStore, Provider
from routing.models import Model
from telemetry import retention
from telemetry.ingest import Lease
from telemetry.journal import Entry, encode_line
from telemetry.models import AuditEntry, RequestLog
from tokenhub import chores, job_runs, job_scheduler
from tokenhub.job_runs import AlreadyRunning, ask, due, ensure, run
from tokenhub.job_scheduler import Scheduler
from tokenhub.jobs import JOBS, SCHEDULE, Job, Scope
from tokenhub.models import JobState, Outcome

HOST = "a-host"
pytestmark = pytest.mark.django_db
CALLS: list[str] = []


@pytest.fixture(autouse=True)
def none_called() -> None:
    CALLS.clear()


def works() -> str:
    CALLS.append("works")
    return "It works."


def fails() -> str:
    CALLS.append("fails")
    raise RuntimeError("no such luck, says sk-proj-abcdefghijklmnopqrstuvwxyz0123456789")


def like(name: str, function: Callable[[], str]) -> Job:
    """The job of that name, which does something else."""
    return replace(JOBS[name], path=f"{__name__}:{function.__name__}")


def state(name: str = "rollup", host: str = "") -> JobState:
    return JobState.objects.get(name=name, host=host)


def make_due(name: str = "rollup", host: str = "") -> datetime:
    ensure(HOST)
    now = timezone.now()
    JobState.objects.update(next_at=now + timedelta(days=1))
    JobState.objects.filter(name=name, host=host).update(next_at=now)
    return now


# -- the schedule ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("job", SCHEDULE, ids=lambda job: job.name)
def test_every_job_leads_to_a_function(job: Job) -> None:
    assert callable(job.load())
    assert job.does.endswith(".")
    assert job.limit_seconds > 0


@pytest.mark.parametrize("name", ["ingest_journal", "rollup", "prune", "key_rotation_reminders", "webhooks"])
def test_jobs_say_what_came_of_them_and_can_be_repeated(name: str, settings: Settings, tmp_path: Path) -> None:
    settings.TOKENHUB_DATA_DIR = tmp_path
    said = JOBS[name].load()()
    assert said.endswith(".")
    assert JOBS[name].load()() == said


def test_every_job_gets_a_row_and_those_that_are_no_more_lose_theirs() -> None:
    JobState.objects.create(name="of an older version")
    ensure(HOST)
    ensure(HOST)
    assert {(row.name, row.host) for row in JobState.objects.all()} == {
        (job.name, HOST if job.scope is Scope.HOST else "") for job in SCHEDULE
    }


def test_a_shorter_interval_holds_at_once() -> None:
    ensure(HOST)
    JobState.objects.filter(name="rollup").update(next_at=timezone.now() + timedelta(days=300))
    ensure(HOST)
    row = state()
    assert row.next_at is not None
    assert row.next_at <= timezone.now() + timedelta(seconds=JOBS["rollup"].every_seconds)


def test_a_host_has_rows_of_its_own_for_what_needs_its_files() -> None:
    ensure(HOST)
    ensure("another")
    assert JobState.objects.filter(name="ingest_journal").count() == 2
    assert JobState.objects.filter(name="rollup").count() == 1


# -- a run -----------------------------------------------------------------------------------------------------------
def test_a_job_that_is_due_runs_and_its_row_tells() -> None:
    before = make_due()
    assert run(like("rollup", works), host=HOST)
    row = state()
    assert CALLS == ["works"]
    assert (row.last_outcome, row.last_result, row.last_by) == (Outcome.OK, "It works.", "the schedule")
    assert row.last_started_at is not None
    assert row.last_started_at >= before
    assert row.last_ms is not None
    assert row.running_since is None
    assert row.next_at == row.last_started_at + timedelta(seconds=60)


def test_a_job_that_is_not_due_does_not_run() -> None:
    ensure(HOST)
    assert not run(like("rollup", works), host=HOST)
    assert not CALLS
    assert due(timezone.now(), host=HOST)[1] is not None


def test_what_comes_a_little_early_is_due() -> None:
    make_due()
    JobState.objects.filter(name="rollup").update(next_at=timezone.now() + timedelta(seconds=20))
    assert not run(like("rollup", works), host=HOST, early=timedelta(seconds=5))
    assert run(like("rollup", works), host=HOST, early=timedelta(seconds=30))
    assert not run(like("rollup", works), host=HOST, early=timedelta(seconds=30))


def test_a_failure_is_shown_without_secrets_and_the_next_run_happens() -> None:
    make_due()
    assert run(like("rollup", fails), host=HOST)
    row = state()
    assert row.last_outcome == Outcome.FAILED
    assert row.last_result.startswith("RuntimeError: no such luck")
    assert "abcdefghijklmnop" not in row.last_result
    assert row.next_at is not None
    make_due()
    assert run(like("rollup", works), host=HOST)
    assert (state().last_outcome, CALLS) == (Outcome.OK, ["fails", "works"])


def test_nobody_runs_what_runs_already() -> None:
    make_due()
    JobState.objects.filter(name="rollup").update(lease_until=timezone.now() + timedelta(seconds=9), holder="other")
    assert due(timezone.now(), host=HOST)[0] == []
    assert not run(like("rollup", works), host=HOST)
    with pytest.raises(AlreadyRunning):
        ask(job=JOBS["rollup"])


def test_the_lease_of_a_runner_that_was_killed_runs_out() -> None:
    make_due()
    JobState.objects.filter(name="rollup").update(lease_until=timezone.now() - timedelta(seconds=1), holder="dead")
    assert [job.name for job in due(timezone.now(), host=HOST)[0]] == ["rollup"]
    assert run(like("rollup", works), host=HOST)
    assert state().last_outcome == Outcome.OK


def loses_its_lease() -> str:
    JobState.objects.filter(name="rollup").update(holder="other", lease_until=timezone.now() + timedelta(seconds=9))
    return "Too late."


def test_who_lost_the_lease_writes_down_nothing() -> None:
    make_due()
    assert run(like("rollup", loses_its_lease), host=HOST)
    assert (state().holder, state().last_result) == ("other", "")


# -- asking for one --------------------------------------------------------------------------------------------------
def test_a_run_that_is_asked_for_tells_who_did_and_is_audited() -> None:
    ensure(HOST)
    ask(job=JOBS["rollup"])
    entry = AuditEntry.objects.latest("pk")
    assert (entry.action, entry.resource) == ("job.run", "job/rollup")
    assert run(like("rollup", works), host=HOST)
    assert state().last_by == entry.actor
    assert state().asked_by == ""


def test_a_job_without_an_interval_runs_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seldom = replace(like("rollup", works), every_seconds=0)
    monkeypatch.setitem(JOBS, "rollup", seldom)
    monkeypatch.setattr(job_runs, "SCHEDULE", (seldom,))
    ensure(HOST)
    assert state().next_at is None
    assert not run(seldom, host=HOST)
    ask(job=seldom)
    assert run(seldom, host=HOST)
    assert state().next_at is None


# -- at once, from several threads -----------------------------------------------------------------------------------
LEAVE = threading.Event()


def waits() -> str:
    CALLS.append("waits")
    LEAVE.wait(10)
    return "Waited."


@pytest.mark.django_db(transaction=True)
def test_of_many_runners_one_takes_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    LEAVE.clear()
    make_due()
    monkeypatch.setitem(JOBS, "rollup", like("rollup", waits))
    schedulers = [Scheduler(host=HOST) for _ in range(3)]
    monkeypatch.setattr(job_scheduler, "HEAD_START_SECONDS", 0.0)
    for one in schedulers:
        one._ensure_at = float("inf")
        one.look()
    threads = [thread for one in schedulers for thread in one._running.values()]
    for thread in threads:
        thread.join(timeout=0.2)
    LEAVE.set()
    for thread in threads:
        thread.join(timeout=10)
    assert CALLS == ["waits"]
    assert state().last_result == "Waited."


# -- what some of them do --------------------------------------------------------------------------------------------
def test_one_pruner_that_fails_does_not_keep_the_others_from_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def broken() -> int:
        raise RuntimeError("broken")

    def whole() -> int:
        done.append("whole")
        return 1

    monkeypatch.setattr(retention, "PRUNERS", [broken, whole])
    with pytest.raises(RuntimeError, match="broken"):
        chores.prune()
    assert done == ["whole"]


def test_what_a_job_takes_from_an_abandoned_journal_it_takes_once(settings: Settings, tmp_path: Path) -> None:
    settings.TOKENHUB_DATA_DIR = tmp_path
    (tmp_path / "journal").mkdir()
    lines = [
        encode_line(Entry(id=str(UUID(int=one)), at=1_764_000_000_000_000 + one, endpoint="chat", status=200))
        for one in (1, 2)
    ]
    (tmp_path / "journal" / "host-1-1-aa.journal").write_bytes(b"".join(lines))
    out = StringIO()
    call_command("ingest_journal", stdout=out)
    call_command("ingest_journal", stdout=out)
    assert out.getvalue() == "2 requests taken into the log.\n0 requests taken into the log.\n"
    assert RequestLog.objects.count() == 2


def test_a_pass_leaves_the_journal_to_the_worker_that_is_at_it(settings: Settings, tmp_path: Path) -> None:
    settings.TOKENHUB_DATA_DIR = tmp_path
    held = Lease(tmp_path / "journal")
    assert held.take()
    (tmp_path / "journal" / "host-1-1-aa.journal").write_bytes(b"12345")
    assert chores.ingest_journal() == "A worker of this host is at it, twice a second; 5 bytes wait."
    held.release()


@pytest.mark.parametrize(("does", "said"), [("show", "models would get other prices"), ("apply", "were taken over")])
def test_prices_are_shown_or_taken_over(does: str, said: str, settings: Settings) -> None:
    settings.TOKENHUB_PRICE_UPDATES = does
    provider = Provider.objects.create(id="openai", type="openai", cred_store=CredentialStore.NONE)
    Model.objects.create(id="gpt-4o", provider=provider)
    assert said in chores.update_prices()
    assert (Model.objects.get().input_per_1k is None) == (does == "show")
