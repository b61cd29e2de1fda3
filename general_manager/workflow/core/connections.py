"""Database connections of a worker: which ones can be used, and how to replace the others.

The driver is checked first: it knows without a round trip whether a transaction is open, and the
socket shows whether the server has hung up. Only a connection that failed, or was idle for
`IDLE_SECONDS`, is checked over the network. Django's own flags are not enough: after a time limit
during COMMIT, a raw BEGIN, or `set_autocommit(False)` they may be out of date.
"""

import select
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any, Final, TypeVar

from django.db import Error, connections

from general_manager.database_errors import (
    is_conflict,
    is_lost_connection,
    may_be_the_sessions,
)
from general_manager.escaping import get_logger
from general_manager.guarding import attempt
from general_manager.workflow.exceptions import WorkflowError

logger = get_logger(__name__)

Result = TypeVar("Result")

IDLE_SECONDS: Final = 10.0
"""A connection that was idle for so long is checked with one round trip before use."""

PERSIST_SECONDS: Final = 10.0
"""How long writing an outcome is retried while the database cannot be reached: a restart or a
failover takes seconds, and work without a recorded outcome is done again."""

_USED: Final = "_general_manager_used"
_IDLE, _UNKNOWN = 0, 4  # libpq's transaction states; between them: active, in one, in a failed one


class ConnectionClosed(WorkflowError):
    """User code closed the connection of the transaction around it."""

    def __init__(self, what: str, database: str) -> None:
        super().__init__(what, database)
        self.what = what
        self.database = database

    def __str__(self) -> str:
        return (
            f"{self.what} closed the connection to database {self.database!r} inside its "
            "transaction, which rolls its writes back. Leave connections to Django and the worker."
        )


def opened() -> Iterator[Any]:
    """The connections that this thread has already opened."""
    yield from connections.all(initialized_only=True)


def in_transaction(connection: Any, *, ask: bool = False) -> bool:
    """Whether a transaction is open: by Django, by autocommit off, or by a raw BEGIN.

    MySQL's client does not know about a raw BEGIN; *ask* the server there, in one round trip.
    """
    if connection.in_atomic_block:
        return True
    raw = connection.connection
    return (
        raw is not None
        and not is_dead(raw)
        and (not connection.autocommit or _begun(connection, ask=ask))
    )


def has_open_work(connection: Any) -> bool:
    """Whether closing *connection* now would roll something back, as far as we can know."""
    if connection.connection is None or is_dead(connection.connection):
        return False
    if connection.vendor == "postgresql":
        return _status(connection.connection) != _IDLE
    if connection.vendor == "sqlite":
        return bool(connection.connection.in_transaction)
    return _server_says(connection, default=not connection.autocommit)


def is_dead(raw: Any) -> bool:
    """Whether the driver knows that its connection *raw* is closed or broken; no round trip."""
    is_open = getattr(raw, "open", None)  # mysqlclient's
    return bool(getattr(raw, "closed", False)) or (is_open is not None and not is_open)


def has_died(connection: Any) -> bool:
    """Check with the server: MySQL's client does not notice a loss. For use after an error."""
    raw = connection.connection
    return raw is None or is_dead(raw) or not _answers(connection)


def refresh(connection: Any) -> None:
    """Discard *connection* if it is dead, so that it is reopened. Not inside a transaction."""
    if connection.connection is None or in_transaction(connection):
        return
    if _may_have_died(connection) and not _answers(connection):
        discard(connection, "the server has closed it or does not answer")
    connection.errors_occurred = False
    setattr(connection, _USED, monotonic())


def discard(connection: Any, why: str) -> None:
    """Close *connection* in any state; the next statement opens a new one."""
    logger.warning("Discarding the connection to database %r: %s", connection.alias, why)
    connection.in_atomic_block = connection.closed_in_transaction = False
    try:
        if connection.settings_dict["OPTIONS"].get("pool"):
            connection.connection.close()  # or the pool would lend it again
        connection.close()
    except Exception:
        logger.debug("Closing the connection failed", exc_info=True)
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        connection.connection.rollback()  # closing it would drop the database
        connection.connection.isolation_level = None
        connection.autocommit = True
    else:
        connection.connection = None
    connection.atomic_blocks, connection.savepoint_ids, connection.run_on_commit = [], [], []
    connection.needs_rollback = connection.errors_occurred = False
    connection.run_commit_hooks_on_set_autocommit_on = False


