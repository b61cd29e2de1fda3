"""What a save changed, from a row as it was read before and after."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Field, Model

from general_manager.manager.change import FieldChange, read_values
from general_manager.manager.equality import same
from general_manager.manager.stored import MISSING, StoredRow


def changed_values(
    fields: Sequence["Field[Any, Any]"],
    before: StoredRow,
    after: StoredRow | None,
    instance: Model,
) -> dict[str, FieldChange]:
    """By field name; what cannot be read is left out.

    Columns that the driver gives back as they were are not converted at all. Without *after*, for
    a row that is out of sight now, the instance says what was written.
    """
    written = {} if after is not None else read_values(instance, {one.name for one in fields})
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


def _is_untouched(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return False
    try:
        return (old == new) is True
    except Exception:  # noqa: BLE001 - a driver's adapter may give values of any class
        return False
