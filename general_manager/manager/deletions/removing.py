"""The rows that the DELETE statements of one deletion removed, returned by these statements.

Only the DELETE itself knows: until it has its locks, another transaction may remove or change the
row, and a lock before it takes a privilege, and a row level security policy, of an UPDATE.
Not asked are views, tables with rules on PostgreSQL, which can refuse RETURNING, and servers
without it (MySQL).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from re import DOTALL
from re import compile as pattern
from typing import Any, Final
from weakref import ref

from django.db import NotSupportedError, connections
from django.db.models import Field, Model, QuerySet

from general_manager.guarding import attempt
from general_manager.manager.stored import Columns, StoredRow
from general_manager.tables import RETURNS_REMOVED, ask_again, asked

_COMMENTS: Final = pattern(r"\s*(?:/\*.*?\*/\s*)*", DOTALL)


def may_return(model: type[Model], using: str) -> bool:
    """Whether a DELETE on *model*'s own table can return the removed rows."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        return asked(RETURNS_REMOVED, model, using)
    return (
        connection.vendor in {"sqlite", "mysql"}
        and connection.features.can_return_columns_from_insert  # RETURNING came for both at once
        and bool(model._meta.managed)
    )


class _Asked:
    """What a DELETE on one table is asked for."""

    def __init__(self, columns: Columns, using: str) -> None:
        self.columns = columns
        model, connection = columns.model, connections[using]
        names = [one.attname for one in columns.fields]
        rows: QuerySet[Any] = QuerySet(model, using=using).order_by().values_list(*names)
        compiler = rows.query.get_compiler(using)
        compiler.setup_query()
        selected = [compiled for _, compiled, _ in compiler.select or ()]
        self.begin = " ".join(["DELETE FROM", connection.ops.quote_name(model._meta.db_table), ""])
        self.end = f" RETURNING {', '.join(sql for sql, _ in selected)}"
        self.parameters = tuple(one for _, parameters in selected for one in parameters)


@lru_cache(maxsize=4096)
def _asked(model: type[Model], fields: "tuple[Field[Any, Any], ...]", using: str) -> _Asked:
    return _Asked(Columns(model, [*model._meta.pk_fields, *fields]), using)


class Removals:
    """Asks the DELETE statements in one transaction block, as an execute wrapper of Django's.

    The first of the connection's: others may put a comment before or behind the statement, and
    remove the last one when they end. Django does not tell when a deletion fails: the wrapper
    takes itself away at the first statement outside of its block.
    """

    def __init__(self, block: Any, using: str) -> None:
        self._block = ref(block)
        self._connection: Any = connections[using]
        self._asked: dict[type[Model], _Asked] = {}
        self._rows: dict[type[Model], list[StoredRow] | None] = {}

    def ask(self, model: type[Model], fields: "Sequence[Field[Any, Any]]") -> None:
        """Have the statements return the keys and *fields* of *model*'s own table."""
        if not self._asked:
            self._connection.execute_wrappers.insert(0, self)
        self._asked[model] = _asked(model, tuple(fields), self._connection.alias)

    def take(self, model: type[Model]) -> list[StoredRow] | None:
        """The rows removed since the last call; `None` if the statements did not tell."""
        return self._rows.pop(model, None)

    def stop(self) -> None:
        if self in self._connection.execute_wrappers:
            self._connection.execute_wrappers.remove(self)

    def __call__(self, execute: Callable[..., Any], sql: str, parameters: Any, *rest: Any) -> Any:
        block, blocks = self._block(), self._connection.atomic_blocks
        if block not in blocks:
            self.stop()
        elif parameters and blocks[-1] is block:
            for asked in self._asked.values():
                if _is_deletion(sql, asked.begin):
                    return self._remove(asked, execute, sql, parameters, *rest)
        return execute(sql, parameters, *rest)

    def _remove(
        self, asked: _Asked, execute: Callable[..., Any], sql: str, parameters: Any, *rest: Any
    ) -> Any:
        model = asked.columns.model
        try:
            result = execute(sql + asked.end, (*parameters, *asked.parameters), *rest)
        except NotSupportedError:  # a rule was made since: the next deletion will ask
            ask_again(RETURNS_REMOVED, model, self._connection.alias)
            raise
        raw = attempt(rest[-1]["cursor"].fetchall, None)  # the driver may fail to load a value
        known = self._rows.setdefault(model, [])
        if raw is None or known is None:
            self._rows[model] = None
        else:
            known += [StoredRow(asked.columns, self._connection, one) for one in raw]
        return result


def _is_deletion(sql: str, begin: str) -> bool:
    comments = _COMMENTS.match(sql)
    start = comments.end() if comments else 0
    return sql.startswith(begin, start) and " RETURNING " not in sql
