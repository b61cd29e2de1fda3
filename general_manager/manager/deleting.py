"""Deletions of tracked rows, including those by querysets and cascades.

Django sends its deletion signals inside the deletion's transaction, for each row and each of its
tables, so a row can be read before and reported after at the right moments.
"""

from collections.abc import Mapping
from threading import local
from typing import Any, NamedTuple
from weakref import ref

from django.db import connections
from django.db.models import Model, Q, QuerySet
from django.db.models.deletion import DO_NOTHING
from django.db.models.signals import class_prepared, post_delete, pre_delete

from general_manager.manager.change import deleted, identify, read_values
from general_manager.manager.elsewhere import is_reported_elsewhere
from general_manager.manager.reporting import announce, is_announced, report
from general_manager.manager.stored import MISSING, Columns, StoredRow, key_values, take_write_lock
from general_manager.manager.trackers import Tracker, trackers


class _Going(NamedTuple):
    """A row that is being deleted."""

    instance: ref[Model]
    origin: int
    identification: Mapping[str, Any]
    values: Mapping[str, Any]
    row: tuple[type[Model], str]


class _Batch(NamedTuple):
    origin: ref[QuerySet[Any]]
    rows: dict[tuple[Any, ...], StoredRow]


class _Here(local):
    def __init__(self) -> None:
        self.going: dict[int, _Going] = {}
        self.numbers: dict[tuple[type[Model], str], int] = {}
        self.batch: _Batch | None = None


_here = _Here()


def track_deletions(model: type[Model]) -> None:
    """Report every deletion of *model*'s rows, also through proxies."""
    _listen(model)
    for known in _proxies(model):
        _listen(known)
    class_prepared.connect(_listen_to_proxy, dispatch_uid="general_manager.manager.deleting")


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
    uid = "general_manager.manager.deleting"
    pre_delete.connect(before_delete, sender=model, dispatch_uid=uid)
    post_delete.connect(after_delete, sender=model, dispatch_uid=uid)


def before_delete(
    sender: type[Model], instance: Model, using: str, origin: Any = None, **_: Any
) -> None:
    _forget(id(instance))  # left over from a deletion that failed
    tracker = trackers.get(sender._meta.concrete_model or sender)
    if tracker is None or is_reported_elsewhere(tracker.model, instance, using):
        return
    if instance.get_deferred_fields() or _is_the_callers(instance, origin):
        row = _read(tracker, instance, using, origin)
        if row is None:
            return  # already deleted
        values = row.values(tracker.fields)
        key = {
            one.attname: getattr(instance, one.attname) if value is MISSING else value
            for one in tracker.model._meta.pk_fields
            for value in (row.value(one),)
        }
    else:  # it has just been read
        values = read_values(instance, {one.name for one in tracker.fields})
        key = identify(instance, tracker.model)
    if not _remember(tracker, instance, origin, key, values):
        return
    if is_announced(tracker.model):
        announce(tracker.model, instance, "delete", {}, using)


def after_delete(sender: type[Model], instance: Model, using: str, **_: Any) -> None:
    gone = _forget(id(instance))
    tracker = trackers.get(sender._meta.concrete_model or sender)
    if gone is None or tracker is None or gone.instance() is not instance:
        return
    changes = deleted(gone.values)
    report(tracker, "delete", gone.identification, changes, instance=instance, using=using)


def _remember(
    tracker: Tracker, instance: Model, origin: object, key: dict[str, Any], values: dict[str, Any]
) -> bool:
    """Keep *values* until the row is deleted; false if this deletion already has the row.

    If a child inherits from a proxy, Django deletes the parent's row twice, once as each.
    """
    row = (tracker.model, repr(key))
    other = _here.going.get(_here.numbers.get(row, 0))
    if other is not None and other.origin == id(origin) and other.instance() is not None:
        return False
    number = id(instance)
    _here.numbers[row] = number
    watched = ref(instance, lambda _: _forget(number))
    _here.going[number] = _Going(watched, id(origin), key, values, row)
    return True


def _forget(number: int) -> _Going | None:
    known = _here.going.pop(number, None)
    if known is not None:
        _here.numbers.pop(known.row, None)
    return known


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


def _read(tracker: Tracker, instance: Model, using: str, origin: Any) -> StoredRow | None:
    key = key_values(instance, tracker.model)
    if key is None:
        return None
    columns = tracker.columns
    if isinstance(origin, QuerySet) and origin.model._meta.concrete_model is tracker.model:
        return _take(columns, using, origin, tuple(key.values()))
    if not connections[using].in_atomic_block:
        return columns.read(using, key)
    take_write_lock(tracker.model, using)
    # Django locks dependents first: locking the row before them can deadlock.
    lock = "" if has_dependents(tracker.model) else "delete"
    return columns.read(using, key, lock=lock)


def _take(
    columns: Columns, using: str, origin: QuerySet[Any], key: tuple[Any, ...]
) -> StoredRow | None:
    """One of the rows that a queryset with deferred fields deletes; one statement reads all.

    Each row is returned once. A row that is missing belongs to a later deletion.
    """
    batch = _here.batch
    if batch is None or batch.origin() is not origin or key not in batch.rows:
        _here.batch = batch = _Batch(ref(origin), _read_all(columns, using, origin))
    return batch.rows.pop(key, None)


def _read_all(columns: Columns, using: str, origin: QuerySet[Any]) -> dict[Any, StoredRow]:
    chosen = origin.using(using).order_by().values("pk")
    chosen.query.select_for_update = False
    keys = columns.model._meta.pk_fields
    return {
        tuple(row.value(one) for one in keys): row
        for row in columns.read_where(using, Q(pk__in=chosen))
    }


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
