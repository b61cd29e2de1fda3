"""A row before and after a save, returned by the save's own UPDATE.

PostgreSQL 18 returns the old and the new values of an updated row. Elsewhere the row is read before
and after the UPDATE, which takes two statements more. The same is done here wherever the UPDATE
might be refused with RETURNING, or something else might change the row after it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Final

from django.db import NotSupportedError, connections
from django.db.models import Field, ForeignKey, Manager, Model
from django.db.models.sql.compiler import SQLUpdateCompiler

from general_manager.guarding import attempt
from general_manager.manager.stored import MISSING, UNLOADED, Columns, StoredRow
from general_manager.tables import RETURNS_UPDATED, ask_again, asked

_WITH_OLD: Final = 18_00_00
"""The first PostgreSQL that returns old values."""

_FIELD: Final[Any] = Field
_BY_NAME: Final = (_FIELD.get_col, ForeignKey.get_col)

# Other triggers than those before the row's change can change it once more. Django's own foreign
# keys are checked by internal ones.
_RETURNING: Final = """ RETURNING WITH (OLD AS gm_old, NEW AS gm_new) {columns}, EXISTS (
    SELECT FROM pg_catalog.pg_trigger
    WHERE tgrelid = {table}::regclass AND tgtype & 2 = 0 AND NOT tgisinternal)"""


def may_return(model: type[Model], columns: Columns, using: str) -> bool:
    """Whether an UPDATE of one row of *model* can return *columns* of the row, old and new."""
    connection: Any = connections[using]
    return (
        connection.vendor == "postgresql"
        and connection.pg_version >= _WITH_OLD
        and model._meta.concrete_model is columns.model
        and type(model._base_manager) is Manager
        and connection.ops.compiler("SQLUpdateCompiler") is SQLUpdateCompiler
        and _are_read_by_name(columns)
        and asked(RETURNS_UPDATED, model, using)
    )


@lru_cache(maxsize=4096)
def _are_read_by_name(columns: Columns) -> bool:
    return all(_is_read_by_name(one) for one in columns.fields)


def _is_read_by_name(field: "Field[Any, Any]") -> bool:
    """Whether Django selects the column itself: a geometry, for one, is selected as text.

    A foreign key is selected as the key to which it refers.
    """
    kind: Any = type(field)
    if kind.get_col not in _BY_NAME or kind.cached_col is not _FIELD.cached_col:
        return False
    selected: Any = type(field.get_col("").output_field)
    return selected.select_format is Field.select_format


def _loaded_each(cursor: Any) -> Sequence[Any] | None:
    """Column by column, as the driver cannot load one of them; `MISSING` for that one."""
    result = getattr(cursor.cursor, "pgresult", None)
    if result is None:  # psycopg 2
        row: Sequence[Any] | None = cursor.fetchone()
        return row
    loaders = import_module("psycopg.adapt").Transformer(cursor.cursor.connection)

    def load(place: int) -> Any:
        data = result.get_value(0, place)
        loader = loaders.get_loader(result.ftype(place), result.fformat(place))
        return None if data is None else loader.load(data)

    return [attempt(partial(load, place), MISSING) for place in range(result.nfields)]


class Returned:
    """Asks the UPDATE statement of one save for the row, as an execute wrapper of Django's.

    The first of the connection's: others may put a comment before or behind the statement.
    """

    __slots__ = ("_columns", "_connection", "_is_asked", "after", "before")

    def __init__(self, columns: Columns, using: str) -> None:
        self._columns = columns
        self._connection: Any = connections[using]
        self._is_asked = False
        self.before: StoredRow | None = None
        """As it was; `None` if there was no such row."""
        self.after: StoredRow | None = None
        """As it is; `None` if there is no such row, or if a trigger may have changed it since."""

    def during(self, update: Callable[[], Any]) -> Any:
        """Call *update* and read what it returns."""
        wrappers = self._connection.execute_wrappers
        wrappers.insert(0, self._execute)
        try:
            return update()
        except NotSupportedError:  # a rule was made since: the next save will ask
            ask_again(RETURNS_UPDATED, self._columns.model, self._connection.alias)
            raise
        finally:
            wrappers.remove(self._execute)

    def _execute(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        table = self._connection.ops.quote_name(self._columns.model._meta.db_table)
        if self._is_asked or not sql.startswith(f"UPDATE {table} "):
            return execute(sql, *arguments)
        self._is_asked = True  # others may change other tables around it
        result = execute(sql + self._returning(), *arguments)
        cursor = arguments[-1]["cursor"]
        row = attempt(cursor.fetchone, UNLOADED)
        if row is UNLOADED:
            row = _loaded_each(cursor)
        if row is not None:
            self._keep(row)
        return result

    def _keep(self, row: Sequence[Any]) -> None:
        size = len(self._columns.fields)
        self.before = StoredRow(self._columns, self._connection, row[:size])
        changes_again = row[2 * size]
        if not changes_again:
            self.after = StoredRow(self._columns, self._connection, row[size : 2 * size])

    def _returning(self) -> str:
        quote = self._connection.ops.quote_name
        table = quote(self._columns.model._meta.db_table).replace("'", "''")
        names = [quote(one.column) for one in self._columns.fields]
        columns = ", ".join(f"{row}.{name}" for row in ("gm_old", "gm_new") for name in names)
        return _RETURNING.format(columns=columns, table=f"'{table}'")
