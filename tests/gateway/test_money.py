"""No budget is overshot and nothing is lost, whoever is killed: on SQLite and on PostgreSQL. `make money-test` runs the
same for longer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support import postgres
from tests.support.gateway import KEY, Gateway, run_manage
from tests.support.money import Report, run
from tests.support.upstream import Reply, Upstream

OTHER_KEY = KEY[:-2] + "31"
CLIENTS = int(os.environ.get("MONEY_CLIENTS", "12"))
SECONDS = float(os.environ.get("MONEY_SECONDS", "6"))
KILLS = int(os.environ.get("MONEY_KILLS", "3"))
WORKERS = int(os.environ.get("MONEY_WORKERS", "2"))
CAP = os.environ.get("MONEY_CAP", "0.5")
CAPS = {"key": CAP, "project": str(float(CAP) * 1.5), "installation": str(float(CAP) * 20)}


def gateway_at(folder: Path, upstream: Upstream, **env: str) -> Gateway:
    return Gateway(
        folder,
        providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}],
        models=[{"id": "m", "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.005"}],
        keys=[{"key": KEY, "project": "team"}, {"key": OTHER_KEY, "project": "team"}],
        budgets=[
            {"of_key": KEY, "amount_usd": CAPS["key"]},
            {"subject": "project", "subject_id": "team", "amount_usd": CAPS["project"]},
            {"subject": "installation", "amount_usd": CAPS["installation"]},
        ],
        workers=WORKERS,
        env={"TOKENHUB_RATE_LIMIT_RPS": "0", **env},
    )


def check(report: Report) -> None:
    print(report.summary)
    assert report.problems == []
    assert report.kills == KILLS
    assert len(report.finished) > 100
    assert report.refused > 0
    assert report.left > 0
    key, project = (next(one for one in report.periods if one["subject"] == kind) for kind in ("key", "project"))
    assert project["settled_nano"] >= 0.99 * float(project["amount_usd"]) * 1e9
    assert key["settled_nano"] <= float(key["amount_usd"]) * 1e9


@pytest.fixture
def upstream() -> Any:
    with Upstream() as server:
        usage = {"prompt_tokens": 5, "completion_tokens": 60, "total_tokens": 65}
        server.default = Reply(words=12, interval=0.001, usage=usage)
        yield server


@pytest.mark.timeout(300 + SECONDS * 4)
def test_money_on_sqlite(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream) as gateway:
        report = run(
            gateway, upstream, keys=[KEY, OTHER_KEY], clients=CLIENTS, seconds=SECONDS, kills=KILLS, query=gateway.query
        )
        report.audit()
    check(report)


@pytest.mark.timeout(300 + SECONDS * 4)
@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
def test_money_on_postgresql(upstream: Upstream, tmp_path: Path) -> None:
    with postgres.Postgres() as database:
        env = {"TOKENHUB_DATABASE_URL": database.url}
        run_manage("migrate", "--verbosity", "0", folder=tmp_path, env=env)
        with gateway_at(tmp_path, upstream, **env) as gateway:

            def query(sql: str) -> list[dict[str, Any]]:
                with psycopg.connect(database.url, autocommit=True, row_factory=dict_row) as connection:
                    return connection.execute(sql).fetchall()

            report = run(
                gateway, upstream, keys=[KEY, OTHER_KEY], clients=CLIENTS, seconds=SECONDS, kills=KILLS, query=query
            )
            report.audit()
    check(report)
