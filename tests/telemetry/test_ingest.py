from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry import ingest
from telemetry.ingest import Ingester, Lease, ingest_all, ingest_segment
from telemetry.journal import Attempt, Candidate, Entry, Journal, encode_line, segments
from telemetry.models import JournalSegment, RequestLog, Sample
from tests.support.gateway import ROOT, environment, migrated_database

AT = 1_764_000_000_123_456


def entry(number: int, **changes: object) -> Entry:
    made = Entry(id=str(UUID(int=number)), at=AT + number, endpoint="chat", status=200, cost_nano=number)
    return msgspec.structs.replace(made, **changes)


def abandoned(folder: Path, *lines: Entry | bytes, number: int = 1) -> Path:
    """A segment that a process has left behind."""
    path = folder / f"host-1-{number}-aa.journal"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else encode_line(line) for line in lines))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def logged() -> list[int]:
    return [identity.int for identity in RequestLog.objects.order_by("id").values_list("request_id", flat=True)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    writer = Journal(tmp_path)
    writer.open()
    yield writer
    writer.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a database on disk, for processes of their own."""
    shutil.copyfile(migrated_database(), tmp_path / "tokenhub.sqlite3")
    (tmp_path / "journal").mkdir()
    return tmp_path


def rows(folder: Path) -> list[int]:
    with closing(sqlite3.connect(folder / "tokenhub.sqlite3")) as database:
        found = database.execute("SELECT request_id FROM telemetry_requestlog ORDER BY request_id").fetchall()
    return [UUID(identity).int for (identity,) in found]


def start(folder: Path, code: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Python, with Django set up on the folder, `journal` and small batches."""
    prelude = (
        "import os, signal, sys, time, django\n"
        "django.setup()\n"
        "from pathlib import Path\n"
        "from django.db import DatabaseError, connection\n"
        "from telemetry import ingest\n"
        "ingest.BATCH_BYTES = 1000\n"
        f"journal = Path({str(folder / 'journal')!r})\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code],
        cwd=ROOT,
        env=environment(folder, env) | {"DJANGO_SETTINGS_MODULE": "tokenhub.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_row_says_all_that_the_entry_said(tmp_path: Path) -> None:
    attempts = [
        Attempt("m1", "p1", "rate_limited", 429, 12, 'slow "down" \u2028 \n'),
        Attempt("m2", "p2", "", 200, 34),
    ]
    candidates = [Candidate("m2", "p2", 0.5, 0.25, 0.5, 0.125, 0.375), Candidate("m3", "p3", excluded="down")]
    written = Entry(
        id=str(uuid4()), at=AT, endpoint="chat", status=200, client_id="theirs", key_id="k", key_name="app",
        project="p", dialect="openai", requested_model="auto", alias="auto", mode="cheapest", model="m2",
        provider="p2", reason="cheapest", error_class="none", error_code="no", stream=True, input_tokens=11,
        cached_input_tokens=5, cache_write_tokens=3, output_tokens=7, reasoning_tokens=2, usage_estimated=True,
        estimated_cost_nano=1, cost_nano=1_234_567_891, latency_ms=46, first_chunk_ms=40, disconnected=True,
        tags=["a", "ä"], attempt_list=attempts, candidates=candidates, hour_cache_write_tokens=1,
    )  # fmt: skip
    abandoned(tmp_path, written)
    assert ingest_all(tmp_path) == 1
    row = RequestLog.objects.values().get()
    assert row == {
        "id": row["id"],
        "request_id": UUID(written.id),
        "client_request_id": "theirs",
        "created_at": datetime.fromtimestamp(AT // 1_000_000, UTC).replace(microsecond=AT % 1_000_000),
        "api_key_id": "k",
        "api_key_name": "app",
        "project": "p",
        "endpoint": "chat",
        "dialect": "openai",
        "requested_model": "auto",
        "alias": "auto",
        "mode": "cheapest",
        "model_id": "m2",
        "provider_id": "p2",
        "routing_reason": "cheapest",
        "status": 200,
        "error_class": "none",
        "error_code": "no",
        "stream": True,
        "input_tokens": 11,
        "cached_input_tokens": 5,
        "cache_write_tokens": 3,
        "output_tokens": 7,
        "reasoning_tokens": 2,
        "total_tokens": 18,
        "usage_estimated": True,
        "estimated_cost_usd": Decimal("0.000000001"),
        "cost_usd": Decimal("1.234567891"),
        "latency_ms": 46,
        "time_to_first_chunk_ms": 40,
        "attempts": 2,
        "client_disconnected": True,
        "tags": ["a", "ä"],
        "detail": {
            "attempts": msgspec.to_builtins(attempts),
            "candidates": msgspec.to_builtins(candidates),
            "hour_cache_write_tokens": 1,
        },
    }


@pytest.mark.django_db
def test_a_row_of_little_has_the_defaults_of_the_model(tmp_path: Path) -> None:
    abandoned(tmp_path, Entry(id=str(UUID(int=1)), at=AT, endpoint="chat", status=401))
    ingest_all(tmp_path)
    made = RequestLog.objects.get()
    plain = RequestLog(id=made.id, request_id=made.request_id, created_at=made.created_at, endpoint="chat", status=401)
    assert {field.name: getattr(made, field.name) for field in RequestLog._meta.fields} == {
        field.name: getattr(plain, field.name) for field in RequestLog._meta.fields
    }


@pytest.mark.django_db(transaction=True)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.none() | st.integers(0, 10**15 - 1), min_size=1, max_size=20))
def test_costs_below_a_million_dollars_keep_nine_decimals_exactly(tmp_path: Path, costs: list[int | None]) -> None:
    RequestLog.objects.all().delete()
    abandoned(tmp_path, *(entry(n, cost_nano=cost, estimated_cost_nano=cost) for n, cost in enumerate(costs)))
    ingest_all(tmp_path)
    wanted = [None if cost is None else Decimal(cost).scaleb(-9) for cost in costs]
    assert list(RequestLog.objects.order_by("id").values_list("cost_usd", flat=True)) == wanted
    assert list(RequestLog.objects.order_by("id").values_list("estimated_cost_usd", flat=True)) == wanted


@pytest.mark.django_db
def test_a_model_name_longer_than_its_column_is_cut(tmp_path: Path) -> None:
    abandoned(tmp_path, entry(1, requested_model="x" * 1000))
    ingest_all(tmp_path)
    assert RequestLog.objects.get().requested_model == "x" * 200


# -- exactly once ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_every_entry_becomes_one_row_however_often_ingestion_runs(tmp_path: Path, journal: Journal) -> None:
    for number in range(30):
        journal.append(entry(number))
        if number % 4 == 0:
            ingest_all(tmp_path)
            assert ingest_all(tmp_path) == 0
    ingest_all(tmp_path)
    assert logged() == list(range(30))


@pytest.mark.django_db
def test_a_segment_of_many_batches_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BATCH_BYTES", 300)
    abandoned(tmp_path, *map(entry, range(40)))
    assert ingest_all(tmp_path) == 40
    assert logged() == list(range(40))


@pytest.mark.django_db
def test_an_entry_that_was_written_twice_is_one_row(tmp_path: Path) -> None:
    abandoned(tmp_path, entry(1), entry(1), entry(2))
    abandoned(tmp_path, entry(2), entry(3), number=2)
    ingest_all(tmp_path)
    assert logged() == [1, 2, 3]
    assert Sample.objects.get().cost_nano_sum == 1 + 2 + 3  # type: ignore[attr-defined]


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_is_rolled_back_is_ingested_the_next_time(tmp_path: Path) -> None:
    path = abandoned(tmp_path, *map(entry, range(5)))

    def lose_power(execute: Callable[..., object], sql: str, *rest: object) -> object:
        if sql.startswith("UPDATE"):
            raise KeyboardInterrupt
        return execute(sql, *rest)

    with connection.execute_wrapper(lose_power), pytest.raises(KeyboardInterrupt):
        ingest_all(tmp_path)
    assert (logged(), path.exists()) == ([], True)
    assert ingest_all(tmp_path) == 5
    assert (logged(), path.exists()) == ([0, 1, 2, 3, 4], False)


# -- the end of a segment ----------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_segment_is_deleted_after_its_writer_left_and_not_before(tmp_path: Path, journal: Journal) -> None:
    journal.append(entry(1))
    (segment,) = segments(tmp_path)
    ingest_all(tmp_path)
    assert names(tmp_path) == {segment.name}
    assert JournalSegment.objects.get().offset == segment.path.stat().st_size
    journal.append(entry(2))
    journal.close()
    ingest_all(tmp_path)
    assert (logged(), names(tmp_path), JournalSegment.objects.count()) == ([1, 2], set(), 0)


@pytest.mark.django_db
def test_an_unreadable_segment_is_kept_out_of_the_way_for_a_person(tmp_path: Path) -> None:
    content = encode_line(entry(1)) + b"deadbeef {}\n" + encode_line(entry(2))
    path = abandoned(tmp_path, content)
    assert ingest_all(tmp_path) == 2
    assert names(tmp_path) == {"host-1-1-aa.unreadable"}
    assert path.with_suffix(".unreadable").read_bytes() == content
    assert ingest_all(tmp_path) == 0
    assert (logged(), JournalSegment.objects.count()) == ([1, 2], 0)


@pytest.mark.django_db
def test_unreadable_lines_of_a_living_writer_are_counted_once(tmp_path: Path, journal: Journal) -> None:
    journal.append(entry(1))
    (segment,) = segments(tmp_path)
    with segment.path.open("ab") as file:
        file.write(b"torn\n")
    journal.append(entry(2))
    for _ in range(3):
        ingest_all(tmp_path)
    assert logged() == [1, 2]
    assert JournalSegment.objects.get().unreadable == 1


@pytest.mark.django_db
def test_a_torn_end_is_not_thrown_away_with_its_segment(tmp_path: Path) -> None:
    abandoned(tmp_path, entry(1), encode_line(entry(2))[:-9])
    assert ingest_all(tmp_path) == 1
    assert names(tmp_path) == {"host-1-1-aa.unreadable"}


@pytest.mark.django_db
def test_a_last_line_that_lacks_but_its_line_feed_counts(tmp_path: Path) -> None:
    abandoned(tmp_path, entry(1), encode_line(entry(2))[:-1])
    assert ingest_all(tmp_path) == 2
    assert (logged(), names(tmp_path)) == ([1, 2], set())


@pytest.mark.django_db
def test_an_empty_segment_is_cleared_away(tmp_path: Path) -> None:
    abandoned(tmp_path)
    assert ingest_all(tmp_path) == 0
    assert (names(tmp_path), JournalSegment.objects.count()) == (set(), 0)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "poison",
    [
        entry(2, input_tokens=2**63),
        entry(2, input_tokens=2**63 - 1, output_tokens=2**63 - 1),
        entry(2, status=-1),
        entry(2, at=2**62),
    ],
    ids=["too_large", "sum_too_large", "negative", "no_date"],
)
def test_an_entry_that_the_database_refuses_does_not_hold_up_the_others(tmp_path: Path, poison: Entry) -> None:
    abandoned(tmp_path, entry(1), poison, entry(3))
    abandoned(tmp_path, entry(4), number=2)
    assert ingest_all(tmp_path) == 3
    assert logged() == [1, 3, 4]
    assert sum(Sample.objects.values_list("requests", flat=True)) == 3
    assert names(tmp_path) == {"host-1-1-aa.unreadable"}


# -- more than one ingester --------------------------------------------------------------------------------------------


def test_the_lease_is_exclusive(tmp_path: Path) -> None:
    first, second = Lease(tmp_path), Lease(tmp_path)
    assert [first.take(), first.take(), second.take()] == [True, True, False]
    first.release()
    assert second.take()
    second.release()


def test_the_lease_dies_with_its_holder(folder: Path) -> None:
    mine = Lease(folder / "journal")
    with start(folder, "lease = ingest.Lease(journal); print(lease.take(), flush=True); input()") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert not mine.take()
        process.kill()
        process.wait(5)
    assert mine.take()
    mine.release()


KILLED_AT_EVERY_STEP = """
from django.db.backends.base.base import BaseDatabaseWrapper
from telemetry.tsdb.upkeep import prune, roll_up

def until_step(step, work):
    def pass_by():
        nonlocal step
        step -= 1
        if step < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def kill(execute, *rest):
        pass_by()
        return execute(*rest)
    commit = BaseDatabaseWrapper._commit
    def kill_around(self):
        pass_by()
        commit(self)
        pass_by()
    BaseDatabaseWrapper._commit = kill_around
    with connection.execute_wrapper(kill):
        work()

def keep_house():
    roll_up(END + 2 * 86_400)
    prune(END + 100 * 86_400)

for work, steps in ((lambda: ingest.ingest_all(journal), [*range(30), *range(0, 150, 23)]), (keep_house, range(30))):
    deaths = 0
    for step in [*steps, 100_000]:
        child = os.fork()
        if child == 0:
            until_step(step, work)
            os._exit(0)
        deaths += os.waitpid(child, 0)[1] == signal.SIGKILL
    print(deaths)
"""


def test_killed_at_any_step_it_counts_nothing_twice_and_loses_nothing(folder: Path) -> None:
    for number in range(4):
        some = (entry(n, at=AT + n * 20_000_000, input_tokens=n) for n in range(number * 50, number * 50 + 50))
        abandoned(folder / "journal", *some, number=number)
    process = start(folder, f"END = {AT // 1_000_000 + 4000}\n" + KILLED_AT_EVERY_STEP)
    said, _ = process.communicate(timeout=50)
    assert [int(deaths) >= 20 for deaths in said.split()] == [True, True]
    assert rows(folder) == list(range(200))
    assert names(folder / "journal") == set()
    with closing(sqlite3.connect(folder / "tokenhub.sqlite3")) as database:
        sums = "SELECT span, SUM(requests), SUM(cost_nano_sum), SUM(input_tokens_sum) FROM telemetry_sample GROUP BY 1"
        assert database.execute(sums).fetchall() == [(86_400, 200, sum(range(200)), sum(range(200)))]


INGEST_TOGETHER = """
print("ready", flush=True)
input()
for _ in range(20):
    try:
        ingest.ingest_all(journal)
    except DatabaseError as problem:
        print(problem)
"""


def test_two_ingesters_at_once_neither_double_nor_lose(folder: Path) -> None:
    for number in range(6):
        abandoned(folder / "journal", *map(entry, range(number * 50, number * 50 + 50)), number=number)
    both = [start(folder, INGEST_TOGETHER) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=50)
        assert process.returncode == 0
    assert rows(folder) == list(range(300))
    assert names(folder / "journal") == set()
    with closing(sqlite3.connect(folder / "tokenhub.sqlite3")) as database:
        series = "SELECT SUM(requests), SUM(cost_nano_sum) FROM telemetry_sample"
        assert database.execute(series).fetchall() == [(300, sum(range(300)))]


@pytest.mark.django_db
def test_a_segment_that_another_ingester_finished_is_passed_over(tmp_path: Path) -> None:
    abandoned(tmp_path, entry(1))
    (segment,) = segments(tmp_path)
    ingest_segment(segment)
    with pytest.raises(FileNotFoundError):
        ingest_segment(segment)
    abandoned(tmp_path, entry(2), number=2)
    assert ingest_all(tmp_path) == 1
    assert JournalSegment.objects.count() == 0


# -- the thread --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_thread_goes_on_after_a_failure_and_stops_when_told(tmp_path: Path) -> None:
    passes, permits = threading.Semaphore(0), threading.Semaphore(0)
    stopped = threading.Event()

    def wait(_seconds: float) -> bool:
        passes.release()
        permits.acquire()
        return stopped.is_set()

    def turn() -> None:
        permits.release()
        assert passes.acquire(timeout=10)

    folder = tmp_path / "journal"
    thread = Ingester(folder, wait=wait)
    thread.start()
    assert passes.acquire(timeout=10)
    (folder / "host-1-0-aa.journal").mkdir()  # not even a file
    abandoned(folder, entry(1))
    turn()
    (folder / "host-1-0-aa.journal").rmdir()
    turn()
    assert logged() == [1]
    assert not Lease(folder).take()
    stopped.set()
    permits.release()
    thread.stop()
    assert Lease(folder).take()
