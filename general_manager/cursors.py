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
    """In this block, `cursor_on` returns the same cursor of database *using*."""

    __slots__ = ("_connection", "_cursor")

    def __init__(self, using: str) -> None:
        self._connection: Any = connections[using]
        self._cursor: Any = None

    def __enter__(self) -> None:
        connection = self._connection
        if connection.vendor == "postgresql" and getattr(connection, _SHARED, None) is None:
            self._cursor = connection.cursor()
            setattr(connection, _SHARED, self._cursor)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._cursor is not None:
            setattr(self._connection, _SHARED, None)
            self._cursor.__exit__(kind, error, trace)


def cursor_on(connection: Any) -> AbstractContextManager[Any]:
    """A cursor for one statement; its rows must be fetched before the next statement."""
    shared = getattr(connection, _SHARED, None)
    if shared is None or shared.connection is not connection.connection:
        cursor: AbstractContextManager[Any] = connection.cursor()
        return cursor
    return nullcontext(shared)
