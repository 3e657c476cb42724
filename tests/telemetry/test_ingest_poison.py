"""Lines that a database cannot take as they are: on SQLite and on PostgreSQL, they hold up nobody else's."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import DatabaseError, connection, connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keys import bank, services
from keys.models import Budget, BudgetPeriod, ClientKey, Every, Subject
from routing import feedback
from routing.models import Feedback
from telemetry import ingest, spending
from telemetry.ingest import Ingester, ingest_all
from telemetry.journal import Attempt, Candidate, Charge, Entry
from telemetry.last_use import LastUse
from telemetry.models import JournalSegment, KeySpending, RequestLog, Sample
from tests.support import postgres
from tests.support.gateway import Gateway
from tests.telemetry.test_ingest import AT, abandoned, entry, logged, names
from tests.telemetry.test_partitions import Database
from vault.models import Secret

TABLES = (
    "telemetry_requestlog, telemetry_sample, telemetry_series, telemetry_keyspending, telemetry_journalsegment,"
    " routing_feedback"
)
LARGEST = 2**63 - 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Postgres]:
    with postgres.Postgres(migrated=True) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, transactional_db: None, django_db_blocker: Any) -> Iterator[str]:
    """Django works on it meanwhile."""
    if request.param == "sqlite":
        yield "sqlite"
        return
    if reason := postgres.why_not():
        pytest.skip(reason)
    with Database(request.getfixturevalue("cluster").url).is_ours(django_db_blocker) as ours:
        ours.query(f"TRUNCATE {TABLES}, keys_budget CASCADE")
        yield "postgres"


def spent(key: str) -> int | None:
    return KeySpending.objects.filter(key_id=key).values_list("cost_nano", flat=True).first()


@pytest.mark.usefixtures("database")
def test_a_cost_beyond_all_sums_is_logged_and_holds_up_nobody(tmp_path: Path) -> None:
    absurd = 27 * 10**18  # fits the column of the log
    abandoned(tmp_path, entry(1, key_id="k"), entry(2, key_id="k", cost_nano=absurd), entry(3, key_id="other"))
    assert ingest_all(tmp_path) == 3
    assert logged() == [1, 2, 3]
    assert (names(tmp_path), JournalSegment.objects.count()) == (set(), 0)
    assert spent("other") == 3
    assert sum(Sample.objects.values_list("requests", flat=True)) == 3


@pytest.mark.usefixtures("database")
def test_sums_that_are_full_stay_full(tmp_path: Path) -> None:
    abandoned(tmp_path, entry(1, key_id="k", cost_nano=5))
    ingest_all(tmp_path)
    KeySpending.objects.update(cost_nano=LARGEST - 3)
    Sample.objects.update(cost_nano_sum=LARGEST - 3)
    abandoned(tmp_path, entry(2, key_id="k", cost_nano=5))
    abandoned(tmp_path, entry(3, key_id="k", cost_nano=5), number=2)
    assert ingest_all(tmp_path) == 2
    assert logged() == [1, 2, 3]
    assert spent("k") == LARGEST
    assert max(Sample.objects.values_list("cost_nano_sum", flat=True)) == LARGEST


@pytest.mark.usefixtures("database")
def test_a_charge_that_cannot_be_booked_costs_neither_its_row_nor_other_charges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ingest, "SINKS", [bank.book])
    budget = Budget.objects.create(subject=Subject.INSTALLATION, amount_usd=Decimal(1), every=Every.TOTAL)
    grant = bank.DatabaseBank(holder="h", host="h").grant(budget.pk, "", most=100, least=1)

    def charged(number: int, nano: int) -> Entry:
        return entry(number, charges=[Charge(grant.lease, grant.period, nano)])

    abandoned(tmp_path, charged(1, 5), charged(2, LARGEST), charged(3, 7))
    assert ingest_all(tmp_path) == 3
    assert logged() == [1, 2, 3]
    assert BudgetPeriod.objects.get().settled_nano == 12
    assert [record.getMessage() for record in caplog.records].count("journal_charges_refused") == 1
    assert names(tmp_path) == {"host-1-1-aa.unreadable"}


@pytest.mark.usefixtures("database")
def test_a_defect_that_one_line_meets_sets_aside_that_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = spending.count

    def defect(entries: Sequence[Entry]) -> None:
        if any(one.at == AT + 5 for one in entries):
            raise KeyError("a defect")
        counted(entries)

    monkeypatch.setattr(spending, "count", defect)
    abandoned(tmp_path, *(entry(number, key_id="k") for number in range(9)))
    assert ingest_all(tmp_path) == 8
    assert logged() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert spent("k") == sum(range(9)) - 5
    assert sum(Sample.objects.values_list("requests", flat=True)) == 8


# -- who watches -------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
def test_whoever_waits_for_a_key_waits_for_no_lock_of_the_ingester(
    cluster: postgres.Postgres, tmp_path: Path, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the deletion of a key does: its row first, then the periods of its budget."""
    monkeypatch.setattr(ingest, "SINKS", [bank.book])
    with Database(cluster.url).is_ours(django_db_blocker) as ours:
        ours.query(f"TRUNCATE {TABLES}, keys_budget, keys_clientkey CASCADE")
        key = services.issue(name="app").record
        budget = Budget.objects.create(subject=Subject.INSTALLATION, amount_usd=Decimal(1), every=Every.TOTAL)
        grant = bank.DatabaseBank(holder="h", host="h").grant(budget.pk, "", most=100, least=1)
        abandoned(tmp_path, entry(1, key_id=str(key.pk), charges=[Charge(grant.lease, grant.period, 5)]))
        found: list[int] = []

        def run() -> None:
            found.append(ingest_all(tmp_path))
            connections.close_all()

        thread = threading.Thread(target=run)
        with psycopg.connect(cluster.url) as deleting:
            deleting.execute("SELECT 1 FROM keys_clientkey FOR UPDATE")
            thread.start()
            Gateway.wait_until(lambda: logged() == [1])
            settled = deleting.execute("SELECT settled_nano FROM keys_budgetperiod FOR UPDATE NOWAIT").fetchall()
        thread.join(60)
        key.refresh_from_db()
    assert (settled, found) == ([(5,)], [1])
    assert key.last_used_at == datetime.fromtimestamp((AT + 1) / 1e6, UTC)


