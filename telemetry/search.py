"""Looking into the request log, however long it is: no search reads more than SEARCHED rows, or SEARCHED_APART.

A condition that an index serves alone is searched to the end of the log. With further conditions, the index that
reaches furthest back leads: its newest rows are looked through for the rest of the conditions, and whoever asked is
told how far back that was. Without any index, the newest rows of all are. Paged by (created_at, id), newest
first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connection
from django.db.models import BooleanField, F, Func, Q, QuerySet, TextField, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast, StrIndex
from django.db.models.lookups import Exact, GreaterThanOrEqual, LessThan

from telemetry.models import RequestLog

SEARCHED = 50_000
SEARCHED_APART = 20_000
"""Where an index leads to rows that lie apart from each other, and each costs a page."""
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TABLE: Final = RequestLog._meta.db_table  # noqa: SLF001  Django's interface
_DIGITS: Final = 17  # of a cursor's numbers: up to the year 5138
_ONLY: Final = {
    "api_key_id": "", "model_id": "", "provider_id": "",
    "project": "project > ''", "alias": "alias > ''", "client_request_id": "client_request_id > ''",
    "error_code": "error_code > ''", "status": "status >= 400",
}  # fmt: skip
"""Fields with an index, and its condition as it stands there: planners want to see it word by word."""


class Unindexed(Func):
    """A column as no planner looks it up: another index leads."""

    arity = 1

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="+%(expressions)s", **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        is_text = self.output_field.get_internal_type() == "CharField"
        template = "(%(expressions)s || '')" if is_text else "(%(expressions)s + 0)"
        return self.as_sql(compiler, connection, template=template, **extra)


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. `lead`: as an index serves it, if one does; `rest`: what is to be checked when it does not lead;
    `is_whole`: an index that leads leaves nothing to be checked."""

    rest: Any
    lead: Any = None
    is_whole: bool = False


def equal(name: str, value: Any) -> Term:
    """A field's value."""
    only = _ONLY.get(name)
    if only is None or (name == "status" and value < 400) or (only and not value):
        return Term(Q(**{name: value}))
    field: Any = RequestLog._meta.get_field(name)  # noqa: SLF001  Django's interface
    apart = Exact(Unindexed(F(name), output_field=field), value)
    return Term(apart, Q(_literal(only), **{name: value}) if only else Q(**{name: value}), is_whole=True)


def moment(value: datetime) -> Q:
    """SQLite's text of a whole second is written with a fraction here, and without one there."""
    return Q(created_at__gte=value, created_at__lt=value + _MICROSECOND)


def statuses(low: int, high: int) -> Term:
    """From `low`, and below `high`."""
    column = Unindexed(F("status"), output_field=RequestLog._meta.get_field("status"))  # noqa: SLF001
    rest = Q(GreaterThanOrEqual(column, low), LessThan(column, high))
    return Term(rest, Q(_literal("status > 399"))) if low >= 400 else Term(rest)


def tagged(word: str) -> Term:
    """A word among the tags: in the text of a JSON list, both databases can look for it."""
    text = Cast("tags", TextField())
    plain, escaped = (Value(json.dumps(word, ensure_ascii=escape)) for escape in (False, True))
    return Term(Q(_above(StrIndex(text, plain))) | Q(_above(StrIndex(text, escaped))))


def named(text: str) -> Term:
    """Our own id, or the client's."""
    theirs = equal("client_request_id", text)
    try:
        ours = RequestLog.objects.order_by().filter(request_id=UUID(text)).values_list("pk", flat=True)[:1]
    except ValueError:
        return theirs
    if not (found := list(ours)):
        return theirs
    if RequestLog.objects.order_by().filter(theirs.lead).exists():  # rare: so they are few
        return Term(Q(pk__in=found) | theirs.lead, Q(pk__in=found) | theirs.lead, is_whole=True)
    return Term(Q(pk__in=found), Q(pk__in=found), is_whole=True)


def newest(text: str) -> RequestLog | None:
    """The newest request of that id, ours or the client's."""
    return RequestLog.objects.filter(named(text).lead or Q(pk__in=[])).first()


def _above(found: Any) -> Any:
    return GreaterThanOrEqual(found, 1)


def _literal(sql: str) -> Any:
    return RawSQL(sql, (), output_field=BooleanField())  # noqa: S611  from the table above


# -- searching -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Found:
    """`back_to`: how far back was searched; None: to the end."""

    rows: QuerySet[RequestLog]
    back_to: datetime | None = None
    is_indexed: bool = True
    """Whether every row that the index gives is one of `rows`."""


