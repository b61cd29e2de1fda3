"""Inserts that skip existing rows, or check a claim, in one statement each.

Only that conflict is skipped; any other is an error on every database. IGNORE, as SQLite and
MariaDB have it, would also hide a NULL in a column that must not be NULL.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, lru_cache
from json import dumps
from typing import Any, Final

from django.db import IntegrityError, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Q

from general_manager.cursors import cursor_on
from general_manager.workflow.models.sql.columns import DatabaseNow
from general_manager.workflow.models.sql.missing import explaining

DUPLICATE_ENTRY: Final = 1062
"""MariaDB's error number for a duplicate in a unique key, and MySQL's."""
DURATION: "models.DurationField[Any, Any]" = models.DurationField()


def insert_new(
    model: type[models.Model],
    fields: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    using: str,
    *,
    unless: tuple[str, ...],
) -> list[tuple[Any, ...]]:
    """Insert *rows* in one statement, except those whose unique fields *unless* are taken.

    In a single row, a value may be an expression without fields, such as `from_now`. Returns key
    and first of *fields* of each inserted row. A duplicate raises nothing, so it does not break a
    transaction; on MariaDB it costs two more statements.
    """
    connection = connections[using]
    columns, head, tail = _frame(model, fields, unless, using)
    if connection.vendor == "postgresql" and len(rows) > 1:
        source, values = _arrays(columns, rows, connection)
    else:
        source, values = _rows(columns, rows, using)
    try:
        with explaining(model, using), cursor_on(connection) as cursor:
            cursor.execute(f"{head} {source} {tail}", values)
            return list(cursor.fetchall())
    except IntegrityError as error:
        if not is_duplicate(error, connection):
            raise
    if len(rows) == 1:
        return []
    left = _without_known(model, fields, rows, using, unless)
    # If no conflict is visible any more, in halves, down to the row that conflicts.
    half = len(rows) // 2
    parts = [left] if len(left) < len(rows) else [rows[:half], rows[half:]]
    inserts = (insert_new(model, fields, part, using, unless=unless) for part in parts if part)
    return [row for inserted in inserts for row in inserted]


def insert_both(
    model: type[models.Model],
    values: Mapping[str, Any],
    other: type[models.Model],
    others: Mapping[str, Any],
    using: str,
    *,
    by: str,
) -> int | None:
    """Insert a row of *model*, and one of *other* whose field *by* refers to it; or neither.

    Neither if the first of *values*, which must be unique, is taken. One statement, for PostgreSQL
    only, with one JSON parameter: adapting many parameters costs more than the insert. Values are
    JSON values or times. Returns the primary key of the row of *other*, or `None`.
    """
    connection = connections[using]
    sql = _both(model, tuple(values), other, tuple(others), by, using)
    given = dumps({**values, **others}, default=datetime.isoformat, ensure_ascii=False)
    with explaining(model, using), cursor_on(connection) as cursor:
        cursor.execute(sql, [given])
        return next((int(key) for (key,) in cursor.fetchall()), None)


@cache
def _both(
    model: type[models.Model],
    names: tuple[str, ...],
    other: type[models.Model],
    others: tuple[str, ...],
    by: str,
    using: str,
) -> str:
    connection = connections[using]
    quote = connection.ops.quote_name
    columns, head, tail = _frame(model, names, names[:1], using)
    more: list[Any] = [other._meta.get_field(name) for name in others]
    link: Any = other._meta.get_field(by)
    key: Any = model._meta.pk
    # Text without a length: a type with one would cut values that the column must refuse.
    types = {
        one.name: "text" if isinstance(one, models.CharField) else one.db_type(connection)
        for one in (*columns, *more)
    }
    record = ", ".join(f"{quote(name)} {kind}" for name, kind in types.items())
    targets = ", ".join(quote(one.column) for one in (link, *more))
    return (
        f"WITH given AS (SELECT * FROM jsonb_to_record(%s::jsonb) AS given ({record})), "
        f"first AS ({head} SELECT {', '.join(map(quote, names))} FROM given {tail}) "
        f"INSERT INTO {quote(other._meta.db_table)} ({targets}) "
        f"SELECT first.{quote(key.column)}, {', '.join(f'given.{quote(name)}' for name in others)} "
        f"FROM first, given RETURNING {quote(str(other._meta.pk.column))}"
    )


def _without_known(
    model: type[models.Model],
    fields: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    using: str,
    unless: tuple[str, ...],
) -> list[Sequence[Any]]:
    """Those of *rows* that are not in the table yet."""
    places = [fields.index(name) for name in unless]
    taken = Q()
    for place, name in zip(places, unless, strict=True):
        taken &= Q(**{f"{name}__in": {row[place] for row in rows}})
    # A locking read sees rows that were committed after this transaction's snapshot.
    found = model._base_manager.using(using).filter(taken).select_for_update()
    with transaction.atomic(using=using, savepoint=False):
        known = set(found.values_list(*unless))
    return [row for row in rows if tuple(row[place] for place in places) not in known]


def is_duplicate(error: IntegrityError, connection: BaseDatabaseWrapper) -> bool:
    """MariaDB cannot skip duplicates only; InnoDB rolls back that statement and nothing else."""
    return connection.vendor == "mysql" and error.args[:1] == (DUPLICATE_ENTRY,)


@cache
def _frame(
    model: type[models.Model], fields: tuple[str, ...], unless: tuple[str, ...], using: str
) -> tuple[list[Any], str, str]:
    """The columns, and the SQL before and after the rows."""
    connection = connections[using]
    quote = connection.ops.quote_name
    columns: list[Any] = [model._meta.get_field(name) for name in fields]
    key: Any = model._meta.pk
    names = ", ".join(quote(column.column) for column in columns)
    taken = [model._meta.get_field(name) for name in unless]
    returning = f"RETURNING {quote(key.column)}, {quote(columns[0].column)}"
    table = quote(model._meta.db_table)
    tail = f"{unless_taken(taken, connection)} {returning}"
    return columns, f"INSERT INTO {table} ({names})", tail


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
                values.append(prepared(column, value, connection))
        marks.append(f"({', '.join(places)})")
    return f"VALUES {', '.join(marks)}", values


def prepared(column: Any, value: Any, connection: BaseDatabaseWrapper) -> Any:
    """The value for the driver; text for a text column, the usual case, needs no conversion."""
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
    """One parameter per column: thousands of placeholders cost more than the insert."""
    types = ", ".join(f"%s::{column.db_type(connection)}[]" for column in columns)
    values = [
        [prepared(column, value, connection) for value in given]
        for column, given in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    return f"SELECT * FROM UNNEST({types})", values


def ago_sql(model: type[models.Model], using: str) -> str:
    """SQL for the database's time minus a duration, its one parameter."""
    compiler = model._base_manager.using(using).all().query.get_compiler(using)
    none = models.Value(timedelta(0), output_field=DURATION)
    ago = models.ExpressionWrapper(DatabaseNow() - none, output_field=models.DateTimeField())
    return str(compiler.compile(ago.resolve_expression(compiler.query))[0])


