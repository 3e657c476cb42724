"""The request log's partitions on PostgreSQL: one for each month in UTC, made ahead, and one that takes what falls into
none. A month is dropped at once, without a row being read.

A partition is made as a table of its own and attached then: so neither readers nor the ingester wait for it. Nobody
waits longer than LOCK_MILLISECONDS behind a change here that has to wait itself; it is left for the next pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from django.db import connection, transaction
from django.db.utils import OperationalError

from telemetry.logs import EventLogger

log = EventLogger(__name__)
TABLE: Final = "telemetry_requestlog"
REST: Final = f"{TABLE}_default"
AHEAD: Final = 2
LOCK_MILLISECONDS: Final = 300
_ONLY_ONE: Final = 0x746F6B656E687562  # the number of an advisory lock: "tokenhub"


def month_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(month: datetime) -> datetime:
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def name_of(month: datetime) -> str:
    return f"{TABLE}_y{month.year:04}m{month.month:02}"


def months() -> list[datetime]:
    """Those that have a partition, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [TABLE])
        found = [re.fullmatch(rf"(?:\w+\.)?{TABLE}_y(\d{{4}})m(\d\d)", name) for (name,) in cursor.fetchall()]
    return sorted(datetime(int(one[1]), int(one[2]), 1, tzinfo=UTC) for one in found if one)


def ensure(now: datetime) -> int:
    """This month's and the next ones' partitions. How many were made. Raises DatabaseError."""
    made, month, there = 0, month_of(now), set(months())
    for _ in range(AHEAD + 1):
        if month not in there:
            made += _unless_held(month, _make)
        month = month_after(month)
    return made


def drop(month: datetime) -> int:
    """Whether it is gone: 1 or 0. Raises DatabaseError."""
    return _unless_held(month, _drop)


def _unless_held(month: datetime, change: Callable[[datetime], None]) -> int:
    try:
        with _alone() as is_mine:
            if not is_mine:
                return 0
            change(month)
    except OperationalError as problem:  # somebody reads for long, and must not hold up the others meanwhile
        log.warning("partition_left_for_later", partition=name_of(month), reason=str(problem)[:200])
        return 0
    return 1


@contextmanager
def _alone() -> Iterator[bool]:
    """One host at a time, in a transaction that waits for no lock for long."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_ONLY_ONE])
        yield cursor.fetchone()[0]


def _make(month: datetime) -> None:
    name, bounds = name_of(month), [month, month_after(month)]
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {name} (LIKE {TABLE} INCLUDING ALL EXCLUDING IDENTITY)")
        cursor.execute(
            f"WITH moved AS (DELETE FROM {REST} WHERE created_at >= %s AND created_at < %s RETURNING *)"  # noqa: S608
            f" INSERT INTO {name} SELECT * FROM moved",
            bounds,
        )
        cursor.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {name} FOR VALUES FROM (%s) TO (%s)", bounds)
    log.info("partition_made", partition=name)


def _drop(month: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {name_of(month)}")
    log.info("partition_dropped", partition=name_of(month))