class unit_of_work:
    """A unit of work begins on working connections in autocommit mode, and leaves them so.

    A transaction that is open at the start belongs to the caller and is not touched, unless the
    unit is *outermost*: a worker's task has no caller, so earlier code left it open. A transaction
    opened meanwhile and not closed was left open by user code. Both are discarded.
    Costs no statement on a working connection, and one round trip on MySQL and MariaDB.
    """

    def __init__(self, *, outermost: bool = False) -> None:
        self._outermost = outermost

    def __enter__(self) -> None:
        self._callers: set[str] = set()
        for connection in opened():
            if not in_transaction(connection, ask=self._outermost):
                refresh(connection)
            elif self._outermost:
                discard(
                    connection,
                    "a transaction was left open by earlier code or by a task's base class",
                )
            else:
                self._callers.add(connection.alias)

    def __exit__(self, *_: object) -> None:
        for connection in opened():
            if connection.alias in self._callers:
                continue
            if in_transaction(connection, ask=True):
                discard(connection, "a transaction was left open")
            elif connection.errors_occurred:
                discard(connection, "a statement failed on it")


def persist(
    using: str, write: Callable[[], Result], *, patience: float = PERSIST_SECONDS
) -> Result:
    """Do *write*, and repeat it on a new connection if the connection is lost.

    Retries for *patience* seconds while the database cannot be reached. Any other refusal but that
    of the data is retried once, as earlier code may have set the session, to READ ONLY for example.
    Inside an open transaction it is done once: what was lost of it cannot be repeated here.
    """
    connection = connections[using]
    if in_transaction(connection):
        return write()
    refresh(connection)
    began, pause = monotonic(), 0.0
    while True:
        try:
            return write()
        except Error as error:
            is_lost = is_lost_connection(error) or connection.connection is None
            is_suspect = pause == 0 and may_be_the_sessions(error)
            is_late = monotonic() - began > patience and not (is_lost and pause == 0)
            if not is_suspect and (is_late or not (is_lost or is_conflict(error))):
                raise
            logger.warning("Database %r: %s; retrying", using, error)
        if is_lost or is_suspect:
            discard(connection, "a statement failed, or the connection was lost")
        sleep(pause)
        pause = min(2.0, pause * 2 or 0.1)


def _may_have_died(connection: Any) -> bool:
    raw = connection.connection
    idle = monotonic() - getattr(connection, _USED, 0.0)
    return connection.errors_occurred or idle > IDLE_SECONDS or is_dead(raw) or _has_news(raw)


def _answers(connection: Any) -> bool:
    return attempt(lambda: bool(connection.is_usable()), otherwise=False)


def _has_news(raw: Any) -> bool:
    """Whether an idle socket has data to read: most likely the server has closed it."""
    try:
        if not hasattr(select, "poll"):
            return bool(select.select([raw.fileno()], [], [], 0)[0])
        poll = select.poll()
        poll.register(raw.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except AttributeError:  # SQLite has none
        return False
    except Exception:  # noqa: BLE001 - drivers raise any exception for a closed socket
        return True


def _begun(connection: Any, *, ask: bool) -> bool:
    raw = connection.connection
    if connection.vendor == "postgresql":
        pgconn = getattr(raw, "pgconn", None)
        in_pipeline = pgconn is not None and pgconn.pipeline_status != 0
        return in_pipeline or not raw.autocommit or _status(raw) not in (_IDLE, _UNKNOWN)
    if connection.vendor == "sqlite":
        return raw.in_transaction or raw.isolation_level is not None
    if connection.vendor == "mysql":
        return not raw.get_autocommit() or (ask and _server_says(connection, default=False))
    return False


def _status(raw: Any) -> int:
    session = getattr(raw, "pgconn", None)  # psycopg 3's, which is quicker to ask
    return int((session or raw.info).transaction_status)


def _server_says(connection: Any, *, default: bool) -> bool:
    """Whether MariaDB has an open transaction. MySQL cannot tell, so there it is rolled back."""
    try:
        if getattr(connection, "mysql_is_mariadb", False):
            with connection.connection.cursor() as cursor:
                cursor.execute("SELECT @@in_transaction")
                return bool(cursor.fetchone()[0])
        connection.connection.rollback()
    except Exception:  # noqa: BLE001 - a connection that cannot tell is replaced
        connection.errors_occurred = True
    return default
