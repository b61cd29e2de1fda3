"""What saving one row takes beyond `save`: validation, many-to-many values, computed columns."""

from collections.abc import Mapping
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


def refresh_computed(instance: Model, using: str) -> None:
    """Read back what the database computed: expressions, database defaults, generated columns."""
    names = _expressions(instance) | {
        one.name for one in instance._meta.concrete_fields if one.generated
    }
    if names:
        instance.refresh_from_db(using=using, fields=sorted(names))


def _expressions(instance: Model) -> set[str]:
    return {
        one.name
        for one in instance._meta.concrete_fields
        if hasattr(instance.__dict__.get(one.attname), "resolve_expression")
    }


def _keys(related: Any) -> list[Any]:
    return sorted(related.values_list("pk", flat=True))
