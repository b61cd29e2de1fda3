"""A change as a value: what was there before, what is there now."""

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from django.db.models import Field, Model
from django.db.models.fields.files import FieldFile

from general_manager.manager.equality import same

Action = Literal["create", "update", "delete"]


class FieldChange(NamedTuple):
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class DataChange:
    """What happened to one row, and only what really changed.

    *changes* maps field names to old and new values; after a create every old value is `None`,
    after a delete every new one. A foreign key's values are keys, a many-to-many's are lists of
    keys, a file's are names. *using* is the database alias, *manager* the name under which the
    manager or the tracked model is reported, *model* the model's class.
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
    """The primary key as a mapping, one entry for each field it is made of.

    With *model*, an ancestor of the instance's class, the key by which that one knows it.
    """
    fields = (model or type(instance))._meta.pk_fields
    return {one.attname: getattr(instance, one.attname) for one in fields}


def read_values(instance: Model, names: Collection[str] | None = None) -> dict[str, Any]:
    """The values of the instance's fields without its primary key; only *names* if given.

    Fields that are not loaded are left out rather than fetched.
    """
    return {
        one.name: kept(one.value_from_object(instance))
        for one in value_fields(instance)
        if (names is None or one.name in names) and one.attname in instance.__dict__
    }


def kept(value: Any) -> Any:
    """*value* as it is now, whatever is done to it later; of a file, its name."""
    if isinstance(value, FieldFile):
        return value.name
    return deepcopy(value) if isinstance(value, dict | list | set | bytearray) else value


def value_fields(model: Model | type[Model]) -> Iterable["Field[Any, Any]"]:
    """Fields with a column of their own that are no key, nor an ancestor's key."""
    keys = key_fields(model)
    return [one for one in model._meta.concrete_fields if one not in keys]


def key_fields(model: Model | type[Model]) -> list["Field[Any, Any]"]:
    """The primary key's fields, its ancestors' in multi-table inheritance, and the links."""
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
    """What differs, field by field; a field that only one of them has counts as `None` there."""
    names = [*before, *(name for name in after if name not in before)]
    fields = {one.name: one for one in model._meta.concrete_fields} if model else {}
    return {
        name: FieldChange(before.get(name), after.get(name))
        for name in names
        if not same(before.get(name), after.get(name), fields.get(name))
    }
