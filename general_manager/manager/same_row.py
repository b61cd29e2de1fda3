"""Compare a row as read before and after a write."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Field, Model

from general_manager.guarding import attempt
from general_manager.manager.change import FieldChange, read_values
from general_manager.manager.equality import same
from general_manager.manager.stored import MISSING, StoredRow

Fields = Sequence["Field[Any, Any]"]


def written_values(
    fields: Fields, after: StoredRow | None, instance: Model | None
) -> dict[str, Any]:
    """The row's current values by field name; the instance's where it cannot be read."""
    if after is not None:
        return after.values(fields)
    return {} if instance is None else read_values(instance, {one.name for one in fields})


def changed_values(
    fields: Fields, before: StoredRow, after: StoredRow | None, instance: Model | None
) -> dict[str, FieldChange]:
    """The values by field name, without unreadable ones.

    Columns whose raw value is unchanged are not converted.
    """
    if after is None:
        written = written_values(fields, None, instance)
        pairs = [(one, before.value(one), written.get(one.name, MISSING)) for one in fields]
    else:
        raw = zip(fields, before.raw(fields), after.raw(fields), strict=True)
        pairs = [
            (one, before.value(one), after.value(one))
            for one, old, new in raw
            if old is not new and not _is_untouched(old, new)
        ]
    return {
        one.name: FieldChange(old, new)
        for one, old, new in pairs
        if old is not MISSING and new is not MISSING and not same(old, new, one)
    }


def identity(
    key: Sequence[tuple[str, "Field[Any, Any]"]], row: StoredRow | None, instance: Model | None
) -> dict[str, Any]:
    """The row's stored key; `None` if the database did not return the generated key."""
    found = {}
    for name, field in key:
        value = MISSING if row is None else row.value(field)
        if value is MISSING:
            value = getattr(instance, name, None)
        found[name] = None if hasattr(value, "resolve_expression") else value
    return found


def _is_untouched(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return False
    return attempt(lambda: (old == new) is True, otherwise=False)  # values of any class
