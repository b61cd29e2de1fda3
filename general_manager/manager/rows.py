"""What saving one row takes beyond `save`: validation, many-to-many values, who tells of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.db.models import Model

from general_manager.manager.change import FieldChange


def validate(instance: Model) -> None:
    """`full_clean`, leaving out what only the database can compute. Raises `ValidationError`."""
    instance.full_clean(exclude=_expressions(instance))


def relate(instance: Model, relations: Mapping[str, list[Any]]) -> dict[str, FieldChange]:
    """Set the many-to-many fields; returns what changed, as lists of keys."""
    changes = {}
    for name, items in relations.items():
        related = getattr(instance, name)
        old = _keys(related)
        related.set(items)
        new = _keys(related)
        if old != new:
            changes[name] = FieldChange(old, new)
    return changes


def read_again(instance: Model, using: str) -> Model:
    """The row as the database has it: rounded, computed, defaulted and truncated as it will be."""
    return type(instance)._base_manager.using(using).get(pk=instance.pk)


@contextmanager
def told_by_manager(instance: Model) -> Iterator[None]:
    """Meanwhile the manager tells of the instance's changes, and `track_changes` need not."""
    marked: Any = instance
    marked.told_elsewhere = id(instance)  # which a copy of the instance takes along in vain
    try:
        yield
    finally:
        del marked.told_elsewhere


def is_told_elsewhere(instance: Model) -> bool:
    return getattr(instance, "told_elsewhere", None) == id(instance)


def _expressions(instance: Model) -> set[str]:
    return {
        one.name
        for one in instance._meta.concrete_fields
        if hasattr(instance.__dict__.get(one.attname), "resolve_expression")
    }


def _keys(related: Any) -> list[Any]:
    return sorted(related.values_list("pk", flat=True))
