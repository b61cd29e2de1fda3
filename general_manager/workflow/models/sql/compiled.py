"""Compiled statements for the hot paths: built by the ORM once, run with new values.

The ORM needs more time to compile such a statement than a database needs to run it.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

from django.db import connections, models, transaction
from django.db.models.expressions import Expression
from django.db.models.sql import UpdateQuery

from general_manager.cursors import cursor_on
from general_manager.workflow.models.sql.columns import Ago
from general_manager.workflow.models.sql.commits import without_waiting
from general_manager.workflow.models.sql.conversion import Conversion
from general_manager.workflow.models.sql.inserts import DURATION, ago_sql, unless_taken

Row = TypeVar("Row", bound=models.Model)


class Slot(Expression):
    """A placeholder in a statement for a value that is given when the statement runs."""

    def __init__(self, name: str, output_field: "models.Field[Any, Any] | None" = None) -> None:
        super().__init__(output_field=output_field or models.CharField())
        self.name = name

    def as_sql(self, *_: Any, **__: Any) -> Any:
        return "%s", [self]


class Statement(NamedTuple):
    """A write with its values, which can run together with others."""

    sql: str
    parameters: Sequence[Any]
    joint: str = " AND "
    """What joins a further condition to it."""
    end: str = ""
    """What follows its conditions."""


class CompiledUpdate(Generic[Row]):
    """One conditional UPDATE.

    *build* gets all rows of a table and the constants. It returns the rows to change and the values
    to set; both may contain a `Slot`. It is called once for each database and constants. *fetched*
    names the fields that `take` returns; other fields are deferred.
    """

    def __init__(
        self,
        build: Callable[..., tuple["models.QuerySet[Row]", dict[str, Any]]],
        *,
        fetched: Collection[str] = (),
    ) -> None:
        self._build = build
        self._fetched = frozenset(fetched)
        self._compiled: dict[Hashable, _Compiled[Row]] = {}

    def run(self, table: "models.QuerySet[Row]", *constants: Hashable, **slots: Any) -> int:
        """Returns how many rows of *table* it matched."""
        return self._for(table, constants).run(slots)

    def statement(
        self, table: "models.QuerySet[Row]", *constants: Hashable, **slots: Any
    ) -> Statement:
        """The UPDATE, for `run_together`."""
        return self._for(table, constants).statement(slots)

    def take(self, table: "models.QuerySet[Row]", *constants: Hashable, **slots: Any) -> Row | None:
        """The one row it matched, as it is now; only for databases with `can_fetch`.

        For claims only: if the database crashes before a later commit, the write may be lost.
        """
        return next(iter(self.take_all(table, *constants, **slots)), None)

    def take_all(
        self, table: "models.QuerySet[Row]", *constants: Hashable, **slots: Any
    ) -> list[Row]:
        """`take` for several rows."""
        return self._for(table, constants).fetch(slots, without_waiting(table.db))

    def fetch(
        self, table: "models.QuerySet[Row]", *constants: Hashable, **slots: Any
    ) -> Row | None:
        """`take`, for a write that is durable once this returns."""
        return next(iter(self.fetch_all(table, *constants, **slots)), None)

    def fetch_all(
        self, table: "models.QuerySet[Row]", *constants: Hashable, **slots: Any
    ) -> list[Row]:
        """`fetch` for several rows."""
        return self._for(table, constants).fetch(slots)

    def _for(
        self, table: "models.QuerySet[Row]", constants: tuple[Hashable, ...]
    ) -> "_Compiled[Row]":
        key = (table.db, constants)
        if key not in self._compiled:
            rows = table.model._default_manager.using(table.db).all()
            built = self._build(rows, *constants)
            self._compiled[key] = _Compiled(table.db, *built, self._fetched)
        return self._compiled[key]


def can_fetch(using: str) -> bool:
    """Whether the database has UPDATE ... RETURNING; MariaDB and MySQL do not."""
    connection = connections[using]
    return connection.vendor != "mysql" and bool(connection.features.can_return_columns_from_insert)


class CompiledSelect(Generic[Row]):
    """One SELECT.

    *build* gets all rows of a table and the constants, and returns the rows to read, as instances
    or by `values_list`; their conditions may contain a `Slot`. It is called once for each database
    and constants. A locking one must be run in a transaction, which only its first run checks.
    """

    def __init__(self, build: Callable[..., "models.QuerySet[Row, Any]"]) -> None:
        self._build = build
        self._compiled: dict[Hashable, _Selected] = {}

    def rows(self, table: "models.QuerySet[Row]", *constants: Hashable, **slots: Any) -> list[Any]:
        """The rows, in the database of *table*."""
        key = (table.db, constants)
        if key not in self._compiled:
            rows = table.model._default_manager.using(table.db).all()
            self._compiled[key] = _Selected(table.db, self._build(rows, *constants))
        return self._compiled[key].run(slots)


class _Selected:
    def __init__(self, using: str, rows: "models.QuerySet[Any, Any]") -> None:
        self._using = using
        compiler: Any = rows.query.get_compiler(using)
        sql, parameters = compiler.as_sql()
        self._sql, self._parameters = _inlined(sql, parameters, using)
        columns = [expression for expression, *_ in compiler.select]
        self._conversion = Conversion(columns, using)
        is_of_values = rows._fields is not None  # type: ignore[attr-defined]  # values_list
        self._model = None if is_of_values else rows.model
        self._names = [one.target.attname for one in columns] if self._model else []

    def run(self, slots: Mapping[str, Any]) -> list[Any]:
        with cursor_on(connections[self._using]) as cursor:
            cursor.execute(self._sql, _filled(self._parameters, slots, self._using))
            rows = cursor.fetchall()
        if not rows:
            return []
        found = self._conversion.of(rows)
        model = self._model
        if model is None:
            return [tuple(row) for row in found]
        return [model.from_db(self._using, self._names, row) for row in found]


def run_together(using: str, first: Statement, *others: Statement) -> bool:
    """Run *first*, and if it matches a row, the *others*; returns whether it did.

    In one statement on PostgreSQL, so no two of them may write to one row; else one by one, so the
    caller has a transaction around them there.
    """
    connection = connections[using]
    with cursor_on(connection) as cursor:
        if connection.vendor == "postgresql":
            parts = [f"{first.sql}{first.end} RETURNING 1"]
            parts += [f"{one.sql}{one.joint}EXISTS (SELECT FROM w0){one.end}" for one in others]
            named = ", ".join(f"w{place} AS ({part})" for place, part in enumerate(parts))
            parameters = [value for one in (first, *others) for value in one.parameters]
            cursor.execute(f"WITH {named} SELECT EXISTS (SELECT FROM w0)", parameters)
            [has_matched] = cursor.fetchone()
            return bool(has_matched)
        for one in (first, *others):
            cursor.execute(one.sql + one.end, one.parameters)
            if one is first and cursor.rowcount == 0:
                return False
    return True


def together(using: str) -> AbstractContextManager[Any]:
    """A transaction for one `run_together`, where it needs one."""
    is_one = connections[using].vendor == "postgresql"
    return nullcontext() if is_one else transaction.atomic(using=using)


def inserting(
    model: type[models.Model], values: Mapping[str, Any], using: str, *, unless: Sequence[str] = ()
) -> Statement:
    """The INSERT of one row; a field without a value gets the default of its column.

    A value may be an `Ago`. No row if one is there with the same fields *unless*, which are unique
    together; MariaDB raises an error then.
    """
    names, connection = tuple(values), connections[using]
    times = frozenset(name for name, value in values.items() if isinstance(value, Ago))
    prepared = [
        DURATION.get_db_prep_value(value.duration, connection)
        if name in times
        else field.get_db_prep_save(value, connection)
        for field, (name, value) in zip(_named(model, names), values.items(), strict=True)
    ]
    end = f" {unless_taken(_named(model, tuple(unless)), connection)}" if unless else ""
    return Statement(_inserting(model, names, times, using), prepared, " WHERE ", end)


@cache
def _named(model: type[models.Model], names: tuple[str, ...]) -> list[Any]:
    """The fields with these names, or the columns' names of foreign keys."""
    known: dict[str, Any] = {}
    for field in model._meta.concrete_fields:
        known |= {field.name: field, field.attname: field}
    return [known[name] for name in names]


