"""The request log beside a provider's own account of usage, by day and model. Days are UTC, as providers count them.

Exports differ; what is read: CSV with a header, JSON lists of rows, and the buckets of OpenAI's and Anthropic's usage
APIs (`data[].results[]`). Columns are found by the names in COLUMNS. Anthropic tells input in parts, which are
added: uncached, cache reads, cache writes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Coalesce, TruncDate

from routing.models import Model
from telemetry.models import RequestLog

DAY_COLUMNS: Final = (
    "date", "day", "usage_date_utc", "usage_date", "start_time_iso", "starting_at", "start_time", "timestamp",
    "created_at",
)  # fmt: skip
MODEL_COLUMNS: Final = ("model", "model_version", "model_id", "model_name", "line_item", "snapshot_id")
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "requests": ("requests", "num_model_requests", "n_requests", "num_requests", "request_count"),
    "input_tokens": (
        "input_tokens", "prompt_tokens", "n_context_tokens_total", "tokens_prompt",
    ),
    "output_tokens": (
        "output_tokens", "completion_tokens", "usage_output_tokens", "n_generated_tokens_total", "tokens_completion",
    ),
    "cost_usd": ("cost_usd", "cost", "amount_value", "amount", "usage", "cost_total"),
}  # fmt: skip
INPUT_PARTS: Final = (
    "uncached_input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "ephemeral_5m_input_tokens",
    "ephemeral_1h_input_tokens", "usage_input_tokens_no_cache", "usage_input_tokens_cache_write_5m",
    "usage_input_tokens_cache_write_1h", "usage_input_tokens_cache_read",
)  # fmt: skip
_SNAPSHOT: Final = re.compile(r"[-@](\d{4}-?\d\d-?\d\d|latest)$")
_LARGEST: Final = Decimal(10) ** 15


class BadExport(Exception):
    """`message` says what cannot be read and what would do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(slots=True)
class Usage:
    """None: the export does not say."""

    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None

    def add(self, other: Usage) -> None:
        for one in fields(self):
            more = getattr(other, one.name)
            if more is not None:
                setattr(self, one.name, (getattr(self, one.name) or 0) + more)


Place = tuple[date, str]


@dataclass(slots=True)
class Line:
    day: date
    model: str
    ours: Usage = field(default_factory=lambda: Usage(0, 0, 0, Decimal(0)))
    theirs: Usage = field(default_factory=Usage)

    def difference(self, name: str) -> Any:
        """Ours less theirs; None where the export does not say."""
        theirs = getattr(self.theirs, name)
        return None if theirs is None else getattr(self.ours, name) - theirs

    def is_off(self, tolerance: float) -> bool:
        """Whether a number differs by more than so many percent of the provider's."""
        for one in fields(self.theirs):
            theirs, off = getattr(self.theirs, one.name), self.difference(one.name)
            if off and abs(off) * 100 > Decimal(str(tolerance)) * abs(theirs):
                return True
        return False


def reconcile(provider: str, export: Mapping[Place, Usage]) -> list[Line]:
    """By day and model, of the days that the export speaks of; a model that only one side knows is there, too."""
    if not export:
        return []
    names = {
        (one.upstream_model or one.pk).lower(): one.pk
        for one in Model.objects.filter(provider_id=provider).order_by("-pk")
    }
    lines: dict[Place, Line] = {}
    for (day, model), usage in export.items():
        line = lines.setdefault((day, named := _named(model, names)), Line(day, named))
        line.theirs.add(usage)
    said = {one.name for usage in export.values() for one in fields(usage) if getattr(usage, one.name) is not None}
    for (day, model), usage in _logged(provider, min(day for day, _ in export), max(day for day, _ in export)).items():
        line = lines.setdefault((day, model), Line(day, model))
        line.ours = usage
    for line in lines.values():
        for name in said:
            if getattr(line.theirs, name) is None:
                setattr(line.theirs, name, Decimal(0) if name == "cost_usd" else 0)
    return [lines[place] for place in sorted(lines)]


def _named(model: str, names: Mapping[str, str]) -> str:
    """The id here of what the provider calls so; a dated snapshot counts as its model unless it is one itself."""
    known = model.lower()
    return names.get(known) or names.get(_SNAPSHOT.sub("", known)) or model


