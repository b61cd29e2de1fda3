"""Report the changes of plain models, saved as usual, like those of managers."""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, overload

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model

from general_manager.manager.change import value_fields
from general_manager.manager.deletions.deleting import track_deletions
from general_manager.manager.saving import track_saves
from general_manager.manager.trackers import Tracker, add_tracker, trackers

M = TypeVar("M", bound=Model)
_LATER: Any = object()
"""The call returns a class decorator."""
MOST_OF_A_NAME: Final = 255
"""Characters of an event's names and ids."""


@overload
def track_changes(
    model: type[M],
    *,
    fields: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    name: str | None = None,
) -> type[M]: ...
@overload
def track_changes(
    *,
    fields: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    name: str | None = None,
) -> Callable[[type[M]], type[M]]: ...
def track_changes(
    model: Any = _LATER,
    *,
    fields: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    name: str | None = None,
) -> Any:
    """Report every `save` and `delete` of *model*'s instances; a function or class decorator.

    ::

        track_changes(Invoice, fields=("status", "total"))


        @track_changes(exclude=("api_key",), name="OrderLine")
        class Line(models.Model): ...

    Only *fields* are read and reported, or all but *exclude*; the password of a user model only if
    *fields* names it. *name* replaces the class name in events. A proxy counts as its concrete
    model. Tracking a model again replaces its options.

    ``docs/managers.md`` lists which changes emit events and which do not. Raises `TypeError` for
    a class that cannot be tracked, and `FieldDoesNotExist` for a name without a column to track.
    """
    if model is _LATER:
        return lambda decorated: track_changes(decorated, fields=fields, exclude=exclude, name=name)
    concrete = _trackable(model)
    names = None if fields is None else _names(concrete, "fields", fields)
    hidden = _names(concrete, "exclude", exclude)
    if names is not None and hidden:
        raise TypeError("Pass either fields or exclude to track_changes(), not both")
    if name is not None and not _is_a_name(name):
        raise TypeError(
            f"name must be text on one line, of at most {MOST_OF_A_NAME} characters, not {name!r}"
        )
    is_new = concrete not in trackers
    add_tracker(Tracker(concrete, names, hidden, name or concrete.__name__))
    if is_new:
        track_saves(concrete)
        track_deletions(concrete)
    return model


def _is_a_name(name: object) -> bool:
    """Whether events accept *name*: else every save would fail."""
    is_text = isinstance(name, str) and bool(name.strip()) and len(name) <= MOST_OF_A_NAME
    return is_text and str(name).isprintable()


def _trackable(model: Any) -> type[Model]:
    is_model = isinstance(model, type) and issubclass(model, Model) and model is not Model
    if not is_model or model._meta.abstract:
        raise TypeError(f"track_changes() takes a model with a table, not {model!r}")
    concrete: type[Model] = model._meta.concrete_model
    if concrete._meta.auto_created:
        raise TypeError(
            f"{concrete._meta.label} is the automatic table of a many-to-many field, and Django "
            "sends no signals for it. Declare a model and name it in the field's through="
        )
    if concrete._meta.swapped:
        raise TypeError(
            f"{concrete._meta.label} is swapped for {concrete._meta.swapped}; track that model"
        )
    return concrete


def _names(model: type[Model], argument: str, given: Iterable[str]) -> frozenset[str]:
    if isinstance(given, str):
        raise TypeError(f"{argument} must be a list of names, not the string {given!r}")
    names = frozenset(given)
    if not names:
        return names
    known = {one.name for one in value_fields(model)}
    keys = {one.name for one in model._meta.concrete_fields} - known
    for one in sorted(names - known - keys):
        raise FieldDoesNotExist(f"{model.__name__} has no field {one!r} with a column to track")
    return names
