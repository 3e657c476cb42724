"""The audit log as a file, row by row: CSV for people and tables, a JSON array for programs. Both hold what the
hash covers, so that the chain can be checked elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC
from typing import Any, Final

from django.db.models import QuerySet
from django.http import StreamingHttpResponse

from telemetry.models import AuditEntry

KINDS: Final = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
COLUMNS: Final = ("number", "created_at", *AuditEntry.TOLD, "hash")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class _Line:
    """csv writes to it; gives back what was written."""

    def write(self, text: str) -> str:
        return text


def response(entries: QuerySet[AuditEntry], kind: str) -> StreamingHttpResponse:
    """`kind`: one of KINDS."""
    rows = entries.order_by("number").iterator(chunk_size=1000)
    answer = StreamingHttpResponse(_csv(rows) if kind == "csv" else _json(rows), content_type=KINDS[kind])
    answer["Content-Disposition"] = f'attachment; filename="tokenhub-audit.{kind}"'
    return answer


def _values(entry: AuditEntry) -> dict[str, Any]:
    moment = entry.created_at.astimezone(UTC).isoformat(timespec="microseconds")
    return {name: getattr(entry, name) for name in COLUMNS} | {"created_at": moment}


def _csv(rows: Iterator[AuditEntry]) -> Iterator[str]:
    writer = csv.writer(_Line())
    yield writer.writerow(COLUMNS)
    for entry in rows:
        yield writer.writerow([_harmless(str(value)) for value in _values(entry).values()])


def _harmless(text: str) -> str:
    """Spreadsheets take text that begins like this for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(rows: Iterator[AuditEntry]) -> Iterator[str]:
    opening = "[\n"
    for entry in rows:
        yield opening + json.dumps(_values(entry))
        opening = ",\n"
    yield "\n]\n" if opening != "[\n" else "[]\n"
