"""What became of a row that was read before and after."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Field, Model

from general_manager.manager.change import FieldChange, read_values
from general_manager.manager.equality import same
from general_manager.manager.stored import MISSING, StoredRow

Fields = Sequence["Field[Any, Any]"]


def written_values(
    fields: Fields, after: StoredRow | None, instance: Model | None
) -> dict[str, Any]:
    """What the row has now, by field name; where it cannot be read, what the instance says."""
    if after is not None:
        return after.values(fields)
    return {} if instance is None else read_values(instance, {one.name for one in fields})


def changed_values(
    fields: Fields, before: StoredRow, after: StoredRow | None, instance: Model | None
) -> dict[str, FieldChange]:
    """By field name; what cannot be read is left out.

    Columns that the driver gives back as they were are not converted at all.
    """
    written = written_values(fields, None, instance) if after is None else {}
    changes = {}
    for field in fields:
        if after is None:
            new = written.get(field.name, MISSING)
        elif _is_untouched(before.raw(field), after.raw(field)):
            continue
        else:
            new = after.value(field)
        old = before.value(field)
        if old is MISSING or new is MISSING or same(old, new, field):
            continue
        changes[field.name] = FieldChange(old, new)
    return changes


def identity(
    key: Sequence[tuple[str, "Field[Any, Any]"]], row: StoredRow | None, instance: Model | None
) -> dict[str, Any]:
    """The row's key as the database has it; `None` where the database did not say what it made."""
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
    try:
        return (old == new) is True
    except Exception:  # noqa: BLE001 - a driver's adapter may give values of any class
        return False
