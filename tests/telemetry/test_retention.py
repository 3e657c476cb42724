"""What is old goes, a little at a time, and nobody waits for it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.utils import OperationalError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from telemetry import retention, webhooks
from telemetry.models import DeliveryState, RequestLog, Webhook, WebhookDelivery
from telemetry.retention import PRUNERS, prune_log, prune_once
from tests.telemetry.test_ingest import abandoned, entry, folder, rows, start

__all__ = ["folder"]
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def kept(settings: Any) -> Any:
    settings.TOKENHUB_LOG_RETENTION_DAYS, settings.TOKENHUB_LOG_MAX_ROWS = 90, 0
    return settings


def days(*ages: int, now: datetime = NOW) -> None:
    """Rows of so many days ago."""
    RequestLog.objects.bulk_create(
        RequestLog(request_id=uuid4(), created_at=now - timedelta(days=age), endpoint="chat", status=age)
        for age in ages
    )


def left() -> list[int]:
    return list(RequestLog.objects.order_by("pk").values_list("status", flat=True))


@pytest.mark.django_db
def test_rows_go_after_so_many_days(kept: Any) -> None:
    days(200, 91, 90, 89, 0)
    assert prune_log(now=NOW) == 2
    assert left() == [90, 89, 0]
    kept.TOKENHUB_LOG_RETENTION_DAYS = 0
    days(9999)
    assert prune_log(now=NOW) == 0


@pytest.mark.django_db
def test_the_newest_stay_where_only_so_many_may(kept: Any) -> None:
    days(5, 4, 3, 2, 1)
    kept.TOKENHUB_LOG_MAX_ROWS = 5
    assert prune_log(now=NOW) == 0
    kept.TOKENHUB_LOG_MAX_ROWS = 2
    assert prune_log(now=NOW) == 3
    assert left() == [2, 1]
    assert prune_log(now=NOW) == 0


@pytest.mark.django_db
def test_rows_go_in_small_statements_with_rests_between(kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LARGEST", 20)
    days(*[99] * 50)
    rests: list[float] = []
    with CaptureQueriesContext(connection) as asked:
        assert prune_log(now=NOW, rest=rests.append) == 50
    deletes = [one["sql"] for one in asked if one["sql"].startswith("DELETE")]
    assert len(deletes) == len(rests) >= 3
    assert max(one.count(",") for one in deletes) < 20
    assert all(rest > 0 for rest in rests)


@pytest.mark.django_db
def test_what_is_pruned_is_found_by_index(kept: Any) -> None:
    days(99)
    with CaptureQueriesContext(connection) as asked:
        prune_log(now=NOW)
    with connection.cursor() as cursor:
        for one in asked:
            cursor.execute("EXPLAIN QUERY PLAN " + one["sql"])
            assert all(step[3].startswith(("SEARCH", "LIST SUBQUERY")) for step in cursor.fetchall()), one["sql"]


@pytest.mark.django_db
def test_deliveries_of_webhooks_are_pruned_with_the_rest() -> None:
    webhook = Webhook.objects.create(url="https://hooks.example.com/")
    old = timezone.now() - webhooks.KEPT - timedelta(days=1)
    for state in DeliveryState.values:
        for at in (old, timezone.now()):
            made = WebhookDelivery.objects.create(webhook=webhook, event="test", body="{}", next_at=at, state=state)
            WebhookDelivery.objects.filter(pk=made.pk).update(created_at=at)
    assert webhooks.prune in PRUNERS
    assert prune_once() == 2
    assert WebhookDelivery.objects.filter(created_at__lte=old).get().state == DeliveryState.WAITING


@pytest.mark.django_db
def test_one_that_fails_does_not_keep_the_others_from_pruning() -> None:
    def fails() -> int:
        raise OperationalError("the disk is full")

    assert prune_once([fails, lambda: 3]) == 3


@pytest.mark.django_db
def test_the_command_prunes_once(kept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    days(91, 1, now=timezone.now())
    call_command("prune")
    assert capsys.readouterr().out == "1 removed.\n"
    assert left() == [1]


PRUNE = """
os.environ["TOKENHUB_LOG_RETENTION_DAYS"] = "90"
from telemetry import retention
print("ready", flush=True)
while True:
    if retention.prune_log():
        print("pruned", flush=True)
    time.sleep(0.01)
"""
INGEST = """
for number in range(200):
    ingest.ingest_all(journal)
"""


def test_a_writer_goes_on_while_rows_are_pruned(folder: Path) -> None:
    """Both by processes of their own, on one file; neither is told that the database is locked."""
    old = datetime.now(UTC) - timedelta(days=99)
    at = int(datetime.now(UTC).timestamp() * 1e6)
    numbers = range(1000, 1000 + 600)
    with closing(sqlite3.connect(folder / "tokenhub.sqlite3")) as database, database:
        names = [one[1] for one in database.execute("PRAGMA table_info(telemetry_requestlog)")][1:]
        plain = dict.fromkeys(names, 0) | {"created_at": f"{old:%Y-%m-%d %H:%M:%S.%f}", "tags": "[]", "detail": "{}"}
        sql = f"INSERT INTO telemetry_requestlog ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
        database.executemany(sql, [list((plain | {"request_id": f"{number:032x}"}).values()) for number in range(900)])
    for part in range(6):
        lines = [entry(number, at=at + number) for number in numbers[part * 100 : part * 100 + 100]]
        abandoned(folder / "journal", *lines, number=part)
    with start(folder, PRUNE) as pruner:
        assert pruner.stdout is not None
        assert pruner.stdout.readline() == "ready\n"
        with start(folder, INGEST) as writer:
            writer.communicate(timeout=60)
            assert writer.returncode == 0
        assert pruner.stdout.readline() == "pruned\n"
        assert pruner.poll() is None
        pruner.kill()
    assert rows(folder) == list(numbers)
