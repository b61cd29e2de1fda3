"""Cursors for our own statements: shared by several in a row, and preparing them on PostgreSQL.

A driver caches adapters per cursor, and Django's cursor for PostgreSQL sets up a time zone, so
creating one costs as much as a short statement. On other databases an open cursor may hold a lock,
so there each statement has its own.

What is prepared is parsed and planned once for each connection: see docs/tuning.md. Only our own
statements are, and only on a connection that is used for long and leads to the server directly.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, Final

from django.db import connections

from general_manager.database_errors import UNPREPARED

_SHARED: Final = "_general_manager_cursor"
_USE: Final = "_general_manager_use"
_IN_ERROR: Final = 3
"""The status of a session whose transaction has failed."""

PREPARES_AFTER: Final = 50
"""So many of our statements make a connection one that is used for long: it is asked once."""

PREPARES_REPEATED: Final = 5
"""A statement that has come so often is prepared: psycopg's own number."""

PLANS_LAST_SECONDS: Final = 10.0
"""After so long a connection's plans are made anew: a table may have grown, and until the server
has analyzed it, it would go on with the plan for a small one."""


class shared_cursor:
    """In this block, `cursor_on` returns the same cursor of database *using*, on PostgreSQL.

    It is made when it is first wanted, and again if the connection is another one.
    """

    __slots__ = ("_connection", "_cursor", "_is_preparing")

    def __init__(self, using: str) -> None:
        self._connection: Any = connections[using]
        self._cursor: Any = None
        self._is_preparing = False

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
        prepares = _prepares(self._connection)
        if (
            raw is None
            or self._cursor is None
            or self._cursor.connection is not raw
            or self._is_preparing is not prepares
        ):
            self._cursor = _cursor(self._connection, prepares=prepares)
            self._is_preparing = prepares
        return self._cursor


def cursor_on(connection: Any) -> AbstractContextManager[Any]:
    """A cursor for one statement; its rows must be fetched before the next statement."""
    shared: shared_cursor | None = getattr(connection, _SHARED, None)
    if shared is None:
        cursor: AbstractContextManager[Any] = _cursor(connection, prepares=_prepares(connection))
        return cursor
    return nullcontext(shared.get())


class _Use:
    """Of a driver's connection: how often we have used it, and whether it prepares for us."""

    __slots__ = ("look_at", "prepares", "times")

    def __init__(self) -> None:
        self.times = 0
        self.prepares = False
        self.look_at = 0.0

    def stop(self) -> None:
        self.prepares, self.look_at = False, inf


def _prepares(connection: Any) -> bool:
    """Whether the next statement goes through a cursor that prepares."""
    raw = connection.connection
    if raw is None or connection.vendor != "postgresql" or connection.queries_logged:
        return False  # what is logged must be the statement with its values
    use: _Use | None = getattr(raw, _USE, None)
    if use is None:
        psycopg = _psycopg()
        if psycopg is None or not isinstance(raw, psycopg.Connection):
            return False
        use = _Use()
        setattr(raw, _USE, use)
    use.times += 1
    if use.times >= PREPARES_AFTER and monotonic() >= use.look_at and _may_ask(raw):
        _look(connection, use)
    return use.prepares


def _look(connection: Any, use: _Use) -> None:
    use.look_at = monotonic() + PLANS_LAST_SECONDS
    if use.prepares:
        _ask(connection, "DISCARD PLANS")
    elif _may_prepare(connection):
        use.prepares = True
    else:
        use.stop()


def _may_ask(raw: Any) -> bool:
    """Not in a pipeline either, which answers later."""
    return not _is_broken(raw) and raw.pgconn.pipeline_status == 0


def _is_broken(raw: Any) -> bool:
    """Whether its transaction accepts nothing but a rollback."""
    return bool(raw.info.transaction_status == _IN_ERROR)


def _may_prepare(connection: Any) -> bool:
    """Whether the project has left it to us, and no pooler is in between.

    A pooler may give the next transaction another connection to the server, where nothing of ours
    is prepared. It has to invent the number of the server's process that it sends to its clients.
    """
    raw, options = connection.connection, connection.settings_dict["OPTIONS"]
    usual = import_module("django.db.backends.postgresql.base").Cursor
    if "prepare_threshold" in options or raw.cursor_factory is not usual:
        return False  # such as `server_side_binding`, or the cursors of a tracing library
    [[process]] = _ask(connection, "SELECT pg_backend_pid()")
    return bool(process == raw.info.backend_pid)


def _ask(connection: Any, question: str) -> Any:
    """The rows of a statement about the connection itself: it is neither logged nor counted."""
    with connection.wrap_database_errors, connection.connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchall() if cursor.description else []


def _cursor(connection: Any, *, prepares: bool) -> Any:
    if not prepares:
        return connection.cursor()
    raw = connection.connection
    usual, raw.cursor_factory = raw.cursor_factory, _preparing()
    try:
        return connection.cursor()
    finally:
        raw.cursor_factory = usual


@cache
def _psycopg() -> Any:
    """Version 3, which can prepare; if it is there, Django uses it."""
    try:
        return import_module("psycopg")
    except ImportError:
        return None


@cache
def _preparing() -> Any:
    """A class of cursors that bind on the server, so what they run can be prepared."""
    psycopg: Any = _psycopg()
    stale = (
        psycopg.errors.InvalidSqlStatementName,  # not there, or another is: a pooler after all
        psycopg.errors.DuplicatePreparedStatement,
        psycopg.errors.FeatureNotSupported,  # its result has other types since a migration
    )

    class PreparingCursor(psycopg.Cursor):  # type: ignore[misc]  # an optional library's
        """From the first statement that was prepared in vain, its connection prepares no more."""

        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            raw = self.connection
            # For our statements only: psycopg keeps the whole text of each that it may prepare.
            others = raw.prepare_threshold
            raw.prepare_threshold = PREPARES_REPEATED if getattr(raw, _USE).prepares else None
            try:
                return super().execute(query, params, **options)
            except stale as error:
                raw.prepare_threshold = None
                getattr(raw, _USE).stop()
                if _is_broken(raw):
                    setattr(error, UNPREPARED, True)
                    raise
                return super().execute(query, params, **options)
            finally:
                raw.prepare_threshold = others

    return PreparingCursor
