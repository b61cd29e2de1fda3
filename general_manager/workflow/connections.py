"""Database connections as a worker finds them: which can be used, and what to do about the others.

The driver is asked first: it knows without a round trip whether a transaction is open, and the
socket says whether the server has hung up. Only a connection that failed, or was idle for
`IDLE_SECONDS`, is asked over the network. Django's own flags are not enough: a time limit that
strikes in COMMIT, a raw BEGIN, or `set_autocommit(False)` leave them behind what is so.
"""

import select
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any, Final, TypeVar

from django.db import Error, InterfaceError, OperationalError, connections

from general_manager.escaping import get_logger

logger = get_logger(__name__)

Result = TypeVar("Result")

IDLE_SECONDS: Final = 10.0
"""A connection that we have not used for so long is asked, in one round trip, before it is used."""

PATIENCE_SECONDS: Final = 10.0
"""For so long an outcome is written again while the database cannot be reached: a restart or a
failover takes seconds, and what is not written is done again."""

_USED: Final = "_general_manager_used"
_IDLE, _UNKNOWN = 0, 4  # libpq's transaction states; between them: active, in one, in a failed one


def opened() -> Iterator[Any]:
    """The connections of this thread; those that were never asked for are not made."""
    yield from connections.all(initialized_only=True)


def in_transaction(connection: Any, *, ask: bool = False) -> bool:
    """Whether a transaction is open: a block of Django's, autocommit off, or a raw BEGIN.

    MySQL's client does not know the last; *ask* the server there, in one round trip.
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
    """Whether closing *connection* now would undo something, as far as can be known."""
    if connection.connection is None or is_dead(connection.connection):
        return False
    if connection.vendor == "postgresql":
        return _status(connection.connection) != _IDLE
    if connection.vendor == "sqlite":
        return bool(connection.connection.in_transaction)
    return _server_says(connection, default=not connection.autocommit)


def is_dead(raw: Any) -> bool:
    """Whether the driver knows that its connection *raw* is closed or broken; asks no server."""
    is_open = getattr(raw, "open", None)  # mysqlclient's
    return bool(getattr(raw, "closed", False)) or (is_open is not None and not is_open)


def has_died(connection: Any) -> bool:
    """Asks the server: MySQL's client does not know that it lost it. For use after an error."""
    raw = connection.connection
    return raw is None or is_dead(raw) or not _answers(connection)


def refresh(connection: Any) -> None:
    """Have *connection* made anew if it died. In a transaction, nothing is looked at."""
    if connection.connection is None or in_transaction(connection):
        return
    if _may_have_died(connection) and not _answers(connection):
        discard(connection, "the server has closed it, or does not answer")
    connection.errors_occurred = False
    setattr(connection, _USED, monotonic())


def discard(connection: Any, why: str) -> None:
    """Close *connection*, whatever state it is in; the next statement gets a new one."""
    logger.warning("Discarding the connection to database %r: %s", connection.alias, why)
    connection.in_atomic_block = connection.closed_in_transaction = False
    try:
        connection.close()
    except Exception:
        logger.debug("Closing the connection failed", exc_info=True)
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        connection.connection.rollback()  # to close it would drop the database
        connection.connection.isolation_level = None
        connection.autocommit = True
    else:
        connection.connection = None
    connection.atomic_blocks, connection.savepoint_ids, connection.run_on_commit = [], [], []
    connection.needs_rollback = connection.errors_occurred = False
    connection.run_commit_hooks_on_set_autocommit_on = False


