"""`manage.py verify_audit`: whether the audit log is as it was written. Ends with 1 when it is not."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from telemetry.audit import verify


def _noted(text: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text.strip())
    if found is None:
        raise ArgumentTypeError("needed: NUMBER:HASH, as a line of the server's log with the event `audit` has them")
    return int(found[1]), found[2]


class Command(BaseCommand):
    help = "Reads the whole audit log and tells whether an entry was changed, inserted or removed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--expect", type=_noted, action="append", default=[], metavar="NUMBER:HASH",
            help="what was noted elsewhere, say in the server's log; may be repeated",
        )  # fmt: skip

    def handle(self, *args: Any, expect: list[tuple[int, str]], **options: Any) -> None:
        try:
            verdict = verify(expected=dict(expect))
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used ({problem}). Has `manage.py migrate` run?") from None
        if verdict.problem:
            raise CommandError(f"{verdict.problem} The log is right up to entry {verdict.number} ({verdict.hash}).")
        self.stdout.write(f"{verdict.number} entries, unbroken.")
        if verdict.number:
            self.stdout.write(f"Note this elsewhere, for --expect: {verdict.number}:{verdict.hash}")
