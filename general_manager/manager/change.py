"""A change as a value: old and new field values."""

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from django.db.models import Field, Model
from django.db.models.fields.files import FieldFile

from general_manager.guarding import attempt
from general_manager.manager.equality import EXACT, same

Action = Literal["create", "update", "delete"]


class FieldChange(NamedTuple):
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class DataChange:
    """The actual changes to one row.

    *changes* maps field names to old and new values; every old value is `None` after a create,
    every new one after a delete. Foreign keys are represented by keys, many-to-many fields by
    lists of keys, files by names. *using* is the database alias, *manager* the name of the
    manager or tracked model in events, *model* the model class.
    """

    action: Action
    manager: str
    identification: Mapping[str, Any]
    using: str
    changes: Mapping[str, FieldChange] = field(default_factory=dict)
    creator_id: Any = None
    history_comment: str | None = None
    model: type[Model] | None = None

    @property
    def old_values(self) -> dict[str, Any]:
        return {name: change.old for name, change in self.changes.items()}

    @property
    def new_values(self) -> dict[str, Any]:
        return {name: change.new for name, change in self.changes.items()}


def identify(instance: Model, model: type[Model] | None = None) -> dict[str, Any]:
    """The primary key as a mapping, with one entry for each of its fields.

    With *model*, an ancestor of the instance's class, the key in that model's table.
    """
    fields = (model or type(instance))._meta.pk_fields
    return {one.attname: getattr(instance, one.attname) for one in fields}


def read_values(instance: Model, names: Collection[str] | None = None) -> dict[str, Any]:
    """The instance's field values without its primary key; only *names* if given.

    Deferred fields are omitted, not fetched.
    """
    return {
        one.name: kept(one.value_from_object(instance))
        for one in value_fields(instance)
        if (names is None or one.name in names) and one.attname in instance.__dict__
    }


def kept(value: Any) -> Any:
    """A copy of *value* that later changes do not affect; for a file, its name."""
    if isinstance(value, FieldFile):
        return value.name
    if value is None or type(value) in EXACT:
        return value
    return attempt(lambda: deepcopy(value), value)  # too deep, or of a class that refuses


def value_fields(model: Model | type[Model]) -> Iterable["Field[Any, Any]"]:
    """Fields with their own column that are neither the key nor an ancestor's key."""
    keys = key_fields(model)
    return [one for one in model._meta.concrete_fields if one not in keys]


def key_fields(model: Model | type[Model]) -> list["Field[Any, Any]"]:
    """The fields of the primary key, and of the ancestors' keys and parent links."""
    keys: list[Any] = []
    for ancestor in (model, *model._meta.all_parents):
        links = [link for link in ancestor._meta.parents.values() if link is not None]
        keys += [one for one in (*ancestor._meta.pk_fields, *links) if one not in keys]
    return keys


def created(values: Mapping[str, Any]) -> dict[str, FieldChange]:
    return {name: FieldChange(None, value) for name, value in values.items()}


def deleted(values: Mapping[str, Any]) -> dict[str, FieldChange]:
    return {name: FieldChange(value, None) for name, value in values.items()}


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], model: type[Model] | None = None
) -> dict[str, FieldChange]:
    """The differences by field; a field missing on one side counts as `None` there."""
    names = [*before, *(name for name in after if name not in before)]
    fields = {one.name: one for one in model._meta.concrete_fields} if model else {}
    return {
        name: FieldChange(before.get(name), after.get(name))
        for name in names
        if not same(before.get(name), after.get(name), fields.get(name))
    }
