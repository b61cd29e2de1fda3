"""Explain the database's error if our tables are missing, as in a migration that runs too early."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.db import DatabaseError, OperationalError, ProgrammingError, connections, models

UNDEFINED_TABLE: Final = "42P01"
"""PostgreSQL's code for a missing table."""
NO_SUCH_TABLE: Final = 1146
"""MariaDB's and MySQL's code for a missing table."""

_FIND_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"

FIRST_MIGRATION: Final = "0001_workflow_tables"


@contextmanager
def explaining(model: type[models.Model], using: str) -> Iterator[None]:
    """If the table of *model* is missing, make the database's error say what to do."""
    try:
        yield
    except (OperationalError, ProgrammingError) as error:
        plainer = _explained(error, model, using)
        if plainer is None:
            raise
        raise plainer from error


def _explained(error: DatabaseError, model: type[models.Model], using: str) -> DatabaseError | None:
    if not _is_missing(error, model, using):
        return None
    label, table = model._meta.app_label, model._meta.db_table
    return type(error)(
        f"Table {table} is missing on database {using!r}, so events and executions cannot be "
        f"stored there. Run manage.py migrate --database={using}. A migration "
        "that saves tracked models, publishes events or starts workflows must have "
        f"({label!r}, {FIRST_MIGRATION!r}) among its dependencies."
    )


def _is_missing(error: DatabaseError, model: type[models.Model], using: str) -> bool:
    connection = connections[using]
    cause = error.__cause__
    if connection.vendor == "postgresql":
        code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        return code == UNDEFINED_TABLE
    if connection.vendor == "mysql":
        return error.args[:1] == (NO_SUCH_TABLE,)
    # SQLite has one code for all errors in a statement, so look for the table. Not through Django,
    # which refuses queries in a transaction that must be rolled back.
    raw = connection.connection
    name = (model._meta.db_table,)
    return raw is not None and not raw.execute(_FIND_TABLE, name).fetchone()
