#!/usr/bin/env python3
"""A request log of ten million rows: how long its pages take, how fast it takes in more, and whether requests feel that
it is pruned. Markdown.

    bench/big_log.py FOLDER [--rows 10000000] [--database sqlite|postgres] [--parts series,lists,ingest,prune]

FOLDER takes the database, some 16 GB for ten million rows; one that is there already is used again. PostgreSQL is a
cluster of its own in FOLDER."""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from time import monotonic, perf_counter, process_time, sleep
from typing import Any
from uuid import UUID, uuid4

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.log_rows import RARE_EVERY, made, uuid7  # noqa: E402
from tests.support.gateway import Gateway, environment, run_manage  # noqa: E402
from tests.support.postgres import Postgres  # noqa: E402
from tests.support.upstream import Upstream  # noqa: E402

BYTES_OF_A_ROW = 1400
FILLED = "filled"
REPEATS = 5
SERIES = 200
INGESTED = 100_000
RATE, CONNECTIONS, MEASURED_SECONDS = 60, 3, 50.0
FILTERS = {
    "api_key_id": ["00000000-0000-4000-8000-000000000000", "000001f3-0000-4000-8000-0000000001f3", "rare", "none"],
    "model_id": ["vendor-0/model-0-instruct", "vendor-7/model-39-instruct", "rare", "none"],
    "provider_id": ["vendor-0", "rare", "none"],
    "project": ["project-0", "rare", "none"], "alias": ["alias-0", "rare", "none", ""],
    "status": ["200", "502", "418", "599"], "error_code": ["rate_limit_exceeded", "rare", "none", ""],
    "error_class": ["transient", "rare"], "mode": ["cheap", "rare", "none"], "stream": ["true", "false"],
    "client_disconnected": ["true"], "tags": ["team-0", "rare", "none"], "endpoint": ["/v1/embeddings", "none"],
    "requested_model": ["auto", "none"], "api_key_name": ["app 00000000", "none"], "routing_reason": ["none"],
    "dialect": ["none"], "latency_ms": ["250"], "cost_usd": ["123"], "total_tokens": ["999999999"], "attempts": ["7"],
    "usage_estimated": ["true"], "client_request_id": ["none"], "request_id": ["none", str(uuid4())],
}  # fmt: skip
PAIRS = [
    "model_id=vendor-0/model-0-instruct&status=502", "model_id=rare&status=200", "provider_id=vendor-0&status=418",
    "project=project-0&model_id=vendor-7/model-39-instruct", "status=429&tags=none", "model_id=rare&stream=true",
    "api_key_id=00000000-0000-4000-8000-000000000000&error_code=rare", "alias=alias-0&status=502",
    "project=project-0&tags=team-0", "provider_id=vendor-0&latency_ms=999999",
    "status=502&error_code=all_models_failed",
]  # fmt: skip
BY = ["model", "provider", "project", "key"]
ADMIN = [
    "", "p=2", "p=200", "outcome=ok", "outcome=client", "outcome=server", "model_id=rare", "model_id=none",
    "model_id=vendor-0/model-0-instruct", "provider_id=vendor-0", "project=project-0", "project=project-0&p=200",
    "api_key_id=00000000-0000-4000-8000-000000000000", "alias=alias-0", "error_code=rare", "stream=1", "stream=0",
    "client_disconnected=1", "q=none", f"q={uuid4()}", "model_id=vendor-0/model-0-instruct&outcome=server",
]  # fmt: skip


# -- making it -------------------------------------------------------------------------------------------------------
def indexes(cursor: Any, is_sqlite: bool) -> list[tuple[str, str]]:
    """Name and statement of those that can be made afterwards."""
    if is_sqlite:
        sql = "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'telemetry_requestlog' AND type = 'index'"
        sql += " AND sql > ''"
    else:
        sql = (
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'telemetry_requestlog' AND indexname ~ '_at$'"
        )
    return list(cursor.execute(sql))