def _logged(provider: str, first: date, last: date) -> dict[Place, Usage]:
    start = datetime.combine(first, time(), UTC)
    end = datetime.combine(last, time(), UTC) + timedelta(days=1)
    rows = (
        RequestLog.objects.filter(provider_id=provider, created_at__gte=start, created_at__lt=end)
        .filter(Q(input_tokens__gt=0) | Q(output_tokens__gt=0) | Q(status__lt=400))
        .annotate(day=TruncDate("created_at", tzinfo=UTC), model=F("model_id"))
        .values("day", "model")
        .annotate(
            requests=Count("id"),
            input=Coalesce(Sum("input_tokens"), 0),
            output=Coalesce(Sum("output_tokens"), 0),
            cost=Sum("cost_usd"),
        )
        .order_by()
    )
    return {
        (row["day"], row["model"]): Usage(row["requests"], row["input"], row["output"], row["cost"] or Decimal(0))
        for row in rows
    }


# -- reading exports -------------------------------------------------------------------------------------------------
def read(text: str) -> dict[Place, Usage]:
    """CSV or JSON. Raises BadExport."""
    stripped = text.lstrip("\ufeff \t\r\n")
    rows = _json_rows(stripped) if stripped[:1] in {"{", "["} else _csv_rows(stripped)
    found: dict[Place, Usage] = {}
    for number, row in enumerate(rows, start=1):
        day, model, usage = _read_row(number, {_plain(name): value for name, value in row.items() if name})
        found.setdefault((day, model), Usage()).add(usage)
    if not found:
        raise BadExport("The export holds no row.")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(name).strip().lower()).strip("_")


def _csv_rows(text: str) -> Iterator[dict[str, Any]]:
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        yield from csv.DictReader(io.StringIO(text), delimiter=separator)
    except csv.Error as problem:
        raise BadExport(f"This is no CSV: {problem}.") from None


def _json_rows(text: str) -> Iterator[dict[str, Any]]:
    try:
        data = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as problem:
        raise BadExport(f"This is no JSON: {problem}.") from None
    listed = data.get("data", data.get("rows")) if isinstance(data, dict) else data
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise BadExport("This JSON holds no list of rows, neither as a whole nor under `data`.")
    for one in listed:
        if isinstance(results := one.get("results"), list):
            for row in results:
                if not isinstance(row, dict):
                    raise BadExport("A bucket's `results` hold something that is no row.")
                yield {**{name: value for name, value in one.items() if name != "results"}, **_flat(row)}
        else:
            yield _flat(one)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """One level of nested objects, such as Anthropic's `cache_creation` and OpenAI's `amount`."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if not isinstance(value, dict):
            flat[name] = value
        elif name == "amount":
            flat["amount_value"] = value.get("value")
        else:
            flat |= value
    return flat


def _read_row(number: int, row: Mapping[str, Any]) -> tuple[date, str, Usage]:
    raw_day = _first(row, DAY_COLUMNS)
    if raw_day is None:
        raise BadExport(f"Row {number} has no day. One of these columns is needed: {', '.join(DAY_COLUMNS)}.")
    model = _first(row, MODEL_COLUMNS)
    if model is None:
        raise BadExport(
            f"Row {number} has no model. One of these columns is needed: {', '.join(MODEL_COLUMNS)}. "
            "Ask the provider for an export grouped by model."
        )
    values: dict[str, Any] = {
        name: _number(number, known, row[known])
        for name, wanted in COLUMNS.items()
        if (known := next((one for one in wanted if row.get(one) not in (None, "")), None))
    }
    parts = [_number(number, one, row[one]) for one in INPUT_PARTS if row.get(one) not in (None, "")]
    if parts and "input_tokens" not in values:
        values["input_tokens"] = sum(parts)
    if not values:
        every = sorted({one for wanted in COLUMNS.values() for one in wanted})
        raise BadExport(f"Row {number} has no number. One of these columns is needed: {', '.join(every)}.")
    for name in values:
        if name != "cost_usd":
            values[name] = int(values[name])
    return _day(number, raw_day), str(model).strip().partition(",")[0], Usage(**values)


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[one] for one in names if row.get(one) not in (None, "")), None)


def _number(number: int, name: str, value: Any) -> Decimal:
    try:
        found = Decimal(str(value).strip().lstrip("$").replace(",", ""))
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or abs(found) > _LARGEST:
        raise BadExport(f"Row {number}: {name} is no number: {str(value)[:40]!r}.")
    return found


def _day(number: int, value: Any) -> date:
    text = str(value).strip()
    try:
        if re.fullmatch(r"\d{9,11}(\.0*)?", text):
            return datetime.fromtimestamp(float(text), UTC).date()
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return date.fromisoformat(text)
        moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" UTC", "+00:00"))
    except (ValueError, OverflowError, OSError):
        raise BadExport(f"Row {number}: {text[:40]!r} is no day. Needed: 2026-01-31, or seconds since 1970.") from None
    return (moment if moment.tzinfo is None else moment.astimezone(UTC)).date()
