"""What the tables' columns, clocks and inserts share on every database."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models.constants import OnConflict
from django.db.models.functions import Now

from general_manager.workflow.ids import MAX_ID_LENGTH


class DatabaseNow(Now):
    """The database's clock, in UTC also where the server's session is in another zone."""

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)


def in_(duration: timedelta) -> models.Expression:
    """That long from now, on the database's clock."""
    return models.ExpressionWrapper(DatabaseNow() + duration, output_field=models.DateTimeField())


class IdField(models.CharField):  # type: ignore[type-arg]
    """Text compared exactly: MariaDB usually takes ``a`` for ``A``, and ``a `` for ``a``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", MAX_ID_LENGTH)
        super().__init__(*args, **kwargs)

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters = super().db_parameters(connection)
        if connection.vendor == "mysql":
            is_mariadb = getattr(connection, "mysql_is_mariadb", False)
            parameters["collation"] = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
        return parameters


class OwedIndex(models.Index):
    """An index on the rows that still have a time in their one timing column.

    Partial where the database has that; elsewhere a plain index, whose NULLs a range scan skips.
    """

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        *args: Any,
        **kw: Any,
    ) -> Any:
        if schema_editor.connection.features.supports_partial_indexes:
            return super().create_sql(model, schema_editor, *args, **kw)
        condition, self.condition = self.condition, None
        try:
            return super().create_sql(model, schema_editor, *args, **kw)
        finally:
            self.condition = condition


def insert_new(
    model: type[models.Model], fields: Sequence[str], rows: Sequence[Sequence[Any]], using: str
) -> list[tuple[Any, ...]]:
    """Insert *rows* in one statement, passing over those that are there already.

    A value may be an expression without fields, such as `in_`. Returns the primary key and the
    first of *fields* of each row that was inserted. A duplicate raises nothing, so it breaks no
    transaction.
    """
    connection = connections[using]
    quote = connection.ops.quote_name
    columns: list[Any] = [model._meta.get_field(name) for name in fields]
    compiler = model._base_manager.using(using).all().query.get_compiler(using)
    marks: list[str] = []
    values: list[Any] = []
    for row in rows:
        placed = [_placed(one, value, compiler) for one, value in zip(columns, row, strict=True)]
        marks.append(f"({', '.join(sql for sql, _ in placed)})")
        values += [value for _, parameters in placed for value in parameters]
    key: Any = model._meta.pk
    sql = (
        f"{connection.ops.insert_statement(on_conflict=OnConflict.IGNORE)} "
        f"{quote(model._meta.db_table)} ({', '.join(quote(one.column) for one in columns)}) "
        f"VALUES {', '.join(marks)} {ignore_suffix(connection)} "
        f"RETURNING {quote(key.column)}, {quote(columns[0].column)}"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


def insert_while(
    model: type[models.Model],
    values: Mapping[str, Any],
    guard: type[models.Model],
    holds: Mapping[str, Any],
    using: str,
) -> bool:
    """Insert one row if *guard* has a row for which *holds*, and *model* has none that conflicts.

    In one statement; the guard's row stays locked until the caller's transaction ends, so that
    nothing can change between this check and the commit. Says whether a row was inserted.
    """
    connection = connections[using]
    quote = connection.ops.quote_name
    compiler = model._base_manager.using(using).all().query.get_compiler(using)

    def place(owner: type[models.Model], named: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        columns: list[Any] = [owner._meta.get_field(name) for name in named]
        parameters = [
            _placed(column, value, compiler)[1]
            for column, value in zip(columns, named.values(), strict=True)
        ]
        return [quote(column.column) for column in columns], [one for (one,) in parameters]

    columns, parameters = place(model, values)
    conditions, expected = place(guard, holds)
    lock = "FOR UPDATE" if connection.features.has_select_for_update else ""
    sql = (
        f"{connection.ops.insert_statement(on_conflict=OnConflict.IGNORE)} "  # noqa: S608 - names are quoted, values are parameters
        f"{quote(model._meta.db_table)} ({', '.join(columns)}) "
        f"SELECT {', '.join(['%s'] * len(columns))} FROM {quote(guard._meta.db_table)} "
        f"WHERE {' AND '.join(f'{one} = %s' for one in conditions)} {lock} "
        f"{ignore_suffix(connection)}"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [*parameters, *expected])
        return bool(cursor.rowcount == 1)


def _placed(column: Any, value: Any, compiler: Any) -> tuple[str, Sequence[Any]]:
    if hasattr(value, "resolve_expression"):
        resolved = value.resolve_expression(compiler.query, allow_joins=False, for_save=True)
        sql, parameters = compiler.compile(resolved)
        return sql, parameters
    return "%s", [column.get_db_prep_save(value, compiler.connection)]


def ignore_suffix(connection: BaseDatabaseWrapper) -> str:
    return str(connection.ops.on_conflict_suffix_sql([], OnConflict.IGNORE, [], []))


def rows_per_statement(columns: int, using: str) -> int:
    """How many rows of so many columns one statement may carry."""
    most = connections[using].features.max_query_params
    return 500 if most is None else max(1, min(500, most // columns))
