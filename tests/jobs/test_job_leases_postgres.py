"""Leases of jobs on a real PostgreSQL, between real processes: never two at the same job, and none for ever."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.support import postgres
from tests.support.gateway import ROOT, environment, run_manage

pytestmark = pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
RUNS = 8


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of an installation in which the job has its row."""
    folder: Path = tmp_path_factory.mktemp("jobs")
    with postgres.Postgres(migrated=True) as database:
        env = {"TOKENHUB_DATABASE_URL": database.url}
        run_manage("shell", "-c", "from tokenhub.job_runs import ensure; ensure('a-host')", folder=folder, env=env)
        yield environment(folder, env)


@contextmanager
def contender(env: dict[str, str], *, runs: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.contender", str(runs), str(seconds)],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=20)
        assert process.stdout is not None
        process.stdout.close()


def test_two_processes_never_run_a_job_at_the_same_time(env: dict[str, str]) -> None:
    with contender(env, runs=RUNS, seconds=0.03) as one, contender(env, runs=RUNS, seconds=0.03) as other:
        said = [process.communicate(timeout=90)[0] for process in (one, other)]
    assert all("NOT ALONE" not in text for text in said)
    found = [json.loads(text.splitlines()[-1]) for text in said]
    assert [one["ran"] for one in found] == [RUNS, RUNS]
    assert sum(one["refused"] for one in found) > 0


def test_a_job_whose_process_was_killed_is_run_when_its_lease_is_over(env: dict[str, str]) -> None:
    with contender(env, runs=1, seconds=600) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "at it\n"
        killed.kill()
        killed.wait(timeout=20)
    with contender(env, runs=1, seconds=0) as waiting, psycopg.connect(env["TOKENHUB_DATABASE_URL"]) as connection:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=3)
        connection.execute("UPDATE tokenhub_jobstate SET lease_until = now() WHERE name = 'rollup'")
        connection.commit()
        found = json.loads(waiting.communicate(timeout=60)[0].splitlines()[-1])
    assert found["ran"] == 1
