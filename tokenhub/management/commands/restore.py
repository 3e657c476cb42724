"""`manage.py restore FILE`: a backup into an empty data folder and database."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from tokenhub import backup
from tokenhub.serving import require_settings


class Command(BaseCommand):
    help = "Restores a backup into an empty data folder and database, while no server runs there."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("source", type=Path, metavar="FILE")
        parser.add_argument(
            "--force", action="store_true", help="replace what is there; of the data folder, it is kept beside"
        )

    def handle(self, *args: Any, source: Path, force: bool, **options: Any) -> None:
        require_settings()
        try:
            manifest = backup.restore(source, force=force)
        except backup.BackupError as problem:
            raise CommandError(str(problem)) from None
        except (OSError, DatabaseError) as problem:
            raise CommandError(f"The restore did not end: {problem}.") from None
        self.stdout.write(
            f"Restored what TokenHub {manifest['version']} was on {manifest['taken_at']}. "
            "Next: manage.py migrate, manage.py serve, and unlock the vault."
        )
