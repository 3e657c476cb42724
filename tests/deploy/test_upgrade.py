"""A database of an earlier state (tests/fixtures/upgrade) is brought up to date: keys, money, vault and log stay. While
the earlier version serves, `migrate` of this one neither fails a request nor loses one."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from django.apps import apps
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import (
    AddField,
    CreateModel,
    DeleteModel,
    RemoveField,
    RenameField,
    RenameModel,
)

from tests.support import postgres
from tests.support.gateway import KEY, ROOT, Gateway, environment, run_manage
from tests.support.load import Load, logged
from tests.support.upstream import Reply, Upstream

DUMP = next((ROOT / "tests/fixtures/upgrade").glob("*.sql.gz"))
COMMIT = DUMP.name.partition(".")[0]
CREDENTIAL = "sk-an-earlier-one"
LOGGED = 21
SPENT_NANO = 540_000


def restored(folder: Path, upstream: Upstream) -> Path:
    folder.mkdir()
    with sqlite3.connect(folder / "tokenhub.sqlite3") as connection:
        connection.executescript(gzip.decompress(DUMP.read_bytes()).decode())
        connection.execute("UPDATE providers_provider SET base_url = ?", [upstream.url])
    connection.close()
    return folder


def on(folder: Path) -> Gateway:
    """One of this version that adds nothing to what is there."""
    return Gateway(folder, keys=())


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def spent(gateway: Gateway) -> int:
    (row,) = gateway.query("SELECT settled_nano, leased_nano FROM keys_budgetperiod")
    return int(row["settled_nano"])


def test_what_was_there_is_there_and_works(upstream: Upstream, tmp_path: Path) -> None:
    folder = restored(tmp_path / "data", upstream)
    run_manage("migrate", "--verbosity", "0", folder=folder)
    before = len(upstream.requests)
    with on(folder) as gateway:
        assert spent(gateway) == SPENT_NANO
        for model in ("m", "fast"):
            assert gateway.chat(model).status_code == 200
        assert upstream.requests[before].headers["authorization"] == f"Bearer {CREDENTIAL}"
        assert len(gateway.rows(at_least=LOGGED + 2)) == LOGGED + 2
    assert spent(gateway) > SPENT_NANO
    assert "unbroken" in run_manage("verify_audit", folder=folder)


# each is something the version before does without, and says so in its log, until it is restarted
NOT_ADDITIVE = {
    ("routing", "0011_jobs_hold_the_lease", "DeleteModel ProbeLease"),  # it does not probe
    ("routing", "0009_told_health", "AddField told_state"),  # its workers do not share their health
    ("keys", "0007_capture", "AddField capture"),  # it makes no client keys and projects
}


def test_migrations_since_then_leave_the_version_before_its_tables() -> None:
    """What is removed or renamed is missed, and a new column that may not be empty keeps it from adding rows."""
    names = re.findall(
        r"""INTO "django_migrations" VALUES\(\d+,'(\w+)','(\w+)'""", gzip.decompress(DUMP.read_bytes()).decode()
    )
    own = {app.label for app in apps.get_app_configs() if Path(app.path).parent == ROOT}
    found = set()
    for (app, name), migration in MigrationLoader(None).disk_migrations.items():
        if app not in own or (app, name) in names:
            continue
        made = {one.name_lower for one in migration.operations if isinstance(one, CreateModel)}
        for one in migration.operations:
            match one:
                case DeleteModel() | RenameModel() | RemoveField() | RenameField():
                    found.add((app, name, f"{type(one).__name__} {getattr(one, 'name', '')}".strip()))
                case AddField(field=field) if one.model_name_lower not in made:
                    if not field.null and not field.has_db_default() and not field.many_to_many:
                        found.add((app, name, f"AddField {one.name}"))
    assert ("keys", "0003_budgets") in names
    assert found == NOT_ADDITIVE


def answers(gateway: Gateway) -> bool:
    try:
        return gateway.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of that state, out of the history."""
    packed = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, timeout=60, check=False)
    if packed.returncode:
        pytest.skip(f"the history does not reach back to {COMMIT}")
    folder = tmp_path_factory.mktemp("earlier")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, timeout=60, check=True)
    return folder


