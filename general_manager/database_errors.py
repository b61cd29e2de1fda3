"""What the error of a database means, whichever database it is."""

from collections.abc import Iterator
from typing import Any, Final

from django.db import DataError, Error, IntegrityError, InterfaceError, OperationalError

UNPREPARED: Final = "_general_manager_unprepared"
"""An attribute of psycopg's error where the same statement works once it is not prepared."""


def is_lost_connection(error: BaseException) -> bool:
    """Whether *error*, or one of its causes, means that a connection was lost or refused."""
    return any(isinstance(one, Error) and _is_lost(one) for one in origins(error))


def is_conflict(error: BaseException) -> bool:
    """Whether the database rolled back for a cause from outside of it: it may be retried.

    Because of another transaction, or of a statement of ours that was no longer prepared.
    """
    return any(
        isinstance(one, Error) and (_code(one) in _CONFLICTS or hasattr(one.__cause__, UNPREPARED))
        for one in origins(error)
    )


def origins(error: BaseException) -> Iterator[BaseException]:
    """*error*, its causes and contexts, and the members of all groups among them."""
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


def may_be_the_sessions(error: Error) -> bool:
    """Whether the server may have refused it for a setting of the session, not for the data."""
    is_of_data = isinstance(error, DataError | IntegrityError) or is_conflict(error)
    return _code(error) is not None and not is_of_data


def _is_lost(error: Error) -> bool:
    code = _code(error)
    if isinstance(code, str):
        return code[:2] == "08" or code in _LOST
    if code is None:  # raised by psycopg itself: no code from a server
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
