"""A stored row, read without any manager of its model.

Reads by primary key on the write's connection: no filters, joins, ordering, deferral or
annotations of a manager, and no instance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, Final

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Field, Model, Q, QuerySet
from django.db.models.sql import Query

from general_manager.cursors import cursor_on
from general_manager.escaping import get_logger
from general_manager.guarding import attempt
from general_manager.tables import is_view

logger = get_logger(__name__)
_unreadable: set[tuple[str, str]] = set()
UNREADABLE: Final = "%s.%s cannot be converted from its stored value; events omit the field"

SMALL = 2**31
"""Every integer field accepts smaller keys."""

MISSING: Any = object()
"""Stands for a column that cannot be made a value."""

UNLOADED: Any = object()
"""Stands for a row with a column that the driver cannot load."""


def plain_rows(model: type[Model], using: str) -> QuerySet[Any]:
    """All rows of *model*, regardless of its managers and `Meta`."""
    return QuerySet(model, using=using).order_by()


def lock_for_update(query: Query, using: str) -> None:
    """Lock the rows of *query* as its UPDATE will, if the database can."""
    query.select_for_update = True
    query.select_for_no_key_update = connections[using].features.has_select_for_no_key_update


def key_values(instance: Model, model: type[Model]) -> dict[str, Any] | None:
    """The key of *instance* in *model*'s table; `None` if it has none yet."""
    key = sought_key(instance, model)
    if key is None or any(hasattr(one, "resolve_expression") for one in key.values()):
        return None
    return key


def sought_key(instance: Model, model: type[Model]) -> dict[str, Any] | None:
    """The key by which a save looks for the row: it can contain expressions.

    `None` if there is none.
    """
    key = {one.attname: getattr(instance, one.attname) for one in model._meta.pk_fields}
    if all(one is not None for one in key.values()):
        return key
    [name, *others] = key
    linked = None if others else _link_to(instance, model)
    return None if linked is None else {name: linked}


def _link_to(instance: Model, model: type[Model]) -> Any:
    """The value of the link to the parent *model*, which Django's save makes that parent's key."""
    for child in (type(instance), *type(instance)._meta.all_parents):
        link: Any = child._meta.parents.get(model)
        if link is not None:
            value = getattr(instance, link.attname)
            return _link_to(instance, child) if value is None and link.primary_key else value
    return None


def take_write_lock(model: type[Model], using: str) -> None:
    """On SQLite, upgrade Django's transaction to a write transaction before it reads.

    After a read SQLite refuses the upgrade at once if another connection has written.
    """
    connection = connections[using]
    if connection.vendor != "sqlite" or not model._meta.managed:
        return
    if connection.transaction_mode is None:  # type: ignore[attr-defined]  # SQLite only
        table = connection.ops.quote_name(model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table} WHERE 0")  # noqa: S608 - a quoted table name


def is_unread(field: "Field[Any, Any]", instance: Model) -> bool:
    """Whether *field* of *instance* was deferred because its column cannot be read."""
    known = (instance._meta.label, field.name) in _unreadable
    return known and field.attname not in instance.__dict__


