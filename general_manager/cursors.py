"""One cursor for several statements in a row.

A driver caches adapters per cursor, and Django's cursor for PostgreSQL sets up a time zone, so
creating one costs as much as a short statement. On other databases an open cursor may hold a lock,
so there each statement has its own.
"""

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Final

from django.db import connections

_SHARED: Final = "_general_manager_cursor"


class shared_cursor:
    """In this block, `cursor_on` returns the same cursor of database *using*, on PostgreSQL.

    It is made when it is first wanted, and again if the connection is another one.
    """

    __slots__ = ("_connection", "_cursor")

    def __init__(self, using: str) -> None:
        self._connection: Any = connections[using]
        self._cursor: Any = None

    def __enter__(self) -> None:
        connection = self._connection
        if connection.vendor == "postgresql" and getattr(connection, _SHARED, None) is None:
            setattr(connection, _SHARED, self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if getattr(self._connection, _SHARED, None) is self:
            setattr(self._connection, _SHARED, None)
        if self._cursor is not None:
            self._cursor.__exit__(kind, error, trace)

    def get(self) -> Any:
        raw = self._connection.connection
        if raw is None or self._cursor is None or self._cursor.connection is not raw:
            self._cursor = self._connection.cursor()
        return self._cursor


def cursor_on(connection: Any) -> AbstractContextManager[Any]:
    """A cursor for one statement; its rows must be fetched before the next statement."""
    shared: shared_cursor | None = getattr(connection, _SHARED, None)
    if shared is None:
        cursor: AbstractContextManager[Any] = connection.cursor()
        return cursor
    return nullcontext(shared.get())