def fill_sqlite(path: Path, rows: int, until: datetime) -> None:
    from telemetry.ingest import COLUMNS

    database = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-500000", "locking_mode=EXCLUSIVE"):
        database.execute(f"PRAGMA {pragma}").fetchall()
    later = [one for one in indexes(database.cursor(), True) if not one[1].startswith("CREATE UNIQUE")]
    for name, _ in later:
        database.execute(f"DROP INDEX {name}")
    database.execute("BEGIN")
    sql = f"INSERT INTO telemetry_requestlog ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
    database.executemany(sql, made(COLUMNS, rows, until=until, as_text=True))
    database.execute("COMMIT")
    for _, statement in later:
        database.execute(statement)
    database.close()


def fill_postgres(url: str, rows: int, until: datetime) -> None:
    import psycopg

    from telemetry import partitions
    from telemetry.ingest import COLUMNS

    month = partitions.month_of(until - timedelta(days=91))
    while month < until:
        partitions._unless_held(month, partitions._make) if month not in partitions.months() else None  # noqa: SLF001
        month = partitions.month_after(month)
    with psycopg.connect(url) as database, database.cursor() as cursor:
        cursor.execute("SET maintenance_work_mem = '512MB'; SET synchronous_commit = off")
        later = indexes(cursor, False)
        for name, _ in later:
            cursor.execute(f"DROP INDEX {name}")
        with cursor.copy(f"COPY telemetry_requestlog ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for row in made(COLUMNS, rows, until=until, as_text=False):
                copy.write_row(row)
        for _, statement in later:
            cursor.execute(statement.replace(" ON ONLY ", " ON "))
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("VACUUM ANALYZE telemetry_requestlog")  # as autovacuum does in its own time


# -- measuring -------------------------------------------------------------------------------------------------------
def timed(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return (perf_counter() - begun) * 1000


def row(what: str, times: dict[str, float]) -> None:
    slowest = max(times, key=lambda one: times[one])
    median = statistics.median(times.values())
    print(f"| {what} | {len(times)} | {median:.0f} | {times[slowest]:.0f} | {slowest or '-'} |", flush=True)
    if "-v" in os.environ.get("BENCH", ""):
        for name, spent in sorted(times.items(), key=lambda one: -one[1])[:12]:
            print(f"    {spent:7.1f}  {name}", file=sys.stderr)


def lists() -> None:
    from django.contrib.auth.models import User
    from django.test import Client

    from tokenhub import admin_token

    client = Client(headers={"host": "127.0.0.1"})
    bearer = {"authorization": f"Bearer {admin_token.current()}"}
    User.objects.filter(username="bench").delete()
    person = Client(headers={"host": "127.0.0.1"})
    person.force_login(User.objects.create_superuser("bench", password=str(uuid4())))

    def api(query: str) -> Any:
        answer = client.get(f"/admin/v1/logs?{query}", headers=bearer)
        assert answer.status_code == 200, (query, answer.content[:300])
        return answer.json()

    def page(path: str) -> None:
        answer = person.get(f"/admin/{path}")
        assert answer.status_code == 200, (path, answer.status_code)

    def medians(ask: Callable[[str], object], queries: list[str]) -> dict[str, float]:
        return {query: statistics.median(timed(lambda q=query: ask(q)) for _ in range(REPEATS)) for query in queries}

    def cursors(query: str, pages: int) -> dict[str, float]:
        times, cursor = {}, ""
        for number in range(pages):
            asked = f"{query}&limit=100{cursor}"
            times[f"{query or 'all'}, page {number + 1}"] = statistics.median(
                timed(lambda q=asked: api(q)) for _ in range(3)
            )
            found = api(asked)["next_cursor"]
            if found is None:
                break
            cursor = f"&cursor={found}"
        return times

    old = (datetime.now(UTC) - timedelta(days=70)).isoformat().replace("+00:00", "Z")
    print("| | queries | median ms | slowest ms | which |\n|---|---|---|---|---|")
    row("`GET /logs`: no filter", medians(api, ["", "limit=100"]))
    row("by offset", medians(api, ["offset=5000", "offset=10000", "model_id=vendor-0/model-0-instruct&offset=10000"]))
    row("by cursor, 100 rows a page", cursors("", 20) | cursors("tags=rare", 20) | cursors("project=project-0", 20))
    row("from 70 days ago, by cursor", cursors(f"to={old}", 5) | cursors(f"to={old}&stream=true", 5))
    row("one filter", medians(api, [f"{name}={value}" for name, values in FILTERS.items() for value in values]))
    row("one filter and a span of time", medians(api, [f"{n}={vs[0]}&to={old}" for n, vs in FILTERS.items()]))
    row("two filters", medians(api, PAIRS))
    day = f"created_at_to_0={old[:10]}&created_at_to_1=00:00:00"
    row("admin, request log", medians(lambda q: page(f"telemetry/requestlog/?{q}"), [*ADMIN, day, f"{day}&stream=1"]))
    spans = ("1h", "24h", "7d", "30d")
    row("dashboard's figures", medians(page, [f"dashboard/figures/?window={one}&by={b}" for one in spans for b in BY]))
    row("leaderboard", medians(page, [f"leaderboard/?days={one}" for one in (1, 7, 30)]))
    row(
        "admin, first page and the like", medians(page, ["", "dashboard/state/", "live/flows/", "learning/", "health/"])
    )
    others = ["auditentry/", "webhook/", "webhookdelivery/", "auditentry/?q=none"]
    row("admin, other lists", medians(lambda q: page(f"telemetry/{q}"), others))


def ingest(folder: Path) -> None:
    from telemetry.ingest import ingest_all
    from telemetry.journal import Attempt, Entry, encode_line

    journal = folder / "bench-journal"
    journal.mkdir(exist_ok=True)
    now, rng = int(datetime.now(UTC).timestamp() * 1e6), Random()
    with (journal / "host-1-1-aa.journal").open("wb") as file:
        for number in range(INGESTED):
            model = f"vendor-{number % 8}/model-{number % 40}-instruct"
            file.write(encode_line(Entry(
                id=str(UUID(uuid7(now // 1000 + number // 10, rng))), at=now + number * 100,
                endpoint="/v1/chat/completions", client_id=uuid4().hex if number % 5 < 2 else "",
                status=502 if number % 25 == 0 else 200, error_code="upstream_error" if number % 25 == 0 else "",
                key_id=f"{number % 500:08x}-0000-4000-8000-{number % 500:012x}", project=f"project-{number % 30}",
                model=model, provider=model.partition("/")[0], input_tokens=100, output_tokens=50, cost_nano=1000,
                attempt_list=[Attempt(model, "p", "", 200, 100)], alias="alias-0" if number % 7 == 0 else "",
            )))  # fmt: skip
    begun, cpu = monotonic(), process_time()
    assert ingest_all(journal) == INGESTED
    spent, cpu = monotonic() - begun, process_time() - cpu
    print(
        f"\nIngestion: {INGESTED / spent:,.0f} rows/s; {cpu / INGESTED * 1e6:.0f} µs of this process's CPU a row.",
        flush=True,
    )


def latencies(gateway: Gateway, seconds: float) -> list[float]:
    """Of requests at a steady pace, in milliseconds."""
    import httpx

    found: list[float] = []

    def ask(shift: float) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        with httpx.Client(base_url=gateway.base, headers=gateway.headers(), timeout=30) as client:
            client.post("/v1/chat/completions", json=body)
            begun, number = monotonic() + shift, 0
            while (due := begun + number * CONNECTIONS / RATE) < begun + seconds:
                number += 1
                sleep(max(0.0, due - monotonic()))
                found.append(timed(lambda: client.post("/v1/chat/completions", json=body).raise_for_status()))

    threads = [threading.Thread(target=ask, args=[place / RATE]) for place in range(CONNECTIONS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return sorted(found)


def prune(folder: Path, env: dict[str, str], oldest: Callable[[], Any]) -> None:
    from telemetry import partitions

    print("\n| requests while | requests | median ms | p99 ms | p99.9 ms | longest ms |\n|---|---|---|---|---|---|")
    with Upstream() as upstream:
        providers = [{"id": "bench", "type": "openai", "base_url": upstream.url}]
        models = [{"id": "m", "provider_id": "bench", "input_per_1k": "0.001", "output_per_1k": "0.001"}]
        now = datetime.now(UTC)  # on PostgreSQL, a month goes when all of it is too old
        kept = (now - partitions.month_of(now - timedelta(days=45))).days if "TOKENHUB_DATABASE_URL" in env else 60
        for what, days in (("nothing is pruned", 0), ("a month is pruned", kept)):
            ours = {**env, "TOKENHUB_LOG_RETENTION_DAYS": str(days)}
            with Gateway(folder, providers=providers, models=models, env=ours) as gateway:
                before = oldest()
                sleep(2)
                if days:  # the pass begins while requests are measured
                    token = {"Authorization": f"Bearer {(folder / 'admin-token').read_text().strip()}"}
                    answer = gateway.post("/admin/v1/jobs/prune/run", {}, headers=token)
                    assert answer.status_code in {200, 409}, answer.text  # it may be due, and run already
                times = latencies(gateway, MEASURED_SECONDS)
                at = [times[int(len(times) * share)] for share in (0.5, 0.99, 0.999)]
                told = " | ".join(f"{one:.1f}" for one in (*at, times[-1]))
                print(f"| {what} | {len(times)} | {told} |", flush=True)
                after = oldest()
                assert (after != before) == bool(days), "nothing was pruned"
    print(f"\nOldest row before: {before}; when the requests ended: {after}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--parts", default="series,lists,ingest,prune")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    path, env, parts = folder / "tokenhub.sqlite3", dict[str, str](), options.parts.split(",")
    is_there = (path if options.database == "sqlite" else folder / FILLED).exists()
    needed, free = options.rows * BYTES_OF_A_ROW, shutil.disk_usage(folder).free
    if not is_there and free < needed * 1.3:
        raise SystemExit(f"{folder} has {free >> 30} GiB free; {needed * 1.3 / 2**30:.0f} are needed.")
    with ExitStack() as stack:
        if options.database == "postgres":
            env = {"TOKENHUB_DATABASE_URL": stack.enter_context(Postgres(folder / "postgres", options=())).url}
        run_manage("migrate", "--verbosity", "0", folder=folder, env=env)
        os.environ.update(environment(folder, env) | {"DJANGO_SETTINGS_MODULE": "tokenhub.settings"})
        import django
        from django.db import connection

        django.setup()
        from bench.series_rows import fill

        until = datetime.now(UTC) - timedelta(minutes=5)
        begun = monotonic()
        if not is_there and env:
            fill_postgres(env["TOKENHUB_DATABASE_URL"], options.rows, until)
            (folder / FILLED).touch()
        elif not is_there:
            fill_sqlite(path, options.rows, until)
        print(
            f"{options.rows:,} rows on {options.database}, made in {monotonic() - begun:.0f} s;"
            f" every {RARE_EVERY:,}th is rare.\n"
        )

        def oldest() -> Any:
            with connection.cursor() as cursor:
                cursor.execute("SELECT min(created_at) FROM telemetry_requestlog")
                return cursor.fetchone()[0]

        if "series" in parts:
            print(f"{SERIES} time series that are busy all the time: {fill(int(until.timestamp()), SERIES):,} rows.\n")
        if "lists" in parts:
            lists()
        if "ingest" in parts:
            ingest(folder)
        if "prune" in parts:
            prune(folder, env, oldest)


if __name__ == "__main__":
    main()