def upgraded_under_load(earlier: Path, fresh: Gateway, upstream: Upstream, log: Path) -> Load:
    """The earlier version serves, `migrate` of this one runs, the earlier one goes on, ends, and this one serves."""
    upstream.default = Reply(words=5, interval=0.01)
    with log.open("wb") as told:
        old = subprocess.Popen(
            [sys.executable, "manage.py", "serve", "--listen", f"127.0.0.1:{fresh.port}", "--workers", "2"],
            cwd=earlier, env=environment(fresh.folder, fresh.env), stdout=told, stderr=told, start_new_session=True,
        )  # fmt: skip
    load = Load(fresh.base, fresh.headers())
    begun = len(upstream.requests)

    def upgrade() -> None:
        load.more(100)
        run_manage("migrate", "--verbosity", "0", folder=fresh.folder, env=fresh.env)
        load.more(100)  # the earlier version on the tables of this one
        old.send_signal(signal.SIGTERM)
        assert old.wait(timeout=45) == 0
        fresh.start()
        load.more(100)

    try:
        Gateway.wait_until(lambda: old.poll() is not None or answers(fresh), seconds=60)
        assert old.poll() is None, log.read_text()
        load.run(upgrade)
    finally:
        if old.poll() is None:
            os.killpg(old.pid, signal.SIGKILL)
            old.wait(timeout=20)
    assert load.failed == []
    assert len(upstream.requests) - begun == len(load.answered)  # what was refused was not begun either
    return load


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_migrate_under_load_fails_no_request_and_loses_none(earlier: Path, upstream: Upstream, tmp_path: Path) -> None:
    fresh = on(restored(tmp_path / "data", upstream))
    try:
        load = upgraded_under_load(earlier, fresh, upstream, tmp_path / "earlier.log")
        Gateway.wait_until(lambda: load.is_logged(logged(fresh)), seconds=30)
    finally:
        fresh.stop()
    costs = fresh.query("SELECT sum(cost_usd) AS usd FROM telemetry_requestlog")
    assert spent(fresh) == round(float(costs[0]["usd"]) * 1e9)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
def test_the_same_on_postgresql_where_the_log_becomes_partitioned(
    earlier: Path, upstream: Upstream, tmp_path: Path
) -> None:
    with postgres.Postgres() as database:
        env = {"TOKENHUB_DATABASE_URL": database.url}
        rows = {
            "providers": [{"id": "acme", "type": "openai", "base_url": upstream.url}],
            "models": [{"id": "m", "provider_id": "acme", "input_per_1k": "0.001", "output_per_1k": "0.002"}],
            "keys": [{"key": KEY}],
            "budgets": [{"of_key": KEY, "amount_usd": "25"}],
        }
        for command in (["manage.py", "migrate", "--verbosity", "0"], ["tests/support/configure.py"]):
            subprocess.run(
                [sys.executable, *command], cwd=earlier, env=environment(tmp_path, env), input=json.dumps(rows),
                text=True, capture_output=True, timeout=100, check=True,
            )  # fmt: skip
        fresh = Gateway(tmp_path / "none", keys=())
        fresh.folder, fresh.env = tmp_path, env
        try:
            load = upgraded_under_load(earlier, fresh, upstream, tmp_path / "earlier.log")
            with psycopg.connect(database.url, autocommit=True) as connection:

                def found() -> list[str]:
                    return [row[0] for row in connection.execute("SELECT request_id::text FROM telemetry_requestlog")]

                Gateway.wait_until(lambda: load.is_logged(found()), seconds=30)
        finally:
            fresh.stop()
        with psycopg.connect(database.url) as connection:
            (cost,) = connection.execute("SELECT sum(cost_usd) FROM telemetry_requestlog").fetchone() or (0,)
            (settled,) = connection.execute("SELECT settled_nano FROM keys_budgetperiod").fetchone() or (0,)
        assert settled == round(cost * 10**9)
