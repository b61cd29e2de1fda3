"""Whether two values of a field are the same value, whatever their class thinks of ``==``."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Field


def same(old: Any, new: Any, field: "Field[Any, Any] | None" = None) -> bool:
    """Whether *old* and *new* are one value to the database.

    NaN is the same as NaN. What ``==`` does not find equal, or cannot compare, is compared as
    *field* would store it. A comparison that raises, or gives no boolean, means a change.
    """
    if old is new or _equal(old, new):
        return True
    if old is None or new is None:
        return False
    if _equal_with_nan(old, new):
        return True
    if field is None:
        return False
    try:
        stored = field.get_prep_value(old), field.get_prep_value(new)
    except Exception:  # noqa: BLE001 - the field is the user's code
        return False
    return _equal(*stored)


def _equal(old: Any, new: Any) -> bool:
    try:
        return (old == new) is True
    except Exception:  # noqa: BLE001 - the values' classes are the user's code
        return False


def _equal_with_nan(old: Any, new: Any) -> bool:
    """Equal, where a NaN inside counts as equal to a NaN."""
    if type(old) is not type(new):
        return False
    if isinstance(old, Mapping):
        return _equal(old.keys(), new.keys()) and all(_inner(old[key], new[key]) for key in old)
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(_inner, old, new))
    try:
        return (old != old and new != new) is True  # noqa: PLR0124 - only a NaN is not itself
    except Exception:  # noqa: BLE001 - as above
        return False


def _inner(old: Any, new: Any) -> bool:
    return old is new or _equal(old, new) or _equal_with_nan(old, new)
