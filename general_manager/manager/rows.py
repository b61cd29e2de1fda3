"""What changing one row takes beyond `save`: how it is found, validated, related and deleted."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from django.db.models import Model
from django.db.models.fields.files import FieldFile

from general_manager.manager.change import FieldChange, compare, read_values
from general_manager.manager.deleting import has_dependents
from general_manager.manager.stored import key_values, lock_for_update, plain_rows


def find_locked(
    model: type[Model], key: Mapping[str, Any], using: str, *, to_delete: bool = False
) -> Model:
    """The row of that *key*, locked as the write will lock it. Raises the model's `DoesNotExist`.

    A row that others depend on is not locked before it is deleted: Django locks those first.
    """
    rows = plain_rows(model, using)
    if not to_delete:
        lock_for_update(rows.query, using)
    elif not has_dependents(model):
        rows = rows.select_for_update()
    found: Model = rows.get(**key)
    return found


def find(model: type[Model], key: Mapping[str, Any], using: str) -> Model | None:
    """The row of that *key*, whatever the model's managers leave out."""
    return plain_rows(model, using).filter(**key).first()


def read_again(instance: Model, using: str) -> Model | None:
    """The row as the database has it: rounded, computed, defaulted and truncated as it will be.

    `None` if a receiver has deleted it; *instance* itself if its key cannot be looked up.
    """
    model = type(instance)
    key = key_values(instance, model)
    if key is None:
        return None
    try:
        rows = plain_rows(model, using).filter(**key)
        rows.query.get_compiler(using).as_sql()
    except Exception:  # noqa: BLE001 - a field that does not take back what it gave is the user's
        return instance
    return rows.first()


def validate(instance: Model) -> None:
    """`full_clean`, leaving out what only the database can compute. Raises `ValidationError`."""
    instance.full_clean(exclude=_expressions(instance))


def needs_save(instance: Model, before: Mapping[str, Any]) -> bool:
    """Whether *instance* is not what was read *before*, or has a file that is not stored yet."""
    if compare(before, read_values(instance), type(instance)):
        return True
    return any(
        isinstance(value, FieldFile) and value and not getattr(value, "_committed", True)
        for one in instance._meta.concrete_fields
        for value in (one.value_from_object(instance),)
    )


def call_as_written(method: Callable[..., Any], **options: Any) -> Any:
    """Call a model's *method* with those *options* that it takes: it may override Django's."""
    parameters = signature(method).parameters.values()
    if not any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
        taken = {one.name for one in parameters if one.kind is not Parameter.POSITIONAL_ONLY}
        options = {name: value for name, value in options.items() if name in taken}
    return method(**options)


def relate(
    instance: Model, relations: Mapping[str, list[Any]], using: str
) -> dict[str, FieldChange]:
    """Set the many-to-many fields; returns what changed, as lists of keys."""
    changes = {}
    for name, items in relations.items():
        old = _keys(instance, name, using)
        getattr(instance, name).set(items)
        new = _keys(instance, name, using)
        if old != new:
            changes[name] = FieldChange(old, new)
    return changes


def _expressions(instance: Model) -> set[str]:
    return {
        one.name
        for one in instance._meta.concrete_fields
        if hasattr(instance.__dict__.get(one.attname), "resolve_expression")
    }


def _keys(instance: Model, name: str, using: str) -> list[Any]:
    """Keys of related objects, read where they are written and whatever managers leave out."""
    field: Any = instance._meta.get_field(name)
    through = plain_rows(field.remote_field.through, using)
    links = through.filter(**{field.m2m_field_name(): instance})
    return sorted(set(links.values_list(f"{field.m2m_reverse_field_name()}__pk", flat=True)))
