"""A change as a value: what was there before, what is there now."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from django.db.models import Field, Model

Action = Literal["create", "update", "delete"]


class FieldChange(NamedTuple):
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class DataChange:
    """What happened to one row, and only what really changed.

    *changes* maps field names to old and new values; after a create every old value is `None`,
    after a delete every new one. A foreign key's values are keys, a many-to-many's are lists of
    keys. *using* is the database alias, *manager* the name of the manager or tracked model.
    """

    action: Action
    manager: str
    identification: Mapping[str, Any]
    using: str
    changes: Mapping[str, FieldChange] = field(default_factory=dict)
    creator_id: Any = None
    history_comment: str | None = None

    @property
    def old_values(self) -> dict[str, Any]:
        return {name: change.old for name, change in self.changes.items()}

    @property
    def new_values(self) -> dict[str, Any]:
        return {name: change.new for name, change in self.changes.items()}


def identify(instance: Model) -> dict[str, Any]:
    """The primary key as a mapping, one entry for each field it is made of."""
    return {one.attname: getattr(instance, one.attname) for one in instance._meta.pk_fields}


def read_values(instance: Model, names: Collection[str] | None = None) -> dict[str, Any]:
    """The values of the instance's fields without its primary key; only *names* if given.

    Fields that are not loaded are left out rather than fetched.
    """
    return {
        one.name: one.value_from_object(instance)
        for one in value_fields(instance)
        if (names is None or one.name in names) and one.attname in instance.__dict__
    }


def value_fields(model: Model | type[Model]) -> Iterable["Field[Any, Any]"]:
    """Fields with a column of their own that are not part of the primary key."""
    meta = model._meta
    return [one for one in meta.concrete_fields if one not in meta.pk_fields]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, FieldChange]:
    """What differs, field by field; a field that only one of them has counts as `None` there."""
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: FieldChange(before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }
