"""A row as the database has it, read as plainly as it is written.

By primary key, on the write's connection, through no manager of the model's: without its filters,
joins, ordering, deferral and annotations, and without making an instance.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Field, Model, Q, QuerySet
from django.db.models.sql import Query

from general_manager.escaping import get_logger

logger = get_logger(__name__)
_unreadable: set[tuple[str, str]] = set()
_views: dict[tuple[str, str], bool] = {}

SMALL = 2**31
"""Keys below it are in the range of every integer field."""

MISSING: Any = object()
"""What a value is that its field cannot make of the column."""


def plain_rows(model: type[Model], using: str) -> QuerySet[Any]:
    """All rows of *model*, whatever its managers and its `Meta` make of them."""
    return QuerySet(model, using=using).order_by()


def lock_for_update(query: Query, using: str) -> None:
    """Lock what *query* reads as its UPDATE will, where the database can."""
    query.select_for_update = True
    query.select_for_no_key_update = connections[using].features.has_select_for_no_key_update


def is_view(model: type[Model], using: str) -> bool:
    """Whether *model* stands on a view: only a model that Django does not create can."""
    if model._meta.managed:
        return False
    name = (using, model._meta.db_table)
    if name not in _views:
        connection = connections[using]
        with connection.cursor() as cursor:
            tables = connection.introspection.get_table_list(cursor)
        _views[name] = any(one.name == name[1] and one.type == "v" for one in tables)
    return _views[name]


def key_values(instance: Model, model: type[Model]) -> dict[str, Any] | None:
    """The key by which *model* knows *instance*; `None` if it has none yet."""
    key = {one.attname: getattr(instance, one.attname) for one in model._meta.pk_fields}
    unknown = any(one is None or hasattr(one, "resolve_expression") for one in key.values())
    return None if unknown else key


class Columns:
    """Some columns of one model's rows, and how to read them."""

    def __init__(self, model: type[Model], fields: Sequence["Field[Any, Any]"]) -> None:
        self.model = model
        self.fields = tuple(fields)
        self._by_key: dict[tuple[str, str, str], str] = {}
        self.places = {one.attname: place for place, one in enumerate(self.fields)}

    @cached_property
    def _query(self) -> Query:
        rows: QuerySet[Any] = QuerySet(self.model).order_by()
        return rows.values_list(*(one.attname for one in self.fields)).query

    def read(self, using: str, key: Mapping[str, Any], *, lock: str = "") -> "StoredRow | None":
        """The row of that *key*; `None` if there is none, or if its fields refuse the key.

        *lock* is ``"update"`` or ``"delete"``, for what will be done to the row.
        """
        connection = connections[using]
        parameters = self._parameters(key, connection)
        statement = (using, lock, self.model._meta.db_table)
        sql = self._by_key.get(statement) if parameters is not None else None
        if sql is None:
            compiled = self._compile(using, Q(**key), lock)
            if compiled is None:
                return None
            sql, compiled_parameters = compiled
            if parameters is not None and tuple(compiled_parameters) == parameters:
                self._by_key[statement] = sql  # any other key changes the parameters alone
            parameters = tuple(compiled_parameters)
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            raw = cursor.fetchone()
        return None if raw is None else StoredRow(self, connection, raw)

    def _parameters(self, key: Mapping[str, Any], connection: Any) -> tuple[Any, ...] | None:
        """What stands for *key* in the statement; `None` for what only Django's compiler knows."""
        found = []
        for field in self.model._meta.pk_fields:
            value = key[field.attname]
            if isinstance(value, int) and not -SMALL < value < SMALL:
                return None  # there may be no row with such a key, and no statement then
            try:
                found.append(field.get_db_prep_value(value, connection, prepared=False))
            except Exception:  # noqa: BLE001 - the field is the user's code
                return None
        return tuple(found)

    def read_where(self, using: str, condition: Q, *, lock: str = "") -> Iterator["StoredRow"]:
        compiled = self._compile(using, condition, lock)
        if compiled is None:
            return
        connection = connections[using]
        with connection.cursor() as cursor:
            cursor.execute(*compiled)
            found = cursor.fetchall()
        for raw in found:
            yield StoredRow(self, connection, raw)

    def _compile(self, using: str, condition: Q, lock: str) -> Any:
        query = self._query.chain()
        if lock and is_view(self.model, using):
            lock = ""  # what its triggers or rules change, they lock
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
            # A key that its own field does not take back: the write itself may have taken it.
            logger.debug("No look-up in %s by %s", self.model._meta.label, condition, exc_info=True)
            return None

    def convert(self, raw: Any, place: int, connection: Any) -> Any:
        """What the field makes of the *raw* column; `MISSING` if it cannot, with a warning once."""
        expression: Any = self._query.select[place]
        try:
            for converter in (
                *connection.ops.get_db_converters(expression),
                *expression.get_db_converters(connection),
            ):
                raw = converter(raw, expression, connection)
        except Exception:
            about = (self.model._meta.label, self.fields[place].name)
            if about not in _unreadable:
                _unreadable.add(about)
                logger.warning(
                    "%s.%s cannot be read back from the database; events leave it out",
                    *about,
                    exc_info=True,
                )
            return MISSING
        return raw


class StoredRow:
    """One row as the driver gave it; a value is converted when it is asked for."""

    __slots__ = ("_columns", "_connection", "_raw")

    def __init__(self, columns: Columns, connection: Any, raw: Sequence[Any]) -> None:
        self._columns = columns
        self._connection = connection
        self._raw = raw

    def raw(self, fields: Sequence["Field[Any, Any]"]) -> list[Any]:
        """What the driver gave for *fields*, not converted."""
        raw, places = self._raw, self._columns.places
        return [raw[places[one.attname]] for one in fields]

    def value(self, field: "Field[Any, Any]") -> Any:
        """What *field* makes of its column; `MISSING` if it cannot."""
        place = self._columns.places[field.attname]
        return self._columns.convert(self._raw[place], place, self._connection)

    def values(self, fields: Sequence["Field[Any, Any]"]) -> dict[str, Any]:
        """By field name, without what cannot be read."""
        found = ((one.name, self.value(one)) for one in fields)
        return {name: value for name, value in found if value is not MISSING}
