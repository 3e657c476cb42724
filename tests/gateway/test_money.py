"""No budget is overshot and nothing is lost, whoever is killed: on SQLite and on PostgreSQL. `make money-test` runs the
same for longer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support import postgres
from tests.support.gateway import KEY, Gateway
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
    with postgres.Postgres(migrated=True) as database:
        env = {"TOKENHUB_DATABASE_URL": database.url}
        with gateway_at(tmp_path, upstream, **env) as gateway:

            def query(sql: str) -> list[dict[str, Any]]:
                with psycopg.connect(database.url, autocommit=True, row_factory=dict_row) as connection:
                    return connection.execute(sql).fetchall()

            report = run(
                gateway, upstream, keys=[KEY, OTHER_KEY], clients=CLIENTS, seconds=SECONDS, kills=KILLS, query=query
            )
            report.audit()
    check(report)


@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
@pytest.mark.parametrize("fail_open", [False, True])
def test_without_a_database_leases_are_spent_and_then_nothing_is_free(
    upstream: Upstream, tmp_path: Path, fail_open: bool
) -> None:
    with postgres.Postgres(migrated=True) as database:
        env = {"TOKENHUB_DATABASE_URL": database.url, "TOKENHUB_MONEY_FAIL_OPEN": str(fail_open).lower()}
        with Gateway(
            tmp_path,
            providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}],
            models=[{"id": "m", "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.005"}],
            keys=[{"key": KEY}, {"key": OTHER_KEY}],
            budgets=[{"of_key": KEY, "amount_usd": "0.1"}],
            env={"TOKENHUB_RATE_LIMIT_RPS": "0", **env},
        ) as gateway:

            def ask(key: str = KEY) -> httpx.Response:
                body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64}
                return gateway.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {key}"})

            def settled() -> int:
                with psycopg.connect(database.url, autocommit=True) as connection:
                    found = connection.execute("SELECT settled_nano FROM keys_budgetperiod").fetchone()
                return int(found[0]) if found is not None else 0

            assert ask().status_code == 200
            database.stop()
            within_lease = 0
            while (answer := ask()).status_code == 200 and within_lease < 60:
                within_lease += 1
            assert within_lease > 3  # a sixteenth of the budget was leased
            if fail_open:
                assert within_lease == 60
            else:
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (503, "accounting_unavailable")
                assert int(answer.headers["retry-after"]) >= 1
            assert ask(OTHER_KEY).status_code == 200  # it has no budget
            database.start()
            gateway.wait_until(lambda: ask().status_code == 200, seconds=15)
            cost = 5 * 1_000 + 60 * 5_000  # nano-dollars of one answer
            charged = within_lease + 2 if not fail_open else 3
            gateway.wait_until(lambda: settled() >= charged * cost, seconds=15)
            assert settled() <= 100_000_000
