"""`manage.py import_credentials FILE`: providers, credentials and models from a file, as at start, now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.utils import DatabaseError


class Command(BaseCommand):
    help = "Creates the providers and models of a JSON file that are missing; what is there stays as it is."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="with mode 0600")
        parser.add_argument("--password-file", type=Path, metavar="FILE", help="holds the vault's password")

    def handle(self, *args: Any, file: Path, password_file: Path | None, **options: Any) -> None:
        from tokenhub import credentials_file
        from vault import services
        from vault.errors import VaultError

        try:
            document = credentials_file.read(file)
            if password_file is not None:
                services.unlock_or_initialize(password=password_file.read_text(encoding="utf-8").strip("\r\n"))
            else:
                services.open_from_environment()
            outcome = credentials_file.apply(document)
        except credentials_file.Unusable as problem:
            raise CommandError(problem.message) from None
        except VaultError as problem:
            raise CommandError(problem.message) from None
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used: {problem}") from None
        except (OSError, UnicodeDecodeError) as problem:
            shown = getattr(problem, "strerror", None) or "it is no text in UTF-8"
            raise CommandError(
                f"{getattr(problem, 'filename', None) or password_file} cannot be read: {shown}."
            ) from None
        for action, names in (("created", outcome.created), ("kept", outcome.kept), ("waits", outcome.waiting)):
            for name in names:
                self.stdout.write(f"{action:8}  {name}")
        if outcome.waiting:
            outcome.problems.append(
                "The vault is locked: give --password-file, or set TOKENHUB_VAULT_PASSWORD, for those that wait."
            )
        if outcome.problems:
            raise CommandError("\n".join(outcome.problems))
