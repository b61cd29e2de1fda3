"""The state of an object as what a wait waits for: `wait_until`."""

from collections.abc import Iterator, Mapping
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import router
from django.db.models import Model

from general_manager.manager import GeneralManager
from general_manager.manager.trackers import secrets_of, trackers_of
from general_manager.manager.values import identification_of
from general_manager.workflow.core.bridging import is_on
from general_manager.workflow.core.encoding import encode, encode_mapping
from general_manager.workflow.core.matching import is_absent, matches, value_at
from general_manager.workflow.durable.answers.sources import (
    Source,
    SourceKind,
    checked_match,
    encoded_key,
)
from general_manager.workflow.events import MANAGER_CREATED, MANAGER_UPDATED
from general_manager.workflow.exceptions import StepUsageError

OBJECT_EVENTS = (MANAGER_CREATED, MANAGER_UPDATED)
"""The events by which an object may reach a state."""


def state_of(kind: Any, key: object, state: Mapping[str, Any], using: str | None) -> list[Source]:
    """The sources of a `wait_until`: one for each name under which the object's events come."""
    is_manager = isinstance(kind, type) and issubclass(kind, GeneralManager)
    model = kind.get_model() if is_manager else kind
    if not (isinstance(model, type) and issubclass(model, Model)) or model._meta.abstract:
        raise TypeError(f"wait_until() takes a model or a manager, not {kind!r}")
    model = model._meta.concrete_model or model
    values = checked_match(encode_mapping(state, root="state"))
    if not values:
        raise ValueError("state is empty: name at least one field and its value")
    for name in values:
        _require_field(model, name)
    if using is not None and router.db_for_write(model) != using:
        raise StepUsageError(
            f"wait_until() is called for {model._meta.label} in database "
            f"{router.db_for_write(model)!r}, and the execution is in {using!r}: events of one "
            "database cannot answer a wait in another. Send a signal instead."
        )
    names = dict(_reported_as(kind, model, values))
    if not names or not is_on():
        fields = ", ".join(sorted(values))
        raise StepUsageError(
            f"wait_until() is called for {fields} of {model._meta.label}, whose changes emit no "
            "events, so the wait would not end. Call track_changes() for the model with these "
            "fields, and set WORKFLOW_SIGNAL_BRIDGE."
        )
    return [
        Source(
            SourceKind.STATE,
            model._meta.label,
            match=values,
            key=encoded_key(key),
            about=_about(name, owner, key),
        )
        for name, owner in names.items()
    ]


def shows(source: Source, payload: Mapping[str, Any]) -> bool:
    """Whether an event of the object has all values of the state."""
    found = {
        name: next(
            (
                value
                for path in (f"changes.{name}.new", f"values.{name}")
                if not is_absent(value := value_at(payload, path))
            ),
            payload,
        )
        for name in source.match
    }
    return matches(source.match, found)


def is_reached(source: Source, using: str | None) -> bool:
    """Whether the row has the values of the state; read from the database itself."""
    model: Any = apps.get_model(source.name)
    alias = using or router.db_for_write(model)
    rows = model._base_manager.using(alias).filter(pk=source.key, **source.match)
    return bool(rows.exists())


def _about(name: str, model: type[Model], key: object) -> dict[str, Any]:
    found = identification_of(model, {"pk": key})
    identification = {
        f"identification.{part}": encode(value, root=f"pk.{part}") for part, value in found.items()
    }
    return {"manager": name, **identification}


def _reported_as(
    kind: Any, model: type[Model], values: Mapping[str, Any]
) -> Iterator[tuple[str, type[Model]]]:
    """The names under which changes of these fields are reported, each with its model."""
    wanted = set(values)
    is_manager = isinstance(kind, type) and issubclass(kind, GeneralManager)
    if is_manager and not wanted & (set(kind.excluded_fields) | secrets_of(model)):
        yield kind.__name__, model
    for tracker in trackers_of(model):
        if wanted & {one.name for one in tracker.fields}:
            yield tracker.name, tracker.model


def _require_field(model: type[Model], name: str) -> None:
    try:
        model._meta.get_field(name)
    except FieldDoesNotExist:
        raise ValueError(
            f"state names {name!r}, which is not a field of {model.__name__}"
        ) from None
