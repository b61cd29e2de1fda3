"""Equality of two values of a field, independent of their class's ``==``."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Field

from general_manager.guarding import attempt


def same(old: Any, new: Any, field: "Field[Any, Any] | None" = None) -> bool:
    """Whether *old* and *new* are the same value to the database.

    NaN equals NaN. Values that ``==`` finds unequal, or cannot compare, are compared in the form
    that *field* stores. A comparison that raises, or returns no boolean, counts as a change.
    """
    if old is new or _equal(old, new):
        return True
    if old is None or new is None:
        return False
    if _equal_with_nan(old, new):
        return True
    if field is None:
        return False
    stored = attempt(lambda: (field.get_prep_value(old), field.get_prep_value(new)), None)
    return stored is not None and _equal(*stored)


def _equal(old: Any, new: Any) -> bool:
    try:
        return (old == new) is True
    except Exception:  # noqa: BLE001 - the values' classes are user code
        return False


def _equal_with_nan(old: Any, new: Any) -> bool:
    """Equality in which a nested NaN equals NaN."""
    if type(old) is not type(new):
        return False
    if isinstance(old, Mapping):
        return _equal(old.keys(), new.keys()) and all(_inner(old[key], new[key]) for key in old)
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(_inner, old, new))
    return attempt(lambda: _is_nan(old) and _is_nan(new), otherwise=False)


def _is_nan(value: Any) -> bool:
    return (value != value) is True  # noqa: PLR0124 - only a NaN is not itself


def _inner(old: Any, new: Any) -> bool:
    return old is new or _equal(old, new) or _equal_with_nan(old, new)
