"""What is known of the rows of one deletion, until they are gone."""

from collections import Counter
from collections.abc import Mapping
from threading import local
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from django.db import connections
from django.db.models import CASCADE, DO_NOTHING, PROTECT, RESTRICT, Field, Model, Q, QuerySet

from general_manager.manager.change import read_values
from general_manager.manager.deletions.removing import Removals, may_return
from general_manager.manager.spelling import Key, written_key
from general_manager.manager.stored import Columns, StoredRow, key_values, take_write_lock
from general_manager.manager.trackers import Tracker


class Going(NamedTuple):
    """A row that is being deleted."""

    instance: ref[Model]
    identification: Mapping[str, Any]
    values: Mapping[str, Any]
    is_whole: bool
    """Whether *values* is all that could be read: else the instance's values are used, too."""
    is_there: bool = True
    """Whether the row was found before."""


class _Removed(NamedTuple):
    """What the DELETE statements returned for the rows of one class."""

    rows: dict[Key, StoredRow]
    all: bool
    """Whether they removed every row: there are keys that cannot be compared."""


class Deletion:
    """One deletion, and all to which it cascades.

    It is known by the transaction block that Django opens for it. One that failed is tried again
    in another block, so that nothing of the first attempt is taken for the second's.
    """

    def __init__(self, using: str, removals: Removals | None) -> None:
        self.using = using
        self._removals = removals
        self._going: dict[int, Going] = {}
        self._returned: dict[Tracker, frozenset[str] | None] = {}
        self._known: set[tuple[type[Model], Key]] = set()
        self._counts: Counter[type[Model]] = Counter()
        self._removed: dict[type[Model], _Removed | None] = {}
        self._chosen: dict[Key, StoredRow] | None = None
        self.is_over = False

    def ask(self, tracker: Tracker) -> frozenset[str] | None:
        """Have the DELETE return the row; the names of the returned fields, `None` if it cannot."""
        if tracker not in self._returned:
            self._returned[tracker] = None
            if self._removals is not None and may_return(tracker.model, self.using):
                own = _own_fields(tracker, self.using)
                self._removals.ask(tracker.model, own)
                self._returned[tracker] = frozenset(one.name for one in own)
        return self._returned[tracker]

    def read(
        self, tracker: Tracker, instance: Model, origin: Any, *, lock: str
    ) -> StoredRow | None:
        """The row as stored. One statement reads all rows of a queryset with deferred fields.

        A receiver may have changed a row so that the queryset no longer chooses it.
        """
        key = key_values(instance, tracker.model)
        if key is None:
            return None
        if isinstance(origin, QuerySet) and origin.model._meta.concrete_model is tracker.model:
            if self._chosen is None:
                self._chosen = _read_all(tracker.columns, self.using, origin)
            row = self._chosen.pop(written_key(tracker.model, key.values()), None)
            if row is not None:
                return row
        if not connections[self.using].in_atomic_block:
            return tracker.columns.read(self.using, key)
        take_write_lock(tracker.model, self.using)
        return tracker.columns.read(self.using, key, lock=lock)

    def add(self, sender: type[Model], tracker: Tracker, going: Going) -> bool:
        """Keep *going* until the row is removed; false if the row is known already.

        If a child inherits from a proxy, Django deletes the parent's row twice, once as each.
        """
        row = (tracker.model, written_key(tracker.model, going.identification.values()))
        if row in self._known:
            return False
        self._known.add(row)
        self._going[id(going.instance())] = going
        self.count(sender)
        return True

    def count(self, sender: type[Model]) -> None:
        """Expect the removal of one more row."""
        self._counts[sender] += 1

    def pop(self, instance: Model) -> Going | None:
        found = self._going.pop(id(instance), None)
        if found is None or found.instance() is not instance:
            return None
        if not self._going:
            self.is_over = True
            if self._removals is not None:
                self._removals.stop()
        return found

    def values_of(
        self, going: Going, sender: type[Model], tracker: Tracker, instance: Model
    ) -> dict[str, Any] | None:
        """The values of the row when it was removed; `None` if this deletion did not remove it."""
        names = [one.name for one in tracker.fields]
        removed = self._removed_of(sender, tracker)
        key = written_key(tracker.model, going.identification.values())
        row = None if removed is None else removed.rows.pop(key, None)
        if row is not None:
            own = self._returned[tracker] or frozenset()
            kept = {name: one for name, one in going.values.items() if name not in own}
            values = kept | row.values([one for one in tracker.fields if one.name in own])
        elif not (going.is_there if removed is None else removed.all):
            return None
        elif going.is_whole:
            values = dict(going.values)
        else:
            values = {**read_values(instance, names), **going.values}
        return {name: values[name] for name in names if name in values}

    def _removed_of(self, sender: type[Model], tracker: Tracker) -> _Removed | None:
        """What the statements returned; `None` if they could not be asked."""
        if sender not in self._removed:
            rows = None if self._removals is None else self._removals.take(tracker.model)
            self._removed[sender] = (
                None
                if rows is None
                else _Removed(
                    {_key(tracker.model, row): row for row in rows},
                    all=len(rows) == self._counts[sender],
                )
            )
        return self._removed[sender]


class _Here(local):
    def __init__(self) -> None:
        self.deletions: WeakKeyDictionary[Any, Deletion] = WeakKeyDictionary()


_here = _Here()


def begin_deletion(using: str) -> Deletion:
    """The deletion to which a row belongs whose deletion begins.

    Without a transaction block it is not one of Django's: other code sends the signals, and each
    row is a deletion of its own.
    """
    block = _block(using)
    found = _here.deletions.get(block)
    if block is connections[using]:
        found = _here.deletions[block] = Deletion(using, None)
    elif found is None or found.is_over:
        found = _here.deletions[block] = Deletion(using, Removals(block, using))
    return found


def current_deletion(using: str) -> Deletion | None:
    return _here.deletions.get(_block(using))


def _block(using: str) -> Any:
    connection = connections[using]
    return connection.atomic_blocks[-1] if connection.atomic_blocks else connection


def _own_fields(tracker: Tracker, using: str) -> "list[Field[Any, Any]]":
    """The reported fields that a DELETE returns: those in the table of the class itself.

    Not foreign keys that the deletion itself may set to null, before it deletes the row as well.
    """
    local_fields = tracker.model._meta.local_concrete_fields
    return [one for one in tracker.fields if one in local_fields and not _may_be_unset(one, using)]


def _may_be_unset(field: "Field[Any, Any]", using: str) -> bool:
    remote = field.remote_field
    if remote is None:
        return False
    if remote.on_delete is CASCADE:  # Django unsets what would refer to rows that are gone
        return field.null and not connections[using].features.can_defer_constraint_checks
    return remote.on_delete not in {PROTECT, RESTRICT, DO_NOTHING}


def _read_all(columns: Columns, using: str, origin: QuerySet[Any]) -> dict[Key, StoredRow]:
    chosen = origin.using(using).order_by().values("pk")
    chosen.query.select_for_update = False
    found = columns.read_where(using, Q(pk__in=chosen))
    return {_key(columns.model, row): row for row in found}


def _key(model: type[Model], row: StoredRow) -> Key:
    return written_key(model, map(row.value, model._meta.pk_fields))
