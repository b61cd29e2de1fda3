"""Commits that do not wait for the disk.

A commit need not wait if its cause is stored and makes it happen again. PostgreSQL writes commits
to disk in order: if a later one survives a crash, so does this one. See docs/tuning.md.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from django.core.exceptions import EmptyResultSet
from django.db import connections, models, transaction
from django.db.models.sql import UpdateQuery

from general_manager.cursors import cursor_on

# Evaluated once per statement, not per row; ends with the transaction, for poolers.
UNWAITED: Final = ", (SELECT set_config('synchronous_commit', 'off', true))"
"""SQL to append to a RETURNING list: the transaction of the statement commits without waiting."""


_IDLE: Final = 0
"""The status of a session in which no transaction has begun."""


class alone:
    """The statement inside is the only one of its transaction, and commits by itself.

    Psycopg 3 begins a transaction before its first statement, so a step or a handler that did
    nothing in the database would cost three round trips. Only in the outermost block, while nothing
    was sent in it, and no hook waits for its commit: a time limit may interrupt the statement while
    it waits for a lock, and then it commits unseen. Nothing may follow in the block.
    """

    __slots__ = ("_raw",)

    def __init__(self, connection: Any) -> None:
        raw = connection.connection
        session = getattr(raw, "pgconn", None)
        is_first = (
            session is not None
            and len(connection.atomic_blocks) == 1
            and not (connection.needs_rollback or connection.run_on_commit)
            and session.transaction_status == _IDLE
        )
        self._raw: Any = raw if is_first else None

    def __enter__(self) -> None:
        if self._raw is not None:
            self._raw.autocommit = True

    def __exit__(self, *raised: object) -> None:
        if self._raw is not None:
            with suppress(Exception):  # the session may be lost; Django opens another
                self._raw.autocommit = False


def may_skip_waiting(using: str) -> bool:
    """Whether a transaction that begins now is our own, and its commit can be left unwaited.

    False inside a caller's transaction, which must stay durable, and on other databases.
    """
    connection = connections[using]
    return connection.vendor == "postgresql" and connection.get_autocommit()


def without_waiting(using: str) -> str:
    """`UNWAITED` for a statement outside of transactions, if a crash of the database may undo it.

    The statement's own transaction then commits without waiting for the disk. Empty elsewhere.
    """
    return UNWAITED if may_skip_waiting(using) else ""


def update_without_waiting(rows: "models.QuerySet[Any]", **values: Any) -> int:
    """`QuerySet.update`, for our own bookkeeping: what a crash of the database undoes is redone.

    For outcomes that are stored elsewhere too, such as the settlement of an entry whose deliveries
    are recorded. Waits like any other statement inside a caller's transaction.
    """
    return _update(rows, values) if may_skip_waiting(rows.db) else rows.update(**values)


@contextmanager
def bookkeeping(using: str) -> Iterator[Callable[..., int]]:
    """A transaction for our own bookkeeping, whose commit need not wait.

    Yields `QuerySet.update` as a function of rows and values: if one of its calls changes a row,
    the commit does not wait for the disk. It does inside a caller's transaction.
    """
    is_ours = may_skip_waiting(using)

    def update(rows: "models.QuerySet[Any]", **values: Any) -> int:
        return _update(rows, values) if is_ours else rows.update(**values)

    with transaction.atomic(using=using):
        yield update


def update_and_skip_waiting(rows: "models.QuerySet[Any]", **values: Any) -> int:
    """`QuerySet.update` in a transaction of which `may_skip_waiting` was true when it began."""
    return _update(rows, values)


def _update(rows: "models.QuerySet[Any]", values: dict[str, Any]) -> int:
    query: Any = rows.query.chain(UpdateQuery)
    query.add_update_values(values)
    try:
        sql, parameters = query.get_compiler(rows.db).as_sql()
    except EmptyResultSet:  # such as `pk__in=[]`
        return 0
    with cursor_on(connections[rows.db]) as cursor:
        cursor.execute(f"{sql} RETURNING 1{UNWAITED}", parameters)
        return int(cursor.rowcount)