class Columns:
    """Reads some columns of one model's rows."""

    def __init__(self, model: type[Model], fields: Sequence["Field[Any, Any]"]) -> None:
        self.model = model
        self.fields = tuple(fields)
        self._by_key: dict[tuple[str, str, str], str] = {}
        self.places = {one.attname: place for place, one in enumerate(self.fields)}

    @cached_property
    def _keys(self) -> list[Any]:
        """The key's fields in the order in which `Q` makes conditions of them."""
        return sorted(self.model._meta.pk_fields, key=attrgetter("attname"))

    @cached_property
    def _query(self) -> Query:
        rows: QuerySet[Any] = QuerySet(self.model).order_by()
        return rows.values_list(*(one.attname for one in self.fields)).query

    def read(self, using: str, key: Mapping[str, Any], *, lock: str = "") -> "StoredRow | None":
        """The row with *key*; `None` if there is none, or if its fields reject the key.

        *lock* is ``"update"`` or ``"delete"``, according to the write that follows.
        """
        connection = connections[using]
        parameters = self._parameters(key, connection)
        statement = (using, lock, self.model._meta.db_table)
        sql = self._by_key.get(statement) if parameters is not None else None
        if sql is None:
            compiled = self.compiled(using, Q(**key), lock)
            if compiled is None:
                return None
            sql, compiled_parameters = compiled
            if parameters is not None and _are_alike(parameters, compiled_parameters):
                self._by_key[statement] = sql  # other keys change only the parameters
            parameters = tuple(compiled_parameters)
        with cursor_on(connection) as cursor:
            cursor.execute(sql, parameters)
            raw = attempt(cursor.fetchone, UNLOADED)
        if raw is UNLOADED:
            return self._read_each(using, key, lock)
        return None if raw is None else StoredRow(self, connection, raw)

    def read_of(
        self,
        instance: Model,
        using: str,
        *,
        lock: str = "",
        key_of: Callable[[Model, type[Model]], dict[str, Any] | None] = key_values,
    ) -> "StoredRow | None":
        """The row of *instance*; `None` if there is none, or if it has no key."""
        key = key_of(instance, self.model)
        return None if key is None else self.read(using, key, lock=lock)

    def _read_each(self, using: str, key: Mapping[str, Any], lock: str) -> "StoredRow | None":
        """Column by column, as the driver cannot load one of them; `MISSING` for that one."""
        raw: list[Any] = []
        connection = connections[using]
        for field in self.fields:
            compiled = Columns(self.model, [field]).compiled(using, Q(**key), lock)
            with cursor_on(connection) as cursor:
                cursor.execute(*compiled)
                row: Any = attempt(cursor.fetchone, (MISSING,))
            if row is None:
                return None
            raw.append(row[0])
        return StoredRow(self, connection, raw)

    def _parameters(self, key: Mapping[str, Any], connection: Any) -> tuple[Any, ...] | None:
        """The statement's parameters for *key*; `None` if only Django's compiler can tell."""
        found = []
        for field in self._keys:
            value = key[field.attname]
            if isinstance(value, int) and not -SMALL < value < SMALL:
                return None  # no row can have such a key, so there is no statement
            if hasattr(value, "resolve_expression"):
                return None
            try:
                found.append(field.get_db_prep_value(value, connection, prepared=False))
            except Exception:  # noqa: BLE001 - the field is the user's code
                return None
        return tuple(found)

    def read_where(self, using: str, condition: Q, *, lock: str = "") -> Iterator["StoredRow"]:
        compiled = self.compiled(using, condition, lock)
        if compiled is None:
            return
        connection = connections[using]
        with connection.cursor() as cursor:
            cursor.execute(*compiled)
            found = cursor.fetchall()
        for raw in found:
            yield StoredRow(self, connection, raw)

    def compiled(self, using: str, condition: Q, lock: str) -> Any:
        query = self._query.chain()
        if lock and is_view(self.model, using):
            lock = ""  # its triggers or rules lock what they change
        if lock == "update":
            lock_for_update(query, using)
        elif lock:
            query.select_for_update = True
        try:
            query.add_q(condition)
            return query.get_compiler(using).as_sql()
        except EmptyResultSet:
            return None
        except Exception:
            # The field rejects its own key; the write itself may have accepted it.
            logger.debug("Cannot find %s by %s", self.model._meta.label, condition, exc_info=True)
            return None

    def convert(self, raw: Any, place: int, connection: Any) -> Any:
        """The converted *raw* column.

        `MISSING` and one warning if the driver cannot load it, or the field cannot convert it.
        """
        expression: Any = self._query.select[place]
        if raw is MISSING:
            if about := self._unreadable(place):
                logger.warning(UNREADABLE, *about)
            return MISSING
        try:
            for converter in (
                *connection.ops.get_db_converters(expression),
                *expression.get_db_converters(connection),
            ):
                raw = converter(raw, expression, connection)
        except Exception:
            if about := self._unreadable(place):
                logger.warning(UNREADABLE, *about, exc_info=True)
            return MISSING
        return raw

    def _unreadable(self, place: int) -> tuple[str, str] | None:
        """Model and field of that column, the first time."""
        about = (self.model._meta.label, self.fields[place].name)
        if about in _unreadable:
            return None
        _unreadable.add(about)
        return about


def _are_alike(given: Sequence[Any], compiled: Sequence[Any]) -> bool:
    """Whether these are the same parameters in the same order, which equal ones do not tell."""
    are_distinct = all(one not in given[:place] for place, one in enumerate(given))
    return are_distinct and tuple(compiled) == tuple(given)


class StoredRow:
    """One row as the driver returned it; values are converted on access."""

    __slots__ = ("_columns", "_connection", "_raw")

    def __init__(self, columns: Columns, connection: Any, raw: Sequence[Any]) -> None:
        self._columns = columns
        self._connection = connection
        self._raw = raw

    def raw(self, fields: Sequence["Field[Any, Any]"]) -> list[Any]:
        """The raw values of *fields*."""
        raw, places = self._raw, self._columns.places
        return [raw[places[one.attname]] for one in fields]

    def value(self, field: "Field[Any, Any]") -> Any:
        """The converted value of *field*; `MISSING` if it cannot be converted."""
        place = self._columns.places[field.attname]
        return self._columns.convert(self._raw[place], place, self._connection)

    def values(self, fields: Sequence["Field[Any, Any]"]) -> dict[str, Any]:
        """The values by field name, without unreadable ones."""
        found = ((one.name, self.value(one)) for one in fields)
        return {name: value for name, value in found if value is not MISSING}
