"""What the tables' columns and clocks share on every database."""

from datetime import timedelta
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models.functions import Now

from general_manager.workflow.ids import MAX_ID_LENGTH


class DatabaseNow(Now):
    """The database's clock, in UTC also where the server's session is in another zone."""

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra)


def in_(duration: timedelta) -> models.Expression:
    """That long from now, on the database's clock."""
    return models.ExpressionWrapper(DatabaseNow() + duration, output_field=models.DateTimeField())


class Ago:
    """In `insert_while`: so long ago on the database's clock, by a duration measured here."""

    def __init__(self, duration: timedelta = timedelta(0)) -> None:
        self.duration = duration


class Utf8CharField(models.CharField):  # type: ignore[type-arg]
    """Text of any language, whatever the database's own character set; compared exactly.

    MariaDB and MySQL usually take ``a`` for ``A``, and ``a `` for ``a``; a database that was
    made with another character set than utf8mb4 would refuse an emoji.
    """

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return _in_utf8(super().db_parameters(connection), connection)


class Utf8TextField(models.TextField):  # type: ignore[type-arg]
    """The same for texts of any length."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return _in_utf8(super().db_parameters(connection), connection)


class IdField(Utf8CharField):
    """An id or a name, as long as an index takes it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", MAX_ID_LENGTH)
        super().__init__(*args, **kwargs)


def _in_utf8(parameters: Any, connection: BaseDatabaseWrapper) -> Any:
    """A collation names its character set, and is all that Django lets a column say."""
    if connection.vendor == "mysql":
        is_mariadb = getattr(connection, "mysql_is_mariadb", False)
        parameters["collation"] = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
    return parameters


class OwedIndex(models.Index):
    """An index on the rows that still have a time in their one timing column.

    Partial where the database has that; elsewhere a plain index, whose NULLs a range scan skips.
    """

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        *args: Any,
        **kw: Any,
    ) -> Any:
        if schema_editor.connection.features.supports_partial_indexes:
            return super().create_sql(model, schema_editor, *args, **kw)
        condition, self.condition = self.condition, None
        try:
            return super().create_sql(model, schema_editor, *args, **kw)
        finally:
            self.condition = condition
