"""Rows whose changes a manager reports, so that tracking must not report them too.

Kept in the thread, not on the instance: an instance may be copied or pickled, and its class may
restrict attributes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local
from typing import Any

from django.db.models import Model

from general_manager.manager.spelling import as_read


class _Here(local):
    def __init__(self) -> None:
        self.reported: list[tuple[str, Model, tuple[Any, ...]]] = []


_here = _Here()


@contextmanager
def reported_by_manager(instance: Model, using: str) -> Iterator[None]:
    """In this block a manager reports changes of the instance's row, made by any instance."""
    key = _key(instance, instance._meta.concrete_model or type(instance))
    _here.reported.append((using, instance, key))
    try:
        yield
    finally:
        _here.reported.pop()


def is_reported_elsewhere(model: type[Model], instance: Model, using: str) -> bool:
    """Whether a manager of *model* reports the row of *instance*, which may be of a child class.

    Parents and children of a manager's model that are tracked themselves are reported as ever.
    """
    return any(
        alias == using
        and one._meta.concrete_model is model
        # Its key may be set by its first save; another row that it writes is not the manager's.
        and (
            _key(instance, model) == (key or _key(one, model)) != ()
            or (one is instance and not key)
        )
        for alias, one, key in _here.reported
    )


def _key(instance: Model, model: type[Model]) -> tuple[Any, ...]:
    """The row's key in *model*'s table; nothing if it has none yet."""
    values = []
    for field in model._meta.pk_fields:
        value = getattr(instance, field.attname)
        if value is None or hasattr(value, "resolve_expression"):
            return ()
        values.append(as_read(field, value))
    return tuple(values)
