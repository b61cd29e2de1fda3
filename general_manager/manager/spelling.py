"""Rows found by their keys, however a caller spells these: ``"5"`` for 5, a UUID as text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.db import connections
from django.db.models import Field, Model

from general_manager.guarding import attempt
from general_manager.manager.stored import StoredRow

Key = tuple[Any, ...]


class Rows:
    """Rows of *model* that the database found by a caller's keys."""

    def __init__(self, model: type[Model], using: str, rows: Iterable[StoredRow]) -> None:
        self._fields: Sequence[Field[Any, Any]] = model._meta.pk_fields
        self._connection = connections[using]
        self._rows = {stored_key(model, row): row for row in rows}
        self._by_value = {
            tuple(_comparable(row.value(one)) for one in self._fields): row
            for row in self._rows.values()
        }

    def find(self, key: Any) -> StoredRow | None:
        """The row with *key*, read as its field reads it, or else written as it writes it."""
        values = key if len(self._fields) > 1 else (key,)
        given = list(zip(self._fields, values, strict=True))
        row = self._by_value.get(tuple(_comparable(as_read(one, value)) for one, value in given))
        if row is None:
            written = (self._write(one, value) for one, value in given)
            row = self._rows.get(tuple(map(_comparable, written)))
        return row

    def in_order_of(self, keys: Iterable[Any]) -> Iterator[StoredRow]:
        """Each row once; last those whose keys only the database finds equal to one of *keys*."""
        found = dict.fromkeys(row for row in map(self.find, keys) if row is not None)
        return iter(dict.fromkeys([*found, *self._rows.values()]))

    def _write(self, field: "Field[Any, Any]", value: Any) -> Any:
        return attempt(lambda: field.get_db_prep_value(value, self._connection), value)


def stored_key(model: type[Model], row: StoredRow) -> Key:
    """The key as the driver returned it."""
    return tuple(map(_comparable, row.raw(model._meta.pk_fields)))


def written_key(model: type[Model], key: Iterable[Any]) -> Key:
    """*key* as its fields write it, so that keys of any class can be compared."""
    fields = zip(model._meta.pk_fields, key, strict=True)
    return tuple(_comparable(_written(one, value)) for one, value in fields)


def _written(field: "Field[Any, Any]", value: Any) -> Any:
    return attempt(lambda: field.get_prep_value(value), value)


def as_read(field: "Field[Any, Any]", value: Any) -> Any:
    """*value* as its field reads it, or as it is if the field refuses it."""
    return attempt(lambda: field.to_python(value), value)


def _comparable(value: Any) -> Any:
    """*value*, or its text if it has no hash: a key may be of any class."""
    return value if attempt(lambda: isinstance(hash(value), int), otherwise=False) else repr(value)