@pytest.mark.usefixtures("database")
def test_a_watcher_that_fails_costs_neither_rows_nor_other_watchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_entries: Sequence[Entry]) -> None:
        raise DatabaseError("away")

    seen: list[str] = []
    monkeypatch.setattr(ingest, "WATCHERS", [fail, lambda entries: seen.extend(one.id for one in entries)])
    abandoned(tmp_path, entry(1))
    assert ingest_all(tmp_path) == 1
    assert (logged(), seen, names(tmp_path)) == ([1], [str(UUID(int=1))], set())
    assert "ingest_watcher_failed" in [record.getMessage() for record in caplog.records]


@pytest.mark.django_db(transaction=True)
def test_a_stamp_that_could_not_be_written_is_written_the_next_time() -> None:
    key = services.issue(name="app").record
    use = LastUse(lambda one: [one.key_id], lambda name: ClientKey.objects.filter(pk=name))

    def fail(*_: object) -> None:
        raise DatabaseError("away")

    with connection.execute_wrapper(fail), pytest.raises(DatabaseError):
        use.note([entry(1, key_id=str(key.pk))])
    use.note([entry(2, key_id=str(key.pk))])
    key.refresh_from_db()
    assert key.last_used_at == datetime.fromtimestamp((AT + 2) / 1e6, UTC)


@pytest.mark.django_db
def test_the_credential_of_a_provider_that_failed_was_used_too() -> None:
    named = ("stamp-answered", "stamp-failed", "stamp-idle")  # what was stamped is remembered in the process
    answered, failed, idle = (Secret.objects.create(name=f"provider/{one}", sealed=b"s") for one in named)
    attempts = [Attempt("m", named[1], "auth", 401), Attempt("m", named[0])]
    for watch in ingest.WATCHERS:
        watch([entry(1, provider=named[0], attempt_list=attempts)])
    for secret in (answered, failed, idle):
        secret.refresh_from_db()
    moment = datetime.fromtimestamp((AT + 1) / 1e6, UTC)
    assert [one.last_used_at for one in (answered, failed, idle)] == [moment, moment, None]


