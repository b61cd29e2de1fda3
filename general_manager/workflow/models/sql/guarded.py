"""Inserts that check a claim in the same statement, and lock its row until the commit."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any

from django.db import IntegrityError, connections, models

from general_manager.cursors import cursor_on
from general_manager.workflow.models.sql.columns import Ago
from general_manager.workflow.models.sql.commits import UNWAITED, alone
from general_manager.workflow.models.sql.inserts import (
    DURATION,
    ago_sql,
    is_duplicate,
    prepared,
    unless_taken,
)


def insert_while(
    model: type[models.Model],
    values: Mapping[str, Any],
    guard: type[models.Model],
    holds: Mapping[str, Any],
    using: str,
    *,
    before: tuple[str, Ago] | None = None,
    is_waited: bool = True,
    is_last: bool = False,
) -> bool:
    """Insert one row if *guard* has a row that matches *holds*, and *model* has no such row yet.

    The first two of *values* are unique together in *model*. One statement. The guard's row stays
    locked until the caller's transaction ends, so nothing can change between check and commit. A
    value may be an `Ago`. With *before*, that time of the guard must be NULL or later. *is_waited*
    and *is_last* are as in `commits`: whether the commit waits for the disk, and nothing follows in
    the transaction. Returns whether it inserted the row.
    """
    connection = connections[using]
    times = tuple(name for name, value in values.items() if isinstance(value, Ago))
    held = (tuple(holds), before and before[0])
    columns, conditions, sql = _guarded(model, tuple(values), times, guard, held, using)
    places = [
        DURATION.get_db_prep_value(value.duration, connection)
        if isinstance(value, Ago)
        else prepared(column, value, connection)
        for column, value in zip(columns, values.values(), strict=True)
    ]
    under = [
        prepared(column, value, connection)
        for column, value in zip(conditions, holds.values(), strict=True)
    ]
    if before is not None:
        under.append(DURATION.get_db_prep_value(before[1].duration, connection))
    try:
        with cursor_on(connection) as cursor, alone(connection) if is_last else nullcontext():
            unwaited = "" if is_waited else f" RETURNING 1{UNWAITED}"
            cursor.execute(sql + unwaited, [*places, *under])
            return int(cursor.rowcount) == 1
    except IntegrityError as error:
        if not is_duplicate(error, connection):
            raise
        return False


@cache
def _guarded(
    model: type[models.Model],
    names: tuple[str, ...],
    times: tuple[str, ...],
    guard: type[models.Model],
    conditions_of: tuple[tuple[str, ...], str | None],
    using: str,
) -> tuple[list[Any], list[Any], str]:
    held, limit = conditions_of
    connection = connections[using]
    quote = connection.ops.quote_name
    columns: list[Any] = [model._meta.get_field(name) for name in names]
    conditions: list[Any] = [guard._meta.get_field(name) for name in held]
    places = [ago_sql(model, using) if one in times else "%s" for one in names]
    lock = "FOR UPDATE" if connection.features.has_select_for_update else ""
    if limit is not None:
        name = quote(str(guard._meta.get_field(limit).name))  # the column of a time has its name
        lock = f"AND ({name} IS NULL OR {name} > {ago_sql(model, using)}) {lock}"
    targets = ", ".join(quote(one.column) for one in columns)
    into = f"INSERT INTO {quote(model._meta.db_table)} ({targets})"
    under = " AND ".join(f"{quote(one.column)} = %s" for one in conditions)
    where = f"FROM {quote(guard._meta.db_table)} WHERE {under} {lock}"
    sql = f"{into} SELECT {', '.join(places)} {where} {unless_taken(columns[:2], connection)}"
    return columns, conditions, sql
