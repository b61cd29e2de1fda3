"""Deletions of tracked rows, including those by querysets and cascades.

Django sends its deletion signals inside the deletion's transaction, for each row and each of its
tables, so a row can be read before and reported after at the right moments.
"""

from typing import Any
from weakref import ref

from django.db import connections
from django.db.models import Model
from django.db.models.deletion import DO_NOTHING
from django.db.models.signals import class_prepared, post_delete, pre_delete

from general_manager.manager.change import deleted, identify, read_values
from general_manager.manager.deletions.deletion import Going, begin_deletion, current_deletion
from general_manager.manager.elsewhere import is_reported_elsewhere
from general_manager.manager.reporting import announce, is_announced, report
from general_manager.manager.stored import MISSING, StoredRow, key_values
from general_manager.manager.trackers import Tracker, trackers


def track_deletions(model: type[Model]) -> None:
    """Report every deletion of *model*'s rows, also through proxies."""
    _listen(model)
    for known in _proxies(model):
        _listen(known)
    class_prepared.connect(_listen_to_proxy, dispatch_uid=__name__)


def _proxies(model: type[Model]) -> list[type[Model]]:
    found = []
    for child in model.__subclasses__():
        if child._meta.proxy:
            found += [child, *_proxies(child)]
    return found


def _listen_to_proxy(sender: type[Model], **_: Any) -> None:
    """Django sends the proxy as the sender if an instance of a proxy is deleted."""
    if sender._meta.proxy and sender._meta.concrete_model in trackers:
        _listen(sender)


def _listen(model: type[Model]) -> None:
    uid = "general_manager.manager.deletions.deleting"
    pre_delete.connect(before_delete, sender=model, dispatch_uid=uid)
    post_delete.connect(after_delete, sender=model, dispatch_uid=uid)


def before_delete(
    sender: type[Model], instance: Model, using: str, origin: Any = None, **_: Any
) -> None:
    tracker = trackers.get(sender._meta.concrete_model or sender)
    if tracker is None:
        return
    deletion = begin_deletion(using)
    if is_reported_elsewhere(tracker.model, instance, using):
        deletion.count(sender)
        return
    returned = deletion.ask(tracker)
    if instance.get_deferred_fields() or _is_the_callers(instance, origin):
        lock = _lock(tracker.model, using) if returned is None else ""
        row = deletion.read(tracker, instance, origin, lock=lock)
        if row is None and returned is None:
            return  # already deleted
        going = _going(tracker, instance, row)
    else:  # it has just been read
        going = _going_as_read(tracker, instance, returned or frozenset())
    if deletion.add(sender, tracker, going) and going.is_there and is_announced(tracker.model):
        announce(tracker.model, instance, "delete", {}, using)


def after_delete(sender: type[Model], instance: Model, using: str, **_: Any) -> None:
    tracker = trackers.get(sender._meta.concrete_model or sender)
    deletion = current_deletion(using)
    if tracker is None or deletion is None:
        return
    going = deletion.pop(instance)
    values = None if going is None else deletion.values_of(going, sender, tracker, instance)
    if going is not None and values is not None:
        changes = deleted(values)
        report(tracker, "delete", going.identification, changes, instance=instance, using=using)


def _going(tracker: Tracker, instance: Model, row: StoredRow | None) -> Going:
    """What is deleted, as read from *row*; without one the DELETE tells whether it was there."""
    key = identify(instance, tracker.model)
    if row is None:
        return Going(ref(instance), key, {}, is_whole=False, is_there=False)
    for field in tracker.model._meta.pk_fields:
        stored = row.value(field)
        key[field.attname] = key[field.attname] if stored is MISSING else stored
    return Going(ref(instance), key, row.values(tracker.fields), is_whole=True)


def _going_as_read(tracker: Tracker, instance: Model, returned: frozenset[str]) -> Going:
    """What is deleted, as Django has just read it; without values that the DELETE returns."""
    names = {one.name for one in tracker.fields} - returned
    values = read_values(instance, names) if names else {}
    return Going(ref(instance), identify(instance, tracker.model), values, is_whole=not returned)


def _is_the_callers(instance: Model, origin: Any) -> bool:
    """Whether the caller deletes *instance* itself, or the child that it belongs to."""
    if origin is instance:
        return True
    model = instance._meta.concrete_model
    return (
        isinstance(origin, Model)
        and model is not None
        and isinstance(origin, model)
        and key_values(origin, model) == key_values(instance, model)
    )


def _lock(model: type[Model], using: str) -> str:
    """The lock of a row that its DELETE will not return.

    Django locks dependents first: locking the row before them can deadlock. On PostgreSQL it
    would take the privilege of an UPDATE.
    """
    is_postgresql = connections[using].vendor == "postgresql"
    return "" if is_postgresql or has_dependents(model) else "delete"


def has_dependents(model: type[Model]) -> bool:
    """Whether deleting a row of *model* first deletes or changes rows of other tables."""
    meta = model._meta
    if meta.parents or any(hasattr(one, "bulk_related_objects") for one in meta.private_fields):
        return True
    return any(
        one.auto_created
        and not one.concrete
        and (one.one_to_one or one.one_to_many)
        and getattr(one, "on_delete", None) is not DO_NOTHING
        for one in meta.get_fields(include_hidden=True)
    )