class unit_of_work:  # noqa: N801 - used as a function is
    """One unit of work begins on sound connections, in autocommit, and leaves them so.

    A transaction that is open at the start is the caller's, and left alone; unless the unit is
    *outermost*, a worker's task, which has no caller: there it was left open by what ran before.
    What is open at the end, and was not at the start, was left by user code. Either is discarded.
    Costs no statement on a connection that works, and one round trip on MySQL and MariaDB.
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
                    "a transaction was left open by what ran before, or by a task's base class",
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
                refresh(connection)


def persist(
    using: str, write: Callable[[], Result], *, patience: float = PATIENCE_SECONDS
) -> Result:
    """Do *write*, again over a fresh connection if it was lost meanwhile; *write* may be repeated.

    While the database cannot be reached, it is tried for *patience* seconds. In a transaction that
    is open already it is done once: what is lost with that cannot be written alone.
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
            is_late = monotonic() - began > patience and not (is_lost and pause == 0)
            if is_late or not (is_lost or is_conflict(error)):
                raise
            logger.warning("Database %r: %s; trying again", using, error)
        if is_lost:
            discard(connection, "it was lost")
        sleep(pause)
        pause = min(2.0, pause * 2 or 0.1)


def is_lost_connection(error: BaseException) -> bool:
    """Whether *error*, or what it was raised from, says that a connection was lost or refused."""
    return any(isinstance(one, Error) and _is_lost(one) for one in origins(error))


def is_conflict(error: BaseException) -> bool:
    """Whether the database undid a transaction because of another one: it may be tried again."""
    return any(isinstance(one, Error) and _code(one) in _CONFLICTS for one in origins(error))


def origins(error: BaseException) -> Iterator[BaseException]:
    """*error*, what it was raised from and while handling, and all that is in groups of those."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def _may_have_died(connection: Any) -> bool:
    raw = connection.connection
    idle = monotonic() - getattr(connection, _USED, 0.0)
    return connection.errors_occurred or idle > IDLE_SECONDS or is_dead(raw) or _has_news(raw)


def _answers(connection: Any) -> bool:
    try:
        return bool(connection.is_usable())
    except Exception:  # noqa: BLE001 - what a broken connection raises when it is looked at
        return False


def _has_news(raw: Any) -> bool:
    """Whether an idle socket has something to read: the server's farewell, most likely."""
    try:
        if not hasattr(select, "poll"):
            return bool(select.select([raw.fileno()], [], [], 0)[0])
        poll = select.poll()
        poll.register(raw.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except AttributeError:  # SQLite has none
        return False
    except Exception:  # noqa: BLE001 - drivers raise what they like for a socket that is closed
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
    return int(raw.info.transaction_status)


def _server_says(connection: Any, *, default: bool) -> bool:
    """Whether MariaDB has a transaction open. MySQL cannot say: there it is rolled back."""
    try:
        if getattr(connection, "mysql_is_mariadb", False):
            with connection.connection.cursor() as cursor:
                cursor.execute("SELECT @@in_transaction")
                return bool(cursor.fetchone()[0])
        connection.connection.rollback()
    except Exception:  # noqa: BLE001 - a connection that cannot say is replaced
        connection.errors_occurred = True
    return default


def _is_lost(error: Error) -> bool:
    code = _code(error)
    if isinstance(code, str):
        return code[:2] == "08" or code in _LOST
    if code is None:  # psycopg's own: no server sent a code
        raw = error.__cause__
        return any(hasattr(raw, name) for name in ("sqlstate", "pgcode")) and isinstance(
            error, OperationalError | InterfaceError
        )
    return code in _LOST


def _code(error: Error) -> str | int | None:
    """PostgreSQL's SQLSTATE, the number of MySQL's or SQLite's error."""
    raw: Any = error.__cause__
    for name in ("sqlstate", "pgcode", "sqlite_errorcode"):
        if hasattr(raw, name):
            code: str | int | None = getattr(raw, name)
            return code & 0xFF if isinstance(code, int) else code
    first = error.args[0] if error.args else None
    return first if isinstance(first, int) else None


_CONFLICTS: Final = frozenset(
    {"40001", "40P01", "40003"}  # serialization failure, deadlock, unknown
    | {1205, 1213, 1020}  # MySQL and MariaDB: lock wait timeout, deadlock, changed since last read
    | {5, 6}  # SQLite: busy, locked
)
_LOST: Final = frozenset(
    {"57P01", "57P02", "57P03", "57P05", "25P03", "53300"}  # shut down, starting, idle, too many
    | {1040, 1053, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 4031}  # the server's side
    | {2002, 2003, 2005, 2006, 2013, 2014, 2026, 2055, 0}  # the client's
)
