"""What to say when our tables are not there, as in a migration that runs before ours."""

from typing import Final

from django.db import DatabaseError, connections, models

UNDEFINED_TABLE: Final = "42P01"
"""PostgreSQL's code for a table that is not there."""
NO_SUCH_TABLE: Final = 1146
"""MariaDB's and MySQL's."""

_FIND_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"

FIRST_MIGRATION: Final = "0001_workflow_tables"


def explained(error: DatabaseError, model: type[models.Model], using: str) -> DatabaseError | None:
    """An error of the same class that says what to do, if the table of *model* is missing."""
    if not _is_missing(error, model, using):
        return None
    label, table = model._meta.app_label, model._meta.db_table
    return type(error)(
        f"There is no table {table} on database {using!r}, so what is tracked, published or "
        f"started there cannot be stored. Run manage.py migrate --database={using}. A migration "
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
    # SQLite has one code for every mistake in a statement. It can be asked, also after one; past
    # Django, which refuses that in a transaction that is to be rolled back.
    raw = connection.connection
    name = (model._meta.db_table,)
    return raw is not None and not raw.execute(_FIND_TABLE, name).fetchone()
