"""Inserts that pass over what is there, or ask first who holds a row: in one statement each."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache, lru_cache
from typing import Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.constants import OnConflict

from general_manager.workflow.models.columns import Ago, DatabaseNow

_DURATION: "models.DurationField[Any, Any]" = models.DurationField()


def insert_new(
    model: type[models.Model], fields: tuple[str, ...], rows: Sequence[Sequence[Any]], using: str
) -> list[tuple[Any, ...]]:
    """Insert *rows* in one statement, passing over those that are there already.

    In a single row, a value may be an expression without fields, such as `in_`. Returns the
    primary key and the first of *fields* of each row that was inserted. A duplicate raises
    nothing, so it breaks no transaction.
    """
    connection = connections[using]
    columns, head, tail = _frame(model, fields, using)
    if connection.vendor == "postgresql" and len(rows) > 1:
        source, values = _arrays(columns, rows, connection)
    else:
        source, values = _rows(columns, rows, using)
    with connection.cursor() as cursor:
        cursor.execute(f"{head} {source} {tail}", values)
        return list(cursor.fetchall())


@cache
def _frame(
    model: type[models.Model], fields: tuple[str, ...], using: str
) -> tuple[list[Any], str, str]:
    """The columns, and what stands before and behind the rows."""
    connection = connections[using]
    quote = connection.ops.quote_name
    columns: list[Any] = [model._meta.get_field(name) for name in fields]
    key: Any = model._meta.pk
    names = ", ".join(quote(column.column) for column in columns)
    insert = connection.ops.insert_statement(on_conflict=OnConflict.IGNORE)
    returning = f"RETURNING {quote(key.column)}, {quote(columns[0].column)}"
    table = quote(model._meta.db_table)
    return columns, f"{insert} {table} ({names})", f"{_or_ignore(connection)} {returning}"


def _rows(
    columns: Sequence[Any], rows: Sequence[Sequence[Any]], using: str
) -> tuple[str, list[Any]]:
    connection = connections[using]
    marks: list[str] = []
    values: list[Any] = []
    for row in rows:
        places: list[str] = []
        for column, value in zip(columns, row, strict=True):
            if hasattr(value, "resolve_expression"):
                sql, parameters = _compiled(column.model, value, using)
                places.append(sql)
                values += parameters
            else:
                places.append("%s")
                values.append(_prepared(column, value, connection))
        marks.append(f"({', '.join(places)})")
    return f"VALUES {', '.join(marks)}", values


def _prepared(column: Any, value: Any, connection: BaseDatabaseWrapper) -> Any:
    """As the driver takes it; most are text for text, and need not be asked about."""
    if value is None or (type(value) is str and isinstance(column, models.CharField)):
        return value
    return column.get_db_prep_save(value, connection)


@lru_cache(maxsize=64)
def _compiled(
    model: type[models.Model], expression: models.Expression, using: str
) -> tuple[str, Sequence[Any]]:
    compiler = model._base_manager.using(using).all().query.get_compiler(using)
    resolved = expression.resolve_expression(compiler.query, allow_joins=False, for_save=True)
    sql, parameters = compiler.compile(resolved)
    return sql, parameters


def _arrays(
    columns: Sequence[Any], rows: Sequence[Sequence[Any]], connection: BaseDatabaseWrapper
) -> tuple[str, list[Any]]:
    """One parameter a column: thousands of placeholders cost more than the inserting."""
    types = ", ".join(f"%s::{column.db_type(connection)}[]" for column in columns)
    values = [
        [_prepared(column, value, connection) for value in given]
        for column, given in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    return f"SELECT * FROM UNNEST({types})", values  # noqa: S608 - types are the columns' own


def insert_while(
    model: type[models.Model],
    values: Mapping[str, Any],
    guard: type[models.Model],
    holds: Mapping[str, Any],
    using: str,
) -> bool:
    """Insert one row if *guard* has a row for which *holds*, and *model* has none that conflicts.

    In one statement; the guard's row stays locked until the caller's transaction ends, so that
    nothing can change between this check and the commit. Says whether a row was inserted. A value
    may be an `Ago`.
    """
    connection = connections[using]
    times = tuple(name for name, value in values.items() if isinstance(value, Ago))
    columns, conditions, sql = _guarded(model, tuple(values), times, guard, tuple(holds), using)
    parameters = [
        _DURATION.get_db_prep_value(value.duration, connection)
        if isinstance(value, Ago)
        else _prepared(column, value, connection)
        for column, value in zip(
            (*columns, *conditions), (*values.values(), *holds.values()), strict=True
        )
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return bool(cursor.rowcount == 1)


@cache
def _guarded(  # noqa: PLR0917 - the key of a cache
    model: type[models.Model],
    names: tuple[str, ...],
    times: tuple[str, ...],
    guard: type[models.Model],
    held: tuple[str, ...],
    using: str,
) -> tuple[list[Any], list[Any], str]:
    connection = connections[using]
    quote = connection.ops.quote_name
    columns: list[Any] = [model._meta.get_field(name) for name in names]
    conditions: list[Any] = [guard._meta.get_field(name) for name in held]
    places = ", ".join(_ago_sql(model, using) if name in times else "%s" for name in names)
    lock = "FOR UPDATE" if connection.features.has_select_for_update else ""
    sql = (
        f"{connection.ops.insert_statement(on_conflict=OnConflict.IGNORE)} "  # noqa: S608 - names are quoted, values are parameters
        f"{quote(model._meta.db_table)} ({', '.join(quote(one.column) for one in columns)}) "
        f"SELECT {places} FROM {quote(guard._meta.db_table)} "
        f"WHERE {' AND '.join(f'{quote(one.column)} = %s' for one in conditions)} {lock} "
        f"{_or_ignore(connection)}"
    )
    return columns, conditions, sql


def _ago_sql(model: type[models.Model], using: str) -> str:
    """The database's time less a duration, which is the statement's one parameter."""
    compiler = model._base_manager.using(using).all().query.get_compiler(using)
    ago = models.ExpressionWrapper(
        DatabaseNow() - models.Value(timedelta(0), output_field=_DURATION),
        output_field=models.DateTimeField(),
    )
    return str(compiler.compile(ago.resolve_expression(compiler.query))[0])


def _or_ignore(connection: BaseDatabaseWrapper) -> str:
    return str(connection.ops.on_conflict_suffix_sql([], OnConflict.IGNORE, [], []))


def rows_per_statement(columns: int, using: str) -> int:
    """How many rows of so many columns one statement may carry."""
    most = connections[using].features.max_query_params
    return 500 if most is None else max(1, min(500, most // columns))
