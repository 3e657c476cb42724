"""Writes the time series: folds requests into the rows of their minutes, and replaces rows. Whoever writes holds the
lock on the levels, in the transaction of the write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

from django.db import connection, models

from telemetry.journal import Entry
from telemetry.tsdb.models import COUNTERS, MEASURES, PARTS, Sample, Series, SeriesLevel, SeriesUnrolled, Span
from telemetry.tsdb.totals import Labels, Totals, labels_of

DEFAULT_DAYS: Final = {Span.MINUTE: 7, Span.HOUR: 90, Span.DAY: 730}
COARSER: Final = {Span.MINUTE: Span.HOUR, Span.HOUR: Span.DAY}
FINER: Final = {Span.HOUR: Span.MINUTE, Span.DAY: Span.HOUR}
COLUMNS: Final = (*COUNTERS, *(f"{measure}_{part}" for measure in MEASURES for part in PARTS))
_AT_ONCE: Final = 1000

Key = tuple[int, int, int]
"""Span, beginning, series."""


def levels() -> dict[int, SeriesLevel]:
    """As they are, or as they would be made."""
    found = {one.span: one for one in SeriesLevel.objects.all()}
    return {span: found.get(span) or SeriesLevel(span=span, days=days) for span, days in DEFAULT_DAYS.items()}


def locked_levels() -> dict[int, SeriesLevel]:
    """To be called in a transaction: nobody else writes until it ends."""
    found = {one.span: one for one in SeriesLevel.objects.select_for_update().order_by("span")}
    if len(found) == len(DEFAULT_DAYS):
        return found
    made = [SeriesLevel(span=span, days=days) for span, days in DEFAULT_DAYS.items()]
    SeriesLevel.objects.bulk_create(made, ignore_conflicts=True)
    return locked_levels()


def fold(entries: Iterable[Entry]) -> None:
    """Adds requests that were not seen before. To be called in the transaction that takes them out of the journal:
    then each is counted once. What is older than the minutes that are kept goes to the finest level that is."""
    kept = locked_levels()
    found: dict[tuple[int, int, Labels], Totals] = {}
    for entry in entries:
        second = entry.at // 1_000_000
        span = next((one.value for one in Span if second >= kept[one].pruned_until), Span.DAY.value)
        labels = labels_of(entry)
        place = (span, second - second % span, labels)
        totals = found.get(place)
        if totals is None:
            totals = found[place] = Totals()
        totals.add(entry, labels)
    ids = {labels: digest_of(labels) for _, _, labels in found}
    _name(ids)
    rows = {(span, at, ids[labels]): totals for (span, at, labels), totals in found.items()}
    for key, row in stored(rows):
        rows[key].merge(row)
    put(rows)
    _mark((span, at) for span, at, _ in rows)


def digest_of(labels: Labels) -> int:
    """63 bits: among ten thousand series, two are the same once in 10^11 installations."""
    return int.from_bytes(blake2b("\0".join(labels).encode(), digest_size=8).digest(), "big") >> 1


def _name(ids: Mapping[Labels, int]) -> None:
    known = set(Series.objects.filter(pk__in=list(ids.values())).values_list("pk", flat=True))
    fresh = [Series(id=pk, **labels._asdict()) for labels, pk in ids.items() if pk not in known]
    Series.objects.bulk_create(fresh, ignore_conflicts=True)


def stored(keys: Iterable[Key]) -> Iterable[tuple[Key, Sequence[Any]]]:
    """The rows that there are, each in the order of COLUMNS."""
    waiting = iter(keys)
    while some := list(islice(waiting, _AT_ONCE)):
        values = ", ".join(["(%s, %s, %s)"] * len(some))
        sql = (
            f"WITH wanted (span, at, series) AS (VALUES {values}) SELECT span, at, series, {', '.join(COLUMNS)} "  # noqa: S608
            f"FROM wanted JOIN {table_of(Sample)} USING (span, at, series)"
        )
        with connection.cursor() as cursor:
            cursor.execute(sql, [part for key in some for part in key])
            for row in cursor.fetchall():
                yield row[:3], row[3:]


def put(rows: Mapping[Key, Totals]) -> None:
    """In place of what stood there."""
    names = ("span", "at", "series", *COLUMNS)
    sql = (
        f"INSERT INTO {table_of(Sample)} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))}) "  # noqa: S608
        f"ON CONFLICT (span, at, series) DO UPDATE SET {', '.join(f'{one} = excluded.{one}' for one in COLUMNS)}"
    )
    with connection.cursor() as cursor:
        cursor.executemany(sql, [(*key, *totals.row()) for key, totals in rows.items()])


def _mark(spans: Iterable[tuple[int, int]]) -> None:
    """That what lies above has to be rolled up again."""
    marks = {(above, at - at % above) for span, at in spans for above in Span if above > span}
    made = [SeriesUnrolled(span=span, at=at) for span, at in sorted(marks)]
    SeriesUnrolled.objects.bulk_create(made, ignore_conflicts=True)


def chunks(columns: str, pieces: Sequence[tuple[int, int, int]], only: str = "") -> Iterator[list[tuple[Any, ...]]]:
    """Of rows of these spans, from and until these moments, as they come: `columns` of sample and series."""
    which = " OR ".join(["(sample.span = %s AND sample.at >= %s AND sample.at < %s)"] * len(pieces))
    sql = (
        f"SELECT {columns} FROM {table_of(Sample)} sample JOIN {table_of(Series)} series"  # noqa: S608  names are our own
        f" ON series.id = sample.series WHERE ({which or 'false'}){only}"
    )
    with _cursor() as cursor:
        cursor.execute(sql, [value for piece in pieces for value in piece])
        while rows := cursor.fetchmany(1000):
            yield rows


@contextmanager
def _cursor() -> Iterator[Any]:
    """On PostgreSQL one that gets bytes as bytes: as text they are twice as long, and take twice as long."""
    if connection.vendor != "postgresql":
        with connection.cursor() as cursor:
            yield cursor
        return
    from psycopg import Cursor
    from psycopg.pq import Format

    connection.ensure_connection()
    with connection.wrap_database_errors, Cursor(connection.connection) as plain:
        plain.format = Format.BINARY
        yield plain


def table_of(model: type[models.Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)  # noqa: SLF001  Django's documented interface