@cache
def _inserting(
    model: type[models.Model], names: tuple[str, ...], times: frozenset[str], using: str
) -> str:
    quote = connections[using].ops.quote_name
    columns = ", ".join(quote(one.column) for one in _named(model, names))
    places = ", ".join(ago_sql(model, using) if one in times else "%s" for one in names)
    return f"INSERT INTO {quote(model._meta.db_table)} ({columns}) SELECT {places}"


def _inlined(sql: str, parameters: Sequence[Any], using: str) -> tuple[str, list[Any]]:
    """The statement with its constants in it, so that the driver need not adapt them each time."""
    connection: Any = connections[using]
    if connection.vendor != "postgresql":
        return sql, list(parameters)
    first, *others = sql.split("%s")
    parts = [first]
    slots: list[Any] = []
    for value, part in zip(parameters, others, strict=True):
        if isinstance(value, Slot):
            slots.append(value)
            parts.append("%s")
        else:
            parts.append(connection.ops.compose_sql("%s", [value]).replace("%", "%%"))
        parts.append(part)
    return "".join(parts), slots


def _filled(parameters: Sequence[Any], slots: Mapping[str, Any], using: str) -> list[Any]:
    connection = connections[using]
    return [
        one.output_field.get_db_prep_save(slots[one.name], connection)
        if isinstance(one, Slot)
        else one
        for one in parameters
    ]


class _Compiled(Generic[Row]):
    def __init__(
        self,
        using: str,
        rows: "models.QuerySet[Row]",
        values: dict[str, Any],
        fetched: frozenset[str],
    ) -> None:
        query: Any = rows.query.chain(UpdateQuery)
        query.add_update_values(values)
        compiler = query.get_compiler(using)
        self._model = rows.model
        self._using = using
        sql, parameters = compiler.as_sql()
        self._sql, self._parameters = _inlined(sql, parameters, using)
        table = rows.model._meta.db_table
        fields: Any = [one for one in rows.model._meta.concrete_fields if one.name in fetched]
        self._names = [field.attname for field in fields]
        quote = connections[using].ops.quote_name
        self._returning = " RETURNING " + ", ".join(quote(field.column) for field in fields)
        self._conversion = Conversion([field.get_col(table) for field in fields], using)

    def statement(self, slots: dict[str, Any]) -> Statement:
        return Statement(self._sql, _filled(self._parameters, slots, self._using))

    def run(self, slots: dict[str, Any]) -> int:
        with cursor_on(connections[self._using]) as cursor:
            cursor.execute(self._sql, _filled(self._parameters, slots, self._using))
            return int(cursor.rowcount)

    def fetch(self, slots: dict[str, Any], commit: str = "") -> list[Row]:
        sql = self._sql + self._returning + commit
        with cursor_on(connections[self._using]) as cursor:
            cursor.execute(sql, _filled(self._parameters, slots, self._using))
            rows = [row[: len(self._names)] for row in cursor.fetchall()]
        found = self._conversion.of(rows) if rows else []
        return [self._model.from_db(self._using, self._names, row) for row in found]
