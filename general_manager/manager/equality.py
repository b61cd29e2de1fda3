"""Equality of two values of a field, as the database would see it."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from json import dumps
from typing import Any, Final
from uuid import UUID

from django.db.models import Field, JSONField

from general_manager.guarding import attempt

EXACT: Final = frozenset(
    (str, int, float, bool, bytes, Decimal, date, datetime, time, timedelta, UUID)
)
"""Types whose values cannot change, and whose equal values a column stores alike."""


def same(old: Any, new: Any, field: "Field[Any, Any] | None" = None) -> bool:
    """Whether *old* and *new* are the same value to the database.

    NaN equals NaN. JSON is compared as text, in which 1 is not true. Values that ``==`` finds
    unequal, or cannot compare, are compared in the form that *field* stores; so are equal values of
    classes of a project's own, whose ``==`` may be looser. A comparison that raises, or returns no
    boolean, counts as a change.
    """
    if old is new:
        return True
    in_json = _as_json(old, new, field)
    if in_json is not None:
        return in_json
    is_equal = _equal(old, new)
    if is_equal and (field is None or (type(old) in EXACT and type(new) in EXACT)):
        return True
    if not is_equal and (old is None or new is None or _equal_with_nan(old, new)):
        return old is not None and new is not None
    return is_equal if field is None else _stored_alike(old, new, field, otherwise=is_equal)


def _stored_alike(old: Any, new: Any, field: "Field[Any, Any]", *, otherwise: bool) -> bool:
    stored = attempt(lambda: (field.get_prep_value(old), field.get_prep_value(new)), None)
    return otherwise if stored is None else _equal(*stored)


def _as_json(old: Any, new: Any, field: "Field[Any, Any] | None") -> bool | None:
    """Whether both are the same text in a column of JSON; `None` for another, or for no JSON."""
    kind: Any = field
    while hasattr(kind, "base_field"):  # an array
        kind = kind.base_field
    if not isinstance(kind, JSONField) or old is None or new is None:
        return None
    write = partial(dumps, cls=kind.encoder, sort_keys=True)
    texts = attempt(lambda: (write(old), write(new)), None)
    return None if texts is None else texts[0] == texts[1]


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
