"""Helpers to find, validate, relate, save and delete one row."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import Parameter, signature
from operator import methodcaller
from typing import Any, Final

from django.db import DatabaseError, connections
from django.db.models import Model, QuerySet
from django.db.models.fields.files import FieldFile

from general_manager.atomic import writing_atomic
from general_manager.cursors import shared_cursor
from general_manager.escaping import get_logger
from general_manager.guarding import attempt
from general_manager.manager.change import FieldChange, compare, identify, read_values
from general_manager.manager.deletions.deleting import has_dependents
from general_manager.manager.stored import (
    MISSING,
    Columns,
    is_unread,
    key_values,
    lock_for_update,
    plain_rows,
    sought_key,
)
from general_manager.tables import is_view, may_hide_rows, may_update

logger = get_logger(__name__)
NOT_LOADED: Final = "%s %s is saved, but cannot be loaded again: its event has the values as given"
_prepare_relations = methodcaller("_prepare_related_fields_for_save", operation_name="save")


def find_locked(
    model: type[Model], key: Mapping[str, Any], using: str, *, to_delete: bool = False
) -> Model:
    """The row with *key*, locked as the write will lock it. Raises the model's `DoesNotExist`.

    A row with dependents is not locked before its deletion: Django locks the dependents first.
    """
    rows = plain_rows(model, using).filter(**key)
    if is_view(model, using):  # its triggers or rules lock what they change
        return load(rows, key)
    if not to_delete:
        lock_for_update(rows.query, using)
    elif not has_dependents(model) and may_update(model, using):
        rows = rows.select_for_update()
    return load(rows, key)


def find(model: type[Model], key: Mapping[str, Any], using: str) -> Model:
    """The row with *key*, even if the model's managers hide it. Raises as `load` does."""
    return load(plain_rows(model, using).filter(**key), key)


def load(rows: QuerySet[Any], key: Mapping[str, Any]) -> Model:
    """The only one of *rows*, which has *key*. Columns that cannot be read are deferred.

    Raises the model's `DoesNotExist`, or what loading it raises for another reason.
    """
    try:
        found: Model = rows.get()
    except rows.model.DoesNotExist:
        raise
    except Exception:
        names = attempt(lambda: _unreadable_names(rows.model, key, rows.db), None)
        if not names:
            raise
        found = rows.defer(*names).get()
    return found


def _unreadable_names(model: type[Model], key: Mapping[str, Any], using: str) -> list[str]:
    columns = Columns(model, model._meta.concrete_fields)
    row = columns.read(using, key)
    return [one.name for one in columns.fields if row is not None and row.value(one) is MISSING]


def read_again(instance: Model, using: str) -> Model | None:
    """The row as stored: rounded, computed, defaulted and truncated by the database.

    `None` if a receiver has deleted it; *instance* itself if it cannot be looked up or loaded.
    """
    model: Any = type(instance)
    key = key_values(instance, model)
    if key is None:
        return None
    rows = attempt(lambda: _sound(plain_rows(model, using).filter(**key)), None)
    if rows is None:
        return instance
    if connections[using].vendor == "mysql":  # else its snapshot may be older than the row
        rows = rows.select_for_update()
    try:
        return load(rows, key)
    except model.DoesNotExist:
        return None
    except DatabaseError:
        raise
    except Exception:
        logger.warning(NOT_LOADED, model._meta.label, key, exc_info=True)
        return instance


def read_written(instance: Model, using: str) -> Model | None:
    """As `read_again`, but *instance* if its writer may not see the row that it has written."""
    stored = read_again(instance, using)
    return instance if stored is None and may_hide_rows(type(instance), using) else stored


def read_updated(instance: Model, key: Mapping[str, Any], using: str) -> Model | None:
    """`read_written` of the row that had *key* before *instance* was saved.

    A save of the model's own may write another row instead, or give this one another key.
    """
    model: Any = type(instance)
    if identify(instance) != key:
        with suppress(model.DoesNotExist):
            return find(model, key, using)
    return read_written(instance, using)


def _sound(rows: QuerySet[Any]) -> QuerySet[Any]:
    """*rows*; raises what a user's field raises that does not accept its own value."""
    rows.query.get_compiler(rows.db).as_sql()
    return rows


def validate(instance: Model) -> None:
    """`full_clean` without what the database computes, and what cannot be read and stays as it is.

    Raises `ValidationError`.
    """
    instance.full_clean(exclude=_expressions(instance) | _unread(instance))


def needs_save(instance: Model, before: Mapping[str, Any]) -> bool:
    """Whether *instance* differs from the row read *before*, or has an unsaved file.

    Raises `ValueError` for an unsaved object in a relation, as a save does.
    """
    _prepare_relations(instance)
    if compare(before, read_values(instance), type(instance)):
        return True
    return any(
        isinstance(value, FieldFile) and value and not getattr(value, "_committed", True)
        for one in instance._meta.concrete_fields
        if not is_unread(one, instance)
        for value in (one.value_from_object(instance),)
    )


def call_as_written(method: Callable[..., Any], **options: Any) -> Any:
    """Call a model's *method* with those *options* that it accepts: it may be an override."""
    parameters = signature(method).parameters.values()
    if not any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
        taken = {one.name for one in parameters if one.kind is not Parameter.POSITIONAL_ONLY}
        options = {name: value for name, value in options.items() if name in taken}
    return method(**options)


def relate(
    instance: Model, relations: Mapping[str, list[Any]], using: str
) -> dict[str, FieldChange]:
    """Set the many-to-many fields. Returns the changes, as lists of keys."""
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


def _unread(instance: Model) -> set[str]:
    return {one.name for one in instance._meta.concrete_fields if is_unread(one, instance)}


def _keys(instance: Model, name: str, using: str) -> list[Any]:
    """Keys of related objects, read from the database of the write and unfiltered.

    Sorted, or in the database's order if their class has none.
    """
    field: Any = instance._meta.get_field(name)
    through = plain_rows(field.remote_field.through, using)
    links = through.filter(**{field.m2m_field_name(): instance})
    key = f"{field.m2m_reverse_field_name()}__pk"
    found = list(dict.fromkeys(links.order_by(key).values_list(key, flat=True)))
    return attempt(lambda: sorted(found), found)


@contextmanager
def row_transaction(instance: Model, using: str, *, is_outermost: bool) -> Iterator[None]:
    """Around the INSERT or UPDATE of *instance* and what is reported of it.

    If it is undone, so is what the INSERT has set on the instance: a save that is not tracked fails
    before that. With autocommit off a savepoint, so that a failure does not break the caller's
    transaction.
    """
    known = instance.__dict__
    returned = [one.attname for one in instance._meta.db_returning_fields]
    kept = {name: known[name] for name in returned if name in known}
    has_manual = is_outermost and not connections[using].get_autocommit()
    try:
        with writing_atomic(using, savepoint=has_manual), shared_cursor(using):
            yield
    except BaseException:
        if is_outermost:
            for name in returned:
                known.pop(name, None)
            known.update(kept)
        raise


def may_be_there(instance: Model, model: type[Model]) -> bool:
    """Whether a save may find the row in *model*'s table: Django's condition to try an UPDATE."""
    keys = model._meta.pk_fields
    adding = instance._state.adding
    if sought_key(instance, model) is None:
        if adding or len(keys) > 1 or not keys[0].has_default():
            return False
        # Django does this next and then looks for a row with this key.
        key: Any = keys[0]
        setattr(instance, key.attname, key.get_pk_value_on_save(instance))
        return sought_key(instance, model) is not None
    defaulted = all(one.has_default() or one.has_db_default() for one in keys)
    return not (adding and defaulted)
