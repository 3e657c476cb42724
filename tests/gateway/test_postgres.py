"""The same gateway on PostgreSQL."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.orchestration.script import COST, PRICES, said
from tests.orchestration.test_background import begin, ended
from tests.support import postgres
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())


def test_requests_are_logged_once_a_new_key_reaches_both_workers_and_metrics_outlive_the_database(
    tmp_path: Path,
) -> None:
    with postgres.Postgres(migrated=True) as database, Upstream() as upstream:
        env = {"TOKENHUB_DATABASE_URL": database.url}
        with Gateway(
            tmp_path,
            providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "credential": "sk-1"}],
            models=[{"id": "m", "provider_id": "p", "input_per_1k": "0.000000001", "output_per_1k": "1234.5"}],
            env=env,
            workers=2,
        ) as gateway:
            assert gateway.get("/readyz").json()["database"] == "ok"
            ids = {gateway.chat("m").headers["x-tokenhub-request-id"] for _ in range(40)}
            gateway.configure(keys=[{"key": KEY[:-2] + "00"}])
            time.sleep(1)
            headers = {"Authorization": f"Bearer {KEY[:-2]}00"}
            body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            assert {gateway.post("/v1/chat/completions", body, headers=headers).status_code for _ in range(20)} == {200}
            with psycopg.connect(database.url, autocommit=True) as connection:

                def rows() -> list[Any]:
                    return connection.execute(
                        "SELECT request_id::text, cost_usd, detail FROM telemetry_requestlog"
                    ).fetchall()

                Gateway.wait_until(lambda: ids <= {row[0] for row in rows()})
                found = [row for row in rows() if row[0] in ids]
            assert "tokenhub_database_up 1.0" in gateway.get("/metrics").text
            all_60 = re.compile(r'tokenhub_requests_total\{mode="",model="m",provider="p",status="200"\} 60')
            Gateway.wait_until(lambda: all_60.search(gateway.get("/metrics").text) is not None)
            database.stop()
            text = gateway.get("/metrics").text
            assert "tokenhub_database_up 0.0" in text
            assert all_60.search(text)
    assert len(found) == len(ids) == 40
    assert {f"{row[1]:f}" for row in found} == {"9.876000001"}
    assert upstream.requests[0].headers["authorization"] == "Bearer sk-1"


def test_a_plan_in_the_background_is_kept_leg_by_leg(tmp_path: Path) -> None:
    with postgres.Postgres(migrated=True) as database, Upstream() as upstream:
        env = {"TOKENHUB_DATABASE_URL": database.url}
        upstream.next(said("The plan."), said("A flaw."), said("Better."))
        with Gateway(
            tmp_path,
            providers=[{"id": "p", "type": "openai", "base_url": upstream.url}],
            models=[{"id": "m", "provider_id": "p", **PRICES}],
            env=env,
        ) as gateway:
            found = ended(gateway, begin(gateway, "adversarial", primary_model_id="m"))
    assert found["result"]["response"]["refined_plan"] == "Better."
    assert [(leg["leg"], leg["status"], leg["model"]) for leg in found["legs"]] == [
        ("plan", "completed", "m"), ("critique-1", "completed", "m"), ("refine-1", "completed", "m"),
    ]  # fmt: skip
    assert found["cost_usd"] == pytest.approx(3 * COST)


def test_a_request_that_waits_while_its_budget_is_deleted_is_served(tmp_path: Path) -> None:
    with (
        postgres.Postgres(migrated=True) as database,
        Upstream() as upstream,
        Gateway(
            tmp_path,
            providers=[{"id": "p", "type": "openai", "base_url": upstream.url}],
            models=[{"id": "m", "provider_id": "p", **PRICES, "max_output_tokens": 1000}],
            budgets=[{"of_key": KEY, "amount_usd": "2"}],
            env={"TOKENHUB_DATABASE_URL": database.url},
        ) as gateway,
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(database.url) as deleting,
        psycopg.connect(database.url, autocommit=True) as watching,
    ):
        assert gateway.chat("m").status_code == 200
        deleting.execute("DELETE FROM keys_lease")
        deleting.execute("DELETE FROM keys_budgetperiod")
        deleting.execute("DELETE FROM keys_budget")
        body = {"model": "m", "messages": [{"role": "user", "content": "word" * 100_000}], "n": 128}
        asked = pool.submit(gateway.post, "/v1/chat/completions", body)
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        Gateway.wait_until(lambda: watching.execute(waits).fetchall() != [(0,)] or asked.done())
        assert not asked.done()
        deleting.commit()
        answer = asked.result(timeout=30)
        assert answer.status_code == 200, answer.text
