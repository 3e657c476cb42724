"""The few statements that are carried out for every leg, as SQL that is made once: to have it made by the ORM takes
several times as long as the database takes to carry it out. Tables, columns and values are those of the models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.db import connection
from django.db.models import Model


def insert(row: Model) -> None:
    """Its primary key is the database's business."""
    sql, fields = _insertion(type(row))
    with connection.cursor() as cursor:
        cursor.execute(sql, [one.get_db_prep_save(getattr(row, one.attname), connection) for one in fields])


def update(model: type[Model], *, where: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
    """How many rows there were. Both by the names of fields; a None is looked for in vain."""
    sql, fields = _updating(model, tuple(changes), tuple(where))
    values = [*changes.values(), *where.values()]
    with connection.cursor() as cursor:
        cursor.execute(
            sql, [one.get_db_prep_save(value, connection) for one, value in zip(fields, values, strict=True)]
        )
        return int(cursor.rowcount)


@cache
def _insertion(model: type[Model]) -> tuple[str, list[Any]]:
    table, fields = _described(model)
    mine = [one for one in fields.values() if not one.primary_key]
    columns, places = ", ".join(_quoted(one.column) for one in mine), ", ".join(["%s"] * len(mine))
    return f"INSERT INTO {table} ({columns}) VALUES ({places})", mine  # noqa: S608  names of the models' own


@cache
def _updating(model: type[Model], changed: tuple[str, ...], sought: tuple[str, ...]) -> tuple[str, list[Any]]:
    table, fields = _described(model)
    mine = [fields[name] for name in (*changed, *sought)]
    parts = [f"{_quoted(one.column)} = %s" for one in mine]
    changes, where = ", ".join(parts[: len(changed)]), " AND ".join(parts[len(changed) :])
    return f"UPDATE {table} SET {changes} WHERE {where}", mine  # noqa: S608  names of the models' own


def _described(model: type[Model]) -> tuple[str, dict[str, Any]]:
    meta = model._meta  # noqa: SLF001  documented, whatever its name
    return _quoted(meta.db_table), {one.name: one for one in meta.concrete_fields}


def _quoted(name: str) -> str:
    return str(connection.ops.quote_name(name))
