"""`manage.py rollup`: one pass over the time series."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from telemetry.tsdb.upkeep import roll_up


class Command(BaseCommand):
    help = "Rolls the time series up: minutes to hours, hours to days. A running server does so by itself."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = roll_up()
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used ({problem}). Has `manage.py migrate` run?") from None
        self.stdout.write(f"{done} hours and days rolled up.")