def unless_taken(columns: Sequence[Any], connection: BaseDatabaseWrapper) -> str:
    """The clause that skips this conflict only; empty on databases that cannot name it."""
    if connection.vendor == "mysql":
        return ""
    names = ", ".join(connection.ops.quote_name(column.column) for column in columns)
    return f"ON CONFLICT ({names}) DO NOTHING"


def new_keys(model: type[models.Model], number: int, using: str) -> list[int]:
    """Primary keys for new rows, rising; for PostgreSQL.

    None if the role may only insert: that gives keys, but asking their sequence is refused.
    """
    connection = connections[using]
    table = connection.ops.quote_name(model._meta.db_table)
    with explaining(model, using), cursor_on(connection) as cursor:
        cursor.execute(_NEW_KEYS, [table, str(model._meta.pk.column), number])
        return sorted(key for (key,) in cursor.fetchall() if key is not None)


_NEW_KEYS: Final = """
SELECT CASE WHEN has_sequence_privilege(keys, 'USAGE, UPDATE') THEN nextval(keys) END
FROM (SELECT pg_get_serial_sequence(%s, %s) AS keys) of_table, generate_series(1, %s)"""


def rows_per_statement(columns: int, using: str) -> int:
    """How many rows of *columns* columns one statement may insert."""
    most = connections[using].features.max_query_params
    return 500 if most is None else max(1, min(500, most // columns))
