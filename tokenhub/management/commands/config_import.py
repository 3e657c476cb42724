"""`manage.py config_import FILE`: takes a configuration over, all of it or nothing."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.utils import DatabaseError


class Command(BaseCommand):
    help = "Takes a configuration over, as config_export writes it: all of it or nothing."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="`-`: standard input")
        parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")

    def handle(self, *args: Any, file: str, dry_run: bool, **options: Any) -> None:
        from tokenhub import configuration
        from vault.services import open_from_environment

        try:
            open_from_environment()
            items = configuration.take(_read(file), dry_run=dry_run)
        except configuration.Refused as refused:
            lines = [f"  {one.path}: {one.message}" if one.path else f"  {one.message}" for one in refused.problems]
            raise CommandError("\n".join(["Nothing was changed.", *lines])) from None
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used: {problem}") from None
        for item in items:
            if item.action != "unchanged":
                self.stdout.write(f"{item.action:8}  {item.path}  {item.id}".rstrip())
        counted = Counter(item.action for item in items)
        told = ", ".join(f"{counted[one]} {one}" for one in ("created", "changed", "unchanged"))
        self.stdout.write(f"{told}{'; nothing was saved' if dry_run else ''}")


def _read(file: str) -> Any:
    try:
        if file == "-":
            return json.load(sys.stdin)
        with open(file, encoding="utf-8") as source:
            return json.load(source)
    except OSError as problem:
        raise CommandError(f"{file} cannot be read: {problem.strerror}.") from None
    except (ValueError, RecursionError) as problem:
        raise CommandError(f"{file} is no JSON: {problem}") from None
