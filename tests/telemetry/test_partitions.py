"""The request log on PostgreSQL: a partition for each month, made ahead, filled right, and dropped as a whole."""

# ruff: noqa: S608  SQL of our own table's name
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
import pytest
from django.core.management import call_command

from telemetry import partitions, retention, search
from telemetry.ingest import ingest_all
from telemetry.journal import Attempt
from telemetry.models import RequestLog
from telemetry.partitions import month_after, month_of, name_of
from telemetry.search import equal, tagged
from tests.support import postgres
from tests.telemetry.test_ingest import abandoned, entry, names, start
from tests.telemetry.test_search import SERVED, plan_of

pytestmark = pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())

NOW = datetime.now(UTC)
TABLE = "telemetry_requestlog"
WHERE_ROWS_ARE = f"SELECT endpoint, tableoid::regclass::text FROM {TABLE} ORDER BY endpoint"


class Database:
    """One of the cluster's."""

    def __init__(self, url: str) -> None:
        self.url, self.env = url, {"TOKENHUB_DATABASE_URL": url}

    @contextmanager
    def is_ours(self, blocker: Any) -> Iterator[Self]:
        """Django in this process works on it meanwhile."""
        with postgres.in_django(self.url, blocker):
            yield self

    def query(self, sql: str, *arguments: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def add(self, name: str, at: datetime, number: int) -> None:
        numbers = "status, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,"
        words = "client_request_id, api_key_id, api_key_name, project, dialect, requested_model, alias, mode, model_id,"
        words += "provider_id, routing_reason, error_class, error_code"
        self.query(
            f"INSERT INTO {TABLE} (endpoint, created_at, request_id, {numbers} total_tokens, latency_ms, attempts,"
            f" stream, usage_estimated, client_disconnected, tags, detail, {words})"
            f" VALUES (%s, %s, %s, 200{', 0' * 8}{', false' * 3}, '[]', '{{}}'{', %s' * 13})",
            *(name, at, UUID(int=number), *[""] * 13),
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Postgres]:
    with postgres.Postgres(migrated=True) as running:
        yield running


@pytest.fixture(scope="module")
def migrated(cluster: postgres.Postgres) -> Database:
    return Database(cluster.url)


@pytest.fixture
def database(migrated: Database, django_db_blocker: Any) -> Iterator[Database]:
    migrated.query(f"TRUNCATE {TABLE}")
    with migrated.is_ours(django_db_blocker):
        yield migrated


@pytest.fixture
def kept(settings: Any) -> Any:
    settings.TOKENHUB_LOG_RETENTION_DAYS, settings.TOKENHUB_LOG_MAX_ROWS = 0, 0
    return settings


def test_months_follow_each_other() -> None:
    assert month_of(datetime.fromisoformat("2026-01-31T23:30:00-02:00")) == datetime(2026, 2, 1, tzinfo=UTC)
    assert month_after(datetime(2026, 11, 1, tzinfo=UTC)) == datetime(2026, 12, 1, tzinfo=UTC)
    assert month_after(datetime(2026, 12, 1, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)
    assert name_of(datetime(2026, 3, 1, tzinfo=UTC)) == f"{TABLE}_y2026m03"


def test_the_migration_moves_the_rows_that_are_there_and_can_be_undone(database: Database) -> None:
    call_command("migrate", "telemetry", "0004", verbosity=0)
    old, odd = NOW - timedelta(days=70), datetime(1971, 1, 1, tzinfo=UTC)
    for number, at in enumerate((NOW, old, odd)):
        database.add("abc"[number], at, number)
    before = database.query(f"SELECT * FROM {TABLE} ORDER BY id")
    last = before[-1][0]
    call_command("migrate", "telemetry", verbosity=0)
    assert database.query(f"SELECT * FROM {TABLE} ORDER BY id") == before
    assert database.query(WHERE_ROWS_ARE) == [
        ("a", name_of(month_of(NOW))),
        ("b", name_of(month_of(old))),
        ("c", f"{TABLE}_default"),
    ]
    database.add("d", NOW, 9)
    assert database.query(f"SELECT id FROM {TABLE} WHERE endpoint = 'd'") == [(last + 1,)]
    call_command("migrate", "telemetry", "0004", verbosity=0)
    assert database.query(f"SELECT * FROM {TABLE} WHERE endpoint < 'd' ORDER BY id") == before
    database.add("e", NOW, 10)
    assert database.query(f"SELECT id FROM {TABLE} WHERE endpoint = 'e'") == [(last + 2,)]
    call_command("migrate", "telemetry", verbosity=0)


def test_months_are_made_ahead_and_take_their_rows_from_the_rest(database: Database) -> None:
    later = datetime(NOW.year + 2, 12, 5, tzinfo=UTC)
    database.add("ahead", later, 100)
    assert database.query(WHERE_ROWS_ARE) == [("ahead", f"{TABLE}_default")]
    now = datetime(later.year, 11, 30, tzinfo=UTC)
    assert [partitions.ensure(now), partitions.ensure(now)] == [3, 0]
    assert database.query(WHERE_ROWS_ARE) == [("ahead", f"{TABLE}_y{later.year}m12")]
    database.add("new year", datetime(later.year + 1, 1, 1, tzinfo=UTC), 101)
    assert ("new year", f"{TABLE}_y{later.year + 1}m01") in database.query(WHERE_ROWS_ARE)
    indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = %s"
    assert database.query(indexes, f"{TABLE}_y{later.year}m12") == database.query(indexes, name_of(month_of(NOW)))
    for month in partitions.months():
        if month > later - timedelta(days=90):
            assert partitions.drop(month) == 1


OLD = [datetime(2020, month, 1, tzinfo=UTC) for month in range(1, 5)]


def with_old_months() -> None:
    """Four of them, with a row each; the last row is from before them all."""
    partitions.ensure(OLD[0])
    partitions.ensure(OLD[1])
    moments = [*OLD, OLD[0] - timedelta(days=60)]
    RequestLog.objects.bulk_create(
        RequestLog(request_id=UUID(int=place), created_at=at, endpoint=str(place), status=200)
        for place, at in enumerate(moments)
    )


def left() -> list[str]:
    return sorted(RequestLog.objects.values_list("endpoint", flat=True))


def test_months_that_are_over_are_dropped_and_the_rest_is_deleted(database: Database, kept: Any) -> None:
    with_old_months()
    kept.TOKENHUB_LOG_RETENTION_DAYS = 19
    assert retention.prune_log(now=datetime(2020, 3, 20, tzinfo=UTC)) == 3
    assert (left(), partitions.months()[0]) == (["2", "3"], OLD[2])


def test_only_the_newest_stay_where_only_so_many_may(database: Database, kept: Any) -> None:
    with_old_months()
    kept.TOKENHUB_LOG_MAX_ROWS = 2
    retention.prune_log(now=datetime(2020, 3, 20, tzinfo=UTC))
    assert left() == ["3", "4"]  # by their numbers, in which they came
    assert partitions.months()[0] == OLD[3]


def test_a_month_that_somebody_reads_is_dropped_the_next_time(database: Database) -> None:
    with_old_months()
    with psycopg.connect(database.url) as reader:
        reader.execute(f"SELECT count(*) FROM {TABLE}")
        assert partitions.drop(OLD[3]) == 0
        reader.rollback()
        assert partitions.drop(OLD[3]) == 1
    assert "3" not in left()


KILLED_AT_EVERY_STATEMENT = """
def ingest_until(statement):
    def kill(execute, *rest):
        nonlocal statement
        statement -= 1
        if statement < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(*rest)
    with connection.execute_wrapper(kill):
        ingest.ingest_all(journal)

deaths = 0
for statement in [*range(20), *range(20, 90, 7), 10_000]:
    child = os.fork()
    if child == 0:
        ingest_until(statement)
        os._exit(0)
    deaths += os.waitpid(child, 0)[1] == signal.SIGKILL
print(deaths)
"""


def test_an_ingester_killed_at_any_statement_counts_nothing_twice_and_loses_nothing(
    database: Database, tmp_path: Path
) -> None:
    journal, at = tmp_path / "journal", int(NOW.timestamp() * 1e6)
    journal.mkdir()
    for number in range(4):
        lines = [entry(one, at=at - one * 10**12) for one in range(number * 25, number * 25 + 25)]  # over years
        abandoned(journal, *lines, lines[0], number=number)
    said, _ = start(tmp_path, KILLED_AT_EVERY_STATEMENT, database.env).communicate(timeout=100)
    assert int(said) >= 12
    found = database.query(f"SELECT request_id FROM {TABLE} ORDER BY request_id")
    assert [identity.int for (identity,) in found] == list(range(100))
    assert names(journal) == set()
    again = [entry(number, at=at - number * 10**12) for number in range(100)]
    abandoned(journal, *again, number=9)
    assert ingest_all(journal) == 100
    assert len(database.query(f"SELECT 1 FROM {TABLE}")) == 100


def test_a_request_arrives_as_it_was_written(database: Database, tmp_path: Path) -> None:
    odd = "Ä \\ \" ' {},% \u2028 😀"
    abandoned(tmp_path, entry(
        7, at=1_700_000_000_123_456, client_id=odd, model=odd[:9], requested_model=odd * 50, tags=[odd, "x"],
        latency_ms=2**31 - 1, first_chunk_ms=None, cost_nano=1, estimated_cost_nano=12_345_678_901_234_567, stream=True,
        attempt_list=[Attempt(odd, "p", "", 200, 100)],
    ))  # fmt: skip
    assert ingest_all(tmp_path) == 1
    row = RequestLog.objects.get()
    assert (row.request_id, row.client_request_id, row.model_id) == (UUID(int=7), odd, odd[:9])
    assert row.created_at == datetime(2023, 11, 14, 22, 13, 20, 123_456, UTC)
    assert (row.requested_model, row.tags) == ((odd * 50)[:200], [odd, "x"])
    assert (row.latency_ms, row.time_to_first_chunk_ms, row.stream) == (2**31 - 1, None, True)
    assert (row.cost_usd, row.estimated_cost_usd) == (Decimal("0.000000001"), Decimal("12345678.901234567"))
    assert row.detail["attempts"][0]["model"] == odd


@pytest.mark.parametrize("unfit", [{"key_name": "x" * 201}, {"latency_ms": 2**31}, {"status": 40_000}])
def test_what_postgresql_cannot_hold_holds_up_nothing_else(
    database: Database, tmp_path: Path, unfit: dict[str, Any]
) -> None:
    abandoned(tmp_path, entry(1), entry(2, **unfit), entry(3))
    assert ingest_all(tmp_path) == 2
    assert set(RequestLog.objects.values_list("request_id", flat=True)) == {UUID(int=1), UUID(int=3)}


def test_each_filter_uses_its_index_and_none_reads_a_partition_from_end_to_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = "request_id, created_at, api_key_id, model_id, provider_id, project, alias, error_code,"
    fields += " client_request_id, status"
    blank = (
        "'' api_key_name, 'chat' endpoint, '' dialect, '' requested_model, '' mode, '' routing_reason, '' error_class"
    )
    zero = "stream, usage_estimated, client_disconnected"
    counts = (
        "input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, total_tokens,"
        " latency_ms, attempts"
    )
    database.query(
        f"INSERT INTO {TABLE} ({fields}, api_key_name, endpoint, dialect, requested_model, mode, routing_reason,"
        f" error_class, {zero}, {counts}, tags, detail) SELECT gen_random_uuid(), %s - n * interval '1 minute',"
        " 'k' || n %% 50, 'm' || n %% 40, 'p' || n %% 9, CASE WHEN n %% 2 = 0 THEN 'x' || n %% 30 ELSE '' END,"
        " CASE WHEN n %% 9 = 0 THEN 'a' || n %% 4 ELSE '' END, CASE WHEN n %% 25 = 0 THEN 'overloaded' ELSE '' END,"
        " CASE WHEN n %% 2 = 0 THEN 'c' || n ELSE '' END, CASE WHEN n %% 5000 = 0 THEN 503"
        " WHEN n %% 25 = 0 THEN 404 ELSE 200 END,"
        f" {blank}{', false' * 3}{', 1' * 8}, '[]', '{{}}' FROM generate_series(1, 20000) n",
        month_of(NOW) + timedelta(days=14),
    )
    database.query(f"ANALYZE {TABLE}")
    columns = {"requestlog_at": "created_at", "requestlog_failed_at": "created_at", "requestlog_key_at": "api_key_id"}
    columns["requestlog_client_at"] = "client_request_id"
    for index, terms in SERVED.items():
        plan = plan_of(terms)
        assert f"_{columns.get(index, index.split('_')[1])}" in plan, plan
        assert not reads_all(plan), plan
    for name in ("SEARCHED", "SEARCHED_APART"):
        monkeypatch.setattr(search, name, 1000)
    for terms in ([equal("latency_ms", 5)], [tagged("t")], [equal("model_id", "m1"), tagged("t")]):
        assert not reads_all(plan_of(terms)), plan_of(terms)
    assert [value for value, _ in search.known("model_id")] == sorted(f"m{n}" for n in range(40))
    assert [value for value, _ in search.known("alias")] == ["a0", "a1", "a2", "a3"]


def reads_all(plan: str) -> bool:
    """Of the partition that has rows."""
    return f"Seq Scan on {name_of(month_of(NOW))}" in plan
