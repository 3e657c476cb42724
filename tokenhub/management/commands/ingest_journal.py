"""`manage.py ingest_journal`: one pass over this host's journal."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from tokenhub import chores


class Command(BaseCommand):
    help = "Takes what is in the journal into the request log. A running server does so by itself, twice a second."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.stdout.write(chores.ingest_journal())
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used ({problem}). Has `manage.py migrate` run?") from None
        except OSError as problem:
            raise CommandError(f"The journal cannot be read ({problem}).") from None
