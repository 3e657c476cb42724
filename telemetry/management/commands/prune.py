"""`manage.py prune`: one pass over what is kept for a time only."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from telemetry.tsdb.upkeep import prune, roll_up


class Command(BaseCommand):
    help = "Drops what is older than its retention: rows of the time series. A running server does so by itself."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            roll_up()
            dropped = prune()
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used ({problem}). Has `manage.py migrate` run?") from None
        self.stdout.write(f"{dropped} rows of the time series dropped.")