# -- texts -------------------------------------------------------------------------------------------------------------
texts = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["a\0b", "\0", "\\u0000", "\\\0", "\\\\u0000\0\\", "\ud800", "\udc00\ud800", "\\ud800", '"\0"', "\ufffe", "\u2028"]
)
NAMED = (
    "client_id", "key_id", "key_name", "project", "dialect", "requested_model", "alias", "mode", "model", "provider",
    "reason", "error_class", "error_code", "context", "plan", "leg", "shadow_of", "warning",
)  # fmt: skip
COLUMN_OF = {
    "client_id": "client_request_id", "key_id": "api_key_id", "key_name": "api_key_name", "model": "model_id",
    "provider": "provider_id", "reason": "routing_reason",
}  # fmt: skip
entries = st.builds(
    partial(Entry, id=str(UUID(int=1)), at=AT, endpoint="chat", status=500, cost_nano=1),
    **dict.fromkeys(NAMED, texts),
    tags=st.lists(texts, max_size=3),
    attempt_list=st.lists(st.builds(Attempt, texts, texts, texts, message=texts), max_size=2),
    candidates=st.lists(st.builds(Candidate, texts, texts, excluded=texts), max_size=2),
    refusal=st.none() | st.dictionaries(texts, texts | st.lists(texts, max_size=2), max_size=2),
    reward_parts=st.dictionaries(texts, st.just({"value": 1.0}), max_size=2),
)


def kept(text: str) -> str:
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=entries)
@pytest.mark.usefixtures("database")
def test_whatever_its_texts_hold_a_request_is_logged_and_what_cannot_be_kept_is_marked(
    tmp_path: Path, written: Entry
) -> None:
    RequestLog.objects.all().delete()
    abandoned(tmp_path, written, entry(2))
    assert ingest_all(tmp_path) == 2
    assert (logged(), names(tmp_path)) == ([1, 2], set())
    row = RequestLog.objects.order_by("id")[0]
    told = {name: getattr(row, COLUMN_OF.get(name, name)) for name in NAMED if hasattr(row, COLUMN_OF.get(name, name))}
    assert told == {name: kept(getattr(written, name)) for name in told}
    assert row.tags == [kept(one) for one in written.tags]
    assert [one.get("message", "") for one in row.detail.get("attempts", ())] == [
        kept(one.message) for one in written.attempt_list
    ]
    if written.refusal:
        assert set(row.detail["refusal"]) == set(map(kept, written.refusal))
    assert row.detail.get("warning", "") == kept(written.warning)


@pytest.mark.usefixtures("database")
def test_a_judgement_with_a_nul_character_is_kept_and_names_no_request(tmp_path: Path) -> None:
    abandoned(tmp_path, entry(1, key_id="k"))
    ingest_all(tmp_path)
    say = partial(feedback.note, key_id="k", part=feedback.CLIENTS, value=1.0, reward_of=lambda _: None)
    assert say(request_id=f"{UUID(int=1)}\0", patience_seconds=0.0) is None
    assert say(request_id=str(UUID(int=1)), comment="a\0b", patience_seconds=0.0) is not None
    assert Feedback.objects.get().comment == "a\ufffdb"


# -- the thread --------------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_the_thread_outlives_a_defect_and_rests_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    passes, permits, stopped = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
    rests: list[float] = []

    def wait(seconds: float) -> bool:
        rests.append(seconds)
        passes.release()
        permits.acquire()
        return stopped.is_set()

    def turn() -> None:
        permits.release()
        assert passes.acquire(timeout=30)

    is_broken = True

    def sweep(_folder: Path) -> None:
        if is_broken:
            raise OverflowError("Python int too large to convert to SQLite INTEGER")

    monkeypatch.setattr(ingest, "SWEEPS", [sweep])
    thread = Ingester(tmp_path, wait=wait)
    thread.start()
    assert passes.acquire(timeout=30)
    for _ in range(3):
        turn()
    is_broken = False
    abandoned(tmp_path, entry(1))
    turn()
    assert logged() == [1]
    assert rests[0] < rests[1] < rests[2] < rests[3]
    assert rests[4] == rests[0] > 0
    failures = [record for record in caplog.records if record.getMessage() == "ingest_failed"]
    assert [(one.levelname, bool(one.exc_info)) for one in failures] == [("ERROR", True)] * 3
    stopped.set()
    permits.release()
    thread.stop()
    assert RequestLog.objects.count() == 1
