"""Checks the arguments of create, update and filter before anything is changed."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db.models import BooleanField, Field, FloatField, ForeignKey, Model

from general_manager.manager.change import key_fields, value_fields


class Values(NamedTuple):
    columns: dict[str, Any]
    """Values of the row's own columns, by field name or attribute name."""
    relations: dict[str, list[Any]]
    """Values of many-to-many fields, set once the row exists."""


def sort_values(model: type[Model], values: Mapping[str, Any], *, may_identify: bool) -> Values:
    """Check the names in *values* against the model's fields.

    Raises `TypeError` for a name that is not a field, or that cannot be set: a generated column,
    or the primary key if *may_identify* is false.
    """
    meta = model._meta
    columns = {name for one in value_fields(model) for name in (one.name, one.attname)}
    columns |= {one.name for one in meta.private_fields}
    columns |= {one.name for one in meta.fields if one.is_relation and one.column is None}
    keys = {name for one in key_fields(model) for name in (one.name, one.attname)} | {"pk"}
    relations = {one.name for one in meta.many_to_many}
    sorted_values = Values({}, {})
    for name, value in values.items():
        if name in relations:
            sorted_values.relations[name] = _items(model, name, value)
            continue
        if name in keys and not may_identify:
            raise TypeError(f"{model.__name__}.{name} identifies the object and cannot be changed")
        if name not in columns and name not in keys:
            raise TypeError(_no_field(model, name, columns | relations))
        if name in columns and getattr(meta.get_field(name), "generated", False):
            raise TypeError(f"{model.__name__}.{name} is set by the database and cannot be changed")
        sorted_values.columns[name] = value
    return sorted_values


def own_fields(model: type[Model], about: Mapping[str, Any]) -> dict[str, Any]:
    """Those details about a change for which *model* has a field."""
    names = {name for one in value_fields(model) for name in (one.name, one.attname)}
    return {name: value for name, value in about.items() if value is not None and name in names}


def excluded_names(manager: type, given: Iterable[str]) -> frozenset[str]:
    """Names of fields excluded from a manager's events; a system check verifies them."""
    if isinstance(given, str):
        raise TypeError(
            f"{manager.__name__}: exclude must be a list of names, not the string {given!r}"
        )
    return frozenset(given)


def identification_of(model: type[Model], given: Mapping[str, Any]) -> dict[str, Any]:
    """The primary key in *given*, converted to the fields' types.

    Raises `TypeError` for missing or unknown names, `ValueError` for values of a wrong type.
    """
    fields = list(model._meta.pk_fields)
    given = dict(given)
    if len(fields) == 1:
        inherited = [one.attname for one in key_fields(model)]
        for alias in ("pk", fields[0].name, *inherited):
            if alias in given and alias != fields[0].attname:
                given.setdefault(fields[0].attname, given.pop(alias))
    wanted = {one.attname: one for one in fields}
    if set(given) != set(wanted):
        raise TypeError(
            f"{model.__name__} is identified by {', '.join(wanted)}, "
            f"not by {', '.join(map(repr, given)) or 'nothing'}"
        )
    return {name: _converted(model, one, given[name]) for name, one in wanted.items()}


def _converted(model: type[Model], one: "Field[Any, Any]", value: Any) -> Any:
    target = one.target_field if isinstance(one, ForeignKey) else one
    if isinstance(value, Model):
        value = getattr(value, target.attname) if target is not one else value.pk
    is_other = (isinstance(value, bool) and not isinstance(target, BooleanField)) or (
        isinstance(value, float) and not isinstance(target, FloatField)
    )
    if value is None or is_other:
        raise ValueError(f"{model.__name__}.{one.attname} cannot be {value!r}")
    try:
        return target.to_python(value)
    except (ValidationError, TypeError, ValueError) as error:
        raise ValueError(f"{model.__name__}.{one.attname} cannot be {value!r}") from error


def _items(model: type[Model], name: str, value: Any) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise TypeError(f"{model.__name__}.{name} takes a list of objects or keys, not {value!r}")
    return list(value)


def _no_field(model: type[Model], name: str, known: set[str]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known))}"
    return f"{model.__name__} has no field {name!r}; {hint}"
