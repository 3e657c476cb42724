"""`manage.py reconcile PROVIDER EXPORT`: the request log beside what the provider says it sold."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.utils import DatabaseError

from providers.models import Provider
from routing.reconcile import BadExport, Line, Usage, read, reconcile

NAMES = {"requests": "requests", "input_tokens": "input", "output_tokens": "output", "cost_usd": "dollars"}


class Command(BaseCommand):
    help = "Compares the request log with a provider's usage export (CSV or JSON), by day (UTC) and model."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("provider", help="its id here")
        parser.add_argument("export", type=Path, help="the file, as the provider gave it")
        parser.add_argument("--json", action="store_true", help="lines of JSON in place of a table")
        parser.add_argument(
            "--tolerance", type=float, metavar="PERCENT", help="end with 1 when a number is off by more than this"
        )

    def handle(
        self, *args: Any, provider: str, export: Path, json: bool, tolerance: float | None, **options: Any
    ) -> None:
        try:
            if not Provider.objects.filter(pk=provider).exists():
                known = ", ".join(Provider.objects.values_list("pk", flat=True)) or "none"
                raise CommandError(f"There is no provider {provider!r}. Known: {known}.")
            lines = reconcile(provider, read(export.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            raise CommandError(f"{export} is no text in UTF-8. Is it the right file?") from None
        except OSError as problem:
            raise CommandError(f"{export} cannot be read: {problem.strerror}.") from None
        except BadExport as problem:
            raise CommandError(f"{export}: {problem.message}") from None
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used ({problem}). Has `manage.py migrate` run?") from None
        if json:
            self._lines(lines)
        else:
            self._table(lines)
        if tolerance is not None and (off := sum(one.is_off(tolerance) for one in lines)):
            raise CommandError(f"{off} of {len(lines)} lines are off by more than {tolerance:g} %.")

    def _lines(self, lines: list[Line]) -> None:
        for one in lines:
            told = {"day": str(one.day), "model": one.model, "ours": asdict(one.ours), "theirs": asdict(one.theirs)}
            told["difference"] = {field.name: one.difference(field.name) for field in fields(Usage)}
            self.stdout.write(json.dumps(told, default=float))

    def _table(self, lines: list[Line]) -> None:
        said = [name for name in NAMES if any(getattr(one.theirs, name) is not None for one in lines)]
        head = ["day", "model"]
        for name in said:
            head += [f"{NAMES[name]} here", "there", "difference"]
        rows = [[str(one.day), one.model, *_cells(one, said)] for one in lines]
        total = Line(lines[0].day, "")
        for one in lines:
            total.ours.add(one.ours)
            total.theirs.add(one.theirs)
        rows.append(["total", "", *_cells(total, said)])
        widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
        for row in [head, *rows]:
            left = [text.ljust(width) for text, width in zip(row[:2], widths, strict=False)]
            right = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
            self.stdout.write("  ".join([*left, *right]).rstrip())


def _cells(line: Line, said: list[str]) -> list[str]:
    cells = []
    for name in said:
        ours, theirs, off = getattr(line.ours, name), getattr(line.theirs, name), line.difference(name)
        share = f" ({100 * off / theirs:+.2f} %)" if off and theirs else ""
        cells += [_shown(ours), _shown(theirs), "=" if off == 0 else f"{_shown(off, sign=True)}{share}"]
    return cells


def _shown(value: Decimal | int | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    plus = "+" if sign and value > 0 else ""
    return f"{plus}{value:,.6f}".rstrip("0").rstrip(".") if isinstance(value, Decimal) else f"{plus}{value:,}"
