"""`manage.py config_export [FILE]`: the configuration as JSON, without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.utils import DatabaseError


class Command(BaseCommand):
    help = "Writes the configuration as one JSON document, without secrets."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", nargs="?", type=Path, help="else to standard output")

    def handle(self, *args: Any, file: Path | None, **options: Any) -> None:
        from tokenhub import configuration

        try:
            text = json.dumps(configuration.export(), indent=2, ensure_ascii=False, default=str)
            if file is None:
                self.stdout.write(text)
            else:
                file.write_text(text + "\n", encoding="utf-8")
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used: {problem}") from None
        except OSError as problem:
            raise CommandError(f"{file} cannot be written: {problem.strerror}.") from None
