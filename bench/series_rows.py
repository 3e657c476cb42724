"""Time series as a gateway has them whose series are all busy all the time: a row for each minute of the last week,
each hour and each day. Rows are drawn from a few hundred that were added up from requests."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from bench.log_rows import MODELS
from telemetry.journal import Entry
from telemetry.tsdb.models import SIX_HOURS, Sample, Series, SeriesLevel, SeriesUnrolled, Span
from telemetry.tsdb.store import COLUMNS, DEFAULT_DAYS, digest_of, table_of
from telemetry.tsdb.totals import Labels, Totals, labels_of

KINDS = 300
"""Different rows of a level."""
REQUESTS = {60: 2, 3600: 100, SIX_HOURS: 500, 86_400: 2000}
"""Of a series, on average; minutes have at least one."""
DAYS = {60: 7, 3600: 62, SIX_HOURS: 62, 86_400: 90}


def labels(count: int) -> list[Labels]:
    """As many series: each model for so many projects, one of them with errors."""
    made = []
    for number in range(count):
        model = MODELS.names[number % len(MODELS.names)]
        part = number // len(MODELS.names)
        made.append(Labels(model, model.partition("/")[0], f"project-{part}", "", "transient" if part == 1 else ""))
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM ANALYZE {table_of(Sample)}")  # as autovacuum does in its own time
    return made


def _row(labels: Labels, requests: int, rng: Random) -> list[Any]:
    totals = Totals()
    for number in range(requests):
        latency, tokens_in = int(200 / (0.01 + rng.random())), int(100 / (0.01 + rng.random()))
        entry = Entry(
            id=str(UUID(int=number)), at=0, endpoint="/v1/chat/completions", model=labels.model_id,
            status=502 if labels.error_class else 200, error_class=labels.error_class, latency_ms=latency,
            first_chunk_ms=latency // 3, cost_nano=tokens_in * 3000, input_tokens=tokens_in,
            output_tokens=rng.randrange(1200), reward=rng.random() if rng.random() < 0.4 else None,
        )  # fmt: skip
        totals.add(entry, labels_of(entry))
    return totals.row()


def _rows(now: int, series: list[int], rng: Random) -> Iterator[list[Any]]:
    some = Labels("m", "p", "", "", "")
    for span in REQUESTS:
        most = REQUESTS[span]
        kinds = [_row(some, rng.randint(max(1, most // 2), most * 3 // 2), rng) for _ in range(KINDS)]
        for at in range(now - now % span - DAYS[span] * Span.DAY, now - now % max(span, 60), span):
            for one in series:
                yield [span, at, one, *kinds[rng.randrange(KINDS)]]


def fill(now: int, count: int) -> int:
    """In place of what there is; the hour and the day that are not over are not rolled up. How many rows."""
    rng, named = Random(2), labels(count)
    names = ("span", "at", "series", *COLUMNS)
    made = 0
    with transaction.atomic(), connection.cursor() as cursor:
        for model in (Sample, Series, SeriesUnrolled, SeriesLevel):
            how = "TRUNCATE" if connection.vendor == "postgresql" else "DELETE FROM"
            cursor.execute(f"{how} {table_of(model)}")
        Series.objects.bulk_create(Series(id=digest_of(one), **one._asdict()) for one in named)
        SeriesUnrolled.objects.bulk_create(
            SeriesUnrolled(span=span, at=now - now % span) for span in (Span.HOUR, Span.DAY)
        )
        for span, days in DEFAULT_DAYS.items():
            until = max(0, now - DAYS[span] * Span.DAY)
            SeriesLevel.objects.create(span=span, days=days, pruned_until=until - until % Span.DAY)
        rows = _rows(now, [digest_of(one) for one in named], rng)
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {table_of(Sample)} ({', '.join(names)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
                    made += 1
        else:
            into = f"INSERT INTO {table_of(Sample)} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
            made = connection.connection.executemany(into, rows).rowcount
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM ANALYZE {table_of(Sample)}")  # as autovacuum does in its own time
    return made
