"""Column types, the database's clock and partial indexes, the same on every database."""

from datetime import timedelta
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models.functions import Now
from django.db.models.lookups import Exact, In

from general_manager.workflow.core.ids import MAX_ID_LENGTH


class DatabaseNow(Now):
    """The database's clock, in UTC also where the server's session is in another zone."""

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)


def from_now(duration: timedelta) -> models.Expression:
    """The time *duration* from now, on the database's clock.

    SQLite compares times as texts, and writes a computed one with more digits: the present itself
    is not computed, or what is due now would be due a millisecond later.
    """
    if not duration:
        return DatabaseNow()
    return models.ExpressionWrapper(DatabaseNow() + duration, output_field=models.DateTimeField())


class _Unindexed(models.Func):
    """The text of a column, as an expression that no index has."""

    template = "%(expressions)s"

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="(%(expressions)s || '')", **extra)


def not_indexed(column: str, *values: str) -> Any:
    """A condition for rows that are found by their keys: *column* has one of *values*.

    PostgreSQL may believe that few rows are in a state, and look for a key among them. While a long
    transaction keeps dead entries, it would walk over those of all rows that were in that state.
    """
    text = _Unindexed(column, output_field=models.CharField())
    return Exact(text, values[0]) if len(values) == 1 else In(text, values)


class Ago:
    """A value for `insert_while`: the time *duration* ago, on the database's clock."""

    def __init__(self, duration: timedelta = timedelta(0)) -> None:
        self.duration = duration


class Utf8CharField(models.CharField):  # type: ignore[type-arg]  # generic for type checkers only
    """Text of any language, whatever the database's own character set; compared exactly.

    By default, MariaDB and MySQL treat ``a``, ``A`` and ``a `` as equal, and a database created
    with another character set than utf8mb4 refuses an emoji.
    """

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return _in_utf8(super().db_parameters(connection), connection)


class Utf8TextField(models.TextField):  # type: ignore[type-arg]  # generic for type checkers only
    """`Utf8CharField` for text of any length."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return _in_utf8(super().db_parameters(connection), connection)


class IdField(Utf8CharField):
    """An id or a name, with the maximum length that every index accepts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", MAX_ID_LENGTH)
        super().__init__(*args, **kwargs)


def _in_utf8(parameters: Any, connection: BaseDatabaseWrapper) -> Any:
    """Set the collation, which implies the character set: Django has no option for that."""
    if connection.vendor == "mysql":
        is_mariadb = getattr(connection, "mysql_is_mariadb", False)
        parameters["collation"] = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
    return parameters


class PartialIndex(models.Index):
    """A partial index; a plain index on databases without partial indexes.

    There, a range scan skips the NULLs of the other rows. SQLite compares no parameter of a
    statement with the condition of an index, so there *loose* replaces a condition with values.
    """

    def __init__(self, *expressions: Any, loose: models.Q | None = None, **options: Any) -> None:
        super().__init__(*expressions, **options)
        self.loose = loose

    def deconstruct(self) -> Any:
        path, expressions, options = super().deconstruct()
        return path, expressions, options | ({} if self.loose is None else {"loose": self.loose})

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        *args: Any,
        **kw: Any,
    ) -> Any:
        condition = self.condition
        if not schema_editor.connection.features.supports_partial_indexes:
            self.condition = None
        elif schema_editor.connection.vendor == "sqlite" and self.loose is not None:
            self.condition = self.loose
        try:
            return super().create_sql(model, schema_editor, *args, **kw)
        finally:
            self.condition = condition