def search(rows: QuerySet[RequestLog], terms: Sequence[Term]) -> Found:
    """`rows`: with conditions on created_at at most, or such as an index serves together with it."""
    rows = rows.order_by("-created_at", "-pk")
    if all(term.is_whole for term in terms) and len(terms) <= 1:
        return Found(rows.filter(terms[0].lead) if terms else rows)
    lead, back_to = _leading(rows, terms)
    found = rows if back_to is None else rows.filter(created_at__gte=back_to)
    for term in terms:
        if term is lead:
            found = found.filter(term.lead)
        if term is not lead or not term.is_whole:
            found = found.filter(term.rest)
    return Found(found, back_to, is_indexed=False)


def _leading(rows: QuerySet[RequestLog], terms: Sequence[Term]) -> tuple[Term | None, datetime | None]:
    """The term whose newest rows reach furthest back, and to where; None: to the end."""
    best: tuple[Term | None, datetime | None] = (None, None)
    leads: list[Term | None] = [term for term in terms if term.lead is not None]
    for term in leads or [None]:
        given = rows if term is None else rows.filter(term.lead)
        most = SEARCHED if term is None else SEARCHED_APART
        last = given.order_by("-created_at").values_list("created_at", flat=True)[most - 1 : most].first()
        if last is None:
            return term, None
        if best[1] is None or last < best[1]:
            best = (term, last)
    return best


# -- paging ----------------------------------------------------------------------------------------------------------
def before(rows: QuerySet[RequestLog], at: datetime, pk: int) -> QuerySet[RequestLog]:
    """Those that come after this place, newest first."""
    return rows.filter(Q(created_at__lt=at) | Q(pk__lt=pk), created_at__lt=at + _MICROSECOND)


def cursor_of(at: datetime, pk: int) -> str:
    return f"{(at - _EPOCH) // _MICROSECOND}-{pk}"


def place_of(cursor: str) -> tuple[datetime, int]:
    """Raises ValueError."""
    micros, dash, pk = cursor.partition("-")
    for digits in (micros, pk):
        if not dash or not digits.isascii() or not digits.isdigit() or len(digits) > _DIGITS:
            raise ValueError(cursor)
    return _EPOCH + int(micros) * _MICROSECOND, int(pk)


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[RequestLog]
    total: int
    is_capped: bool
    next_cursor: str | None
    back_to: datetime | None


Place = tuple[datetime, int]


def page(
    rows: QuerySet[RequestLog], terms: Sequence[Term], *, limit: int, offset: int, after: Place | None, counted: int
) -> Page:
    """`counted`: how far the total is exact."""
    found = search(rows, terms)
    if found.is_indexed:
        total = found.rows.order_by()[: counted + 1].count()
        listed = list((before(found.rows, *after) if after else found.rows)[offset : offset + limit + 1])
        back_to = None
    else:
        keys = list(found.rows.values_list("pk", flat=True)[: max(counted, offset + limit) + 1])
        total, back_to = min(len(keys), counted + 1), found.back_to
        if after:
            further = search(before(rows, *after), terms)
            keys, back_to = list(further.rows.values_list("pk", flat=True)[: limit + 1]), further.back_to
        listed = list(RequestLog.objects.filter(pk__in=keys[offset : offset + limit + 1]).defer("detail"))
    return Page(
        rows=listed[:limit],
        total=min(total, counted),
        is_capped=total > counted or found.back_to is not None,
        next_cursor=_next(listed, limit, back_to),
        back_to=back_to if len(listed) <= limit else None,
    )


def _next(listed: Sequence[RequestLog], limit: int, back_to: datetime | None) -> str | None:
    if len(listed) > limit:
        return cursor_of(listed[limit - 1].created_at, listed[limit - 1].pk)
    return cursor_of(back_to, 0) if back_to is not None else None


# -- what there is to look for ---------------------------------------------------------------------------------------
def known(name: str, *, label: str = "", most: int = 200) -> list[tuple[Any, str]]:
    """The values of a field with an index, from that: one step for each value, not for each row. With the newest row's
    `label`, another field."""
    only = _ONLY[name]
    first, further = (f" WHERE {only}", f" AND {only}") if only else ("", "")
    newest = f"SELECT {label or name} FROM {_TABLE} WHERE {name} = value{further} ORDER BY created_at DESC LIMIT 1"  # noqa: S608
    sql = (
        f"WITH RECURSIVE found(value) AS (SELECT min({name}) FROM {_TABLE}{first} UNION ALL"  # noqa: S608
        f" SELECT (SELECT min({name}) FROM {_TABLE} WHERE {name} > found.value{further})"
        f" FROM found WHERE found.value IS NOT NULL) SELECT value, {f'({newest})' if label else 'value'}"
        " FROM found WHERE value IS NOT NULL LIMIT %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [most])
        return [(value, str(told or value)) for value, told in cursor.fetchall()]
