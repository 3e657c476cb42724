"""Jobs of a running server: once among its workers, after a kill, and when somebody asks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from tests.support.gateway import HTTP, Gateway
from tests.support.upstream import Fault, Reply, Upstream

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("jobs"),
        workers=2,
        providers=[{"id": "p", "type": "openai", "base_url": upstream.url}],
        models=[{"id": "m", "provider_id": "p"}],
        env={"TOKENHUB_ADMIN_TOKEN": TOKEN},
    ) as gateway:
        yield gateway


def jobs(gateway: Gateway) -> dict[str, dict[str, object]]:
    answer = gateway.get("/admin/v1/jobs", authorization=f"Bearer {TOKEN}").json()
    return {one["name"]: one for one in answer["items"]}


def ask(gateway: Gateway, name: str) -> int:
    path = f"{gateway.base}/admin/v1/jobs/{name}/run"
    return HTTP.post(path, headers={"authorization": f"Bearer {TOKEN}"}, timeout=30).status_code


def test_a_job_that_is_asked_for_runs_once_among_the_workers(gateway: Gateway, upstream: Upstream) -> None:
    Gateway.wait_until(lambda: "probe_providers" in jobs(gateway), seconds=20)
    assert jobs(gateway)["probe_providers"]["next_at"] is None  # the tests have no probes of their own
    for number in range(1, 4):
        before = jobs(gateway)["probe_providers"]["last_started_at"]
        assert ask(gateway, "probe_providers") == 200
        Gateway.wait_until(lambda: jobs(gateway)["probe_providers"]["last_started_at"] != before, seconds=20)  # noqa: B023
        assert len([one for one in upstream.requests if one.method == "GET"]) == number
    row = jobs(gateway)["probe_providers"]
    assert (row["last_outcome"], row["last_result"]) == ("ok", "1 providers asked.")
    assert row["last_by"] == "admin-token"


def test_ingestion_is_looked_after_beside_the_thread_that_does_it(gateway: Gateway) -> None:
    Gateway.wait_until(lambda: "ingest_journal" in jobs(gateway), seconds=20)
    assert ask(gateway, "ingest_journal") == 200
    Gateway.wait_until(lambda: bool(jobs(gateway)["ingest_journal"]["last_outcome"]), seconds=20)
    row = jobs(gateway)["ingest_journal"]
    assert str(row["last_result"]).startswith("A worker of this host is at it")
    assert row["scope"] == "host"
    assert row["host"]


def test_a_job_that_nobody_knows_is_not_found(gateway: Gateway) -> None:
    assert ask(gateway, "make_coffee") == 404


def test_a_job_of_killed_workers_runs_again_after_the_start(gateway: Gateway, upstream: Upstream) -> None:
    Gateway.wait_until(lambda: "probe_providers" in jobs(gateway), seconds=20)
    upstream.next(Reply(fault=Fault.HANG_BEFORE_HEAD))
    assert ask(gateway, "probe_providers") == 200
    Gateway.wait_until(lambda: jobs(gateway)["probe_providers"]["running_since"] is not None, seconds=20)
    since = jobs(gateway)["probe_providers"]["running_since"]
    assert ask(gateway, "probe_providers") == 409
    gateway.kill()
    with sqlite3.connect(gateway.folder / "tokenhub.sqlite3") as database:  # as if the fifteen seconds were over
        database.execute("UPDATE tokenhub_jobstate SET lease_until = running_since")
    database.close()
    gateway.start()

    def ended() -> bool:
        row = jobs(gateway)["probe_providers"]
        return row["running_since"] is None and str(row["last_started_at"]) > str(since)

    Gateway.wait_until(ended, seconds=60)
    assert jobs(gateway)["probe_providers"]["last_outcome"] == "ok"
