"""`manage.py backup FILE|FOLDER`: one file that holds everything, taken while the server serves."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from tokenhub import backup
from tokenhub.serving import require_settings


class Command(BaseCommand):
    help = "Writes database, journal and secrets into one file. The server may go on; the vault stays sealed in it."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("target", type=Path, metavar="FILE|FOLDER", help="a new file, or a folder to put it into")

    def handle(self, *args: Any, target: Path, **options: Any) -> None:
        require_settings()
        try:
            made = backup.create(target)
        except backup.BackupError as problem:
            raise CommandError(str(problem)) from None
        except (OSError, DatabaseError) as problem:
            raise CommandError(f"No backup was made: {problem}.") from None
        self.stdout.write(f"{made.path} ({made.bytes:,} bytes). Keep the vault's password elsewhere: it is not in it.")
