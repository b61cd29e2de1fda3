"""Rows whose change a manager reports, so that tracking must not.

Kept in the thread, not on the instance: whatever the instance's class does with attributes, and
however it is copied or pickled, there is nothing of ours to find.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import local
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Model


class _Here(local):
    def __init__(self) -> None:
        self.reported: list[tuple[str, Model]] = []


_here = _Here()


@contextmanager
def reported_by_manager(instance: Model, using: str) -> Iterator[None]:
    """Meanwhile a manager reports what happens to the instance's row, through any instance."""
    _here.reported.append((using, instance))
    try:
        yield
    finally:
        _here.reported.pop()


def is_reported_elsewhere(instance: Model, using: str) -> bool:
    return any(
        alias == using and (one is instance or _is_same_row(one, instance))
        for alias, one in _here.reported
    )


def _is_same_row(one: Model, other: Model) -> bool:
    """Whether both stand for one row of a table that they share, as parent and child do too."""
    shared = [model for model in _tables(one) if model in _tables(other)]
    return any(_key(one, model) == _key(other, model) != () for model in shared)


def _tables(instance: Model) -> list[type[Model]]:
    model = instance._meta.concrete_model or type(instance)
    return [model, *model._meta.all_parents]


def _key(instance: Model, model: type[Model]) -> tuple[Any, ...]:
    """The key by which *model* knows the row; nothing while it has none."""
    values = []
    for field in model._meta.pk_fields:
        value = getattr(instance, field.attname)
        if value is None or hasattr(value, "resolve_expression"):
            return ()
        with suppress(ValidationError, TypeError, ValueError):
            value = field.to_python(value)
        values.append(value)
    return tuple(values)
