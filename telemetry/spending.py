"""What each client key spent in each month, budget or not: counted with the request log, so that a page of keys need
not add up millions of rows. The costs are the log's, without shadows and judges, which the installation pays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from django.db import connection
from django.utils import timezone

from telemetry.journal import Entry
from telemetry.models import KeySpending
from telemetry.tsdb.totals import FULL, LARGEST

QUARTER: Final = 900_000_000  # of an hour, in microseconds: months begin with one, in every time zone
_ADD: Final = (
    "INSERT INTO {table} (key_id, month, cost_nano) VALUES (%s, %s, %s) ON CONFLICT (key_id, month)"
    " DO UPDATE SET cost_nano = {sum}"
)
_SUMS: Final = {  # what is full stays full: an overflow would take the request's row with it
    "sqlite": f"MIN({{table}}.cost_nano + excluded.cost_nano, {FULL})",  # beyond whole numbers, it counts in floats
    "postgresql": f"LEAST({{table}}.cost_nano::numeric + excluded.cost_nano, {FULL})",
}


def month_of(moment: datetime) -> date:
    """Its first day, in the time zone that budgets go by."""
    return moment.astimezone(timezone.get_default_timezone()).date().replace(day=1)


def count(entries: Sequence[Entry]) -> None:
    """Adds requests that were not seen before; in the transaction that takes them out of the journal."""
    by_quarter: defaultdict[tuple[str, int], int] = defaultdict(int)
    for entry in entries:
        if entry.cost_nano and entry.key_id and not (entry.shadow_of or entry.judge_of):
            by_quarter[entry.key_id, entry.at // QUARTER] += min(entry.cost_nano, LARGEST)
    if not by_quarter:
        return
    found: defaultdict[tuple[str, date], int] = defaultdict(int)
    for (key, quarter), cost in by_quarter.items():
        found[key, month_of(datetime.fromtimestamp(quarter * QUARTER / 1e6, UTC))] += cost
    rows = [(key, month, cost) for (key, month), cost in sorted(found.items())]  # sorted: locks in one order
    table = KeySpending._meta.db_table  # noqa: SLF001  Django's documented interface
    with connection.cursor() as cursor:
        cursor.executemany(_ADD.format(table=table, sum=_SUMS[connection.vendor].format(table=table)), rows)


def spent(keys: Collection[str], month: date) -> dict[str, Decimal]:
    """In dollars, of those that spent anything."""
    rows = KeySpending.objects.filter(month=month, key_id__in=keys).values_list("key_id", "cost_nano")
    return {key: Decimal(nano).scaleb(-9) for key, nano in rows}
