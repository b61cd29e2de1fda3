"""The changes of a tracked model's save, read and reported in the save's transaction.

Django's `save_base` sends `pre_save`, saves each table through `_save_table`, and sends
`post_save`. Only the tables are saved in a transaction, with tracking as without: receivers of
Django's own signals run outside it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from threading import local
from typing import Any, Final

from django.db import connections, router
from django.db.models import Model

from general_manager.manager.change import Action, read_values
from general_manager.manager.elsewhere import is_reported_elsewhere
from general_manager.manager.reporting import announce, is_announced, report_row, reported_so_far
from general_manager.manager.returning import Returned, may_return
from general_manager.manager.rows import may_be_there, row_transaction
from general_manager.manager.stored import Columns, StoredRow, sought_key, take_write_lock
from general_manager.manager.trackers import NOTHING, Plan, plan_for

SaveTable = Callable[..., Any]


class _Here(local):
    def __init__(self) -> None:
        self.saves: list[_Save] = []


_here = _Here()
_wrappers: set[Any] = set()
_DJANGO: Final[Any] = Model
_OF_A_TABLE: Final = ("force_insert", "force_update", "using", "update_fields")
_of_django: set[Any] = {_DJANGO._save_table, _DJANGO._do_update}
"""Django's own methods, and ours that call nothing else."""


def track_saves(model: type[Model]) -> None:
    """Report every save of *model*'s instances."""
    tracked: Any = model
    if tracked.save_base not in _wrappers:  # a parent may have it
        tracked.save_base = _around_save(model, tracked.save_base)
        _wrappers.add(tracked.save_base)
    for name, around in (("_save_table", _around_table), ("_do_update", _around_update)):
        method = getattr(tracked, name)
        if method in _wrappers:
            continue
        setattr(tracked, name, around(method))
        _wrappers.add(getattr(tracked, name))
        if method in _of_django:
            _of_django.add(getattr(tracked, name))


def _around_save(model: type[Model], save_base: Callable[..., None]) -> Callable[..., None]:
    @wraps(save_base)
    def tracked_save_base(
        instance: Model,
        raw: bool = False,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
        **more: Any,
    ) -> None:
        using = using or router.db_for_write(type(instance), instance=instance)
        save = partial(
            save_base,
            instance,
            raw=raw,
            force_insert=force_insert,
            force_update=force_update,
            using=using,
            update_fields=update_fields,
            **more,
        )
        current = _here.saves[-1] if _here.saves else None
        if raw:
            return save()
        if current is not None and current.instance is instance and model not in current.around:
            current.around.add(model)  # one save, though class and parent are tracked
            return save()
        ways = (force_insert, force_update, update_fields)
        _here.saves.append(_Save(model, instance, ways, using))
        try:
            return save()
        finally:
            _here.saves.pop()

    return tracked_save_base


def _around_table(save_table: SaveTable) -> SaveTable:
    @wraps(save_table)
    def tracked_save_table(
        instance: Model,
        raw: bool = False,
        cls: Any = None,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        save = partial(save_table, instance, raw, cls, *arguments, **options)
        given = dict(zip(_OF_A_TABLE, arguments, strict=False)) | options
        current = _here.saves[-1] if _here.saves else None
        if raw or current is None or current.instance is not instance or current.in_table:
            return save()
        return current.save_table(cls, save, given)

    return tracked_save_table


def _around_update(do_update: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(do_update)
    def tracked_do_update(instance: Model, *arguments: Any, **named: Any) -> Any:
        update = partial(do_update, instance, *arguments, **named)
        given: dict[Any, Any] = dict(enumerate(arguments)) | named
        returning = given.get("returning_fields", given.get(6))
        current = _here.saves[-1] if _here.saves else None
        if current is None or current.instance is not instance or current.returned is None:
            return update()
        has_values = bool(given.get("values", given.get(3)))
        return current.update(update, is_simple=has_values and not returning)

    return tracked_do_update


class _Save:
    """One save of one instance, possibly to several tables."""

    __slots__ = (
        "around", "before", "begun", "force_insert", "force_update", "in_table", "instance",
        "model", "outermost", "plan", "returned", "update_fields", "using",
    )  # fmt: skip

    def __init__(
        self,
        around: type[Model],
        instance: Model,
        ways: tuple[Any, bool, Iterable[str] | None],
        using: str,
    ) -> None:
        self.around = {around}
        self.instance = instance
        self.model: Any = instance._meta.concrete_model
        self.force_insert, self.force_update, self.update_fields = ways
        self.using = using
        self.outermost = not connections[using].in_atomic_block
        self.begun = self.in_table = False
        self.plan: Plan = NOTHING
        self.before: tuple[StoredRow | None, ...] = ()
        self.returned: Returned | None = None

    def save_table(
        self, cls: type[Model], save: Callable[[], Any], given: Mapping[str, Any]
    ) -> Any:
        """Save one of the tables; begin before the first and finish after the last."""
        self.in_table = True
        try:
            is_first, self.begun = not self.begun, cls is not self.model
            if is_first:
                self._take_over(given)
                self.plan = self._planned()
            if not self.plan.parts:
                return save()
            if self.model._meta.parents:  # Django itself uses one transaction for all tables
                return self._save_table(save, is_first=is_first, is_last=cls is self.model)
            with row_transaction(self.instance, self.using, is_outermost=self.outermost):
                return self._save_table(save, is_first=True, is_last=True)
        finally:
            self.in_table = False

    def _take_over(self, given: Mapping[str, Any]) -> None:
        """What a `save_base` of the class's own has made of the arguments of the save."""
        self.update_fields = given.get("update_fields", self.update_fields)
        using = given.get("using") or self.using
        if using != self.using:
            self.using, self.outermost = using, not connections[using].in_atomic_block
        if not self.model._meta.parents:  # their tables have arguments of their own
            self.force_insert = given.get("force_insert", self.force_insert)
            self.force_update = given.get("force_update", self.force_update)

    def _planned(self) -> Plan:
        names = None if self.update_fields is None else frozenset(self.update_fields)
        plan = plan_for(self.model, names)
        left = [
            one
            for one in plan.parts
            if not is_reported_elsewhere(one.tracker.model, self.instance, self.using)
        ]
        return plan if len(left) == len(plan.parts) else plan._replace(parts=tuple(left))

    def _save_table(self, save: Callable[[], Any], *, is_first: bool, is_last: bool) -> Any:
        if is_first:
            self._begin()
        result = save()
        if is_last:
            self._finish()
        return result

    def update(self, update: Callable[[], Any], *, is_simple: bool) -> Any:
        """Update the row, which has not been read; *is_simple* if the UPDATE can return it."""
        if self.returned is None or not is_simple:
            self.returned = None
            self.before = self._read_before()
            return update()
        result = self.returned.during(update)
        self.before = (self.returned.before,)
        return result

    def _begin(self) -> None:
        """Read the row and send `pre_data_change`."""
        self.returned = None
        if self._will_return():
            self.returned = Returned(self.plan.columns, self.using)
            self.before = (None,)
            return
        self.before = self._read_before()
        reported = reported_so_far()
        for part, row in zip(self.plan.parts, self.before, strict=True):
            if not is_announced(part.tracker.model):
                continue
            values = read_values(self.instance, {one.name for one in part.fields})
            action: Action = "create" if row is None else "update"
            announce(part.tracker.model, self.instance, action, values, self.using)
        if reported != reported_so_far():  # a receiver made changes, perhaps to this row
            self.before = self._read_before()

    def _finish(self) -> None:
        """Read the row again and report the changes."""
        after = self._read_after()
        state = self.instance._state
        kept = (state.adding, state.db)
        state.adding, state.db = False, self.using  # Django does it next; receivers may save it
        try:
            for place, part in enumerate(self.plan.parts):
                rows = self.before[place], after[place]
                report_row(part, self.instance, *rows, self.using)
        finally:  # Django says so itself, once this is committed
            state.adding, state.db = kept

    def _will_return(self) -> bool:
        """Whether the UPDATE returns the row, so that nothing is read before it."""
        if len(self.plan.parts) > 1 or self.model._meta.parents or self.model._meta.select_on_save:
            return False
        kind: Any = type(self.instance)
        [part] = self.plan.parts
        return (
            {kind._save_table, kind._do_update} <= _of_django
            and self._may_be_there(part.tracker.model)
            and not is_announced(part.tracker.model)
            and may_return(self.model, self.plan.columns, self.using)
        )

    def _read_before(self) -> tuple[StoredRow | None, ...]:
        parts = self.plan.parts
        there = [self._may_be_there(one.tracker.model) for one in parts]
        if not any(there):
            return (None,) * len(parts)
        if self.outermost and self.model._meta.parents:
            take_write_lock(self.model, self.using)
        if self._looks_first() and self._read(self.plan.columns, lock="") is None:
            return (None,) * len(parts)
        row = self._read(self.plan.columns, lock="update") if all(there) else None
        if row is not None:
            return (row,) * len(parts)
        if len(parts) == 1 and all(there):
            return (None,)
        # A child is added to an existing parent row.
        return tuple(
            self._read(part.tracker.columns, lock="update") if may else None
            for part, may in zip(parts, there, strict=True)
        )

    def _read_after(self) -> tuple[StoredRow | None, ...]:
        if self.returned is not None and self.returned.after is not None:
            return (self.returned.after,)
        # If an UPDATE does not change the row, MariaDB still reads it from the caller's snapshot;
        # a locking read sees the same row as the read before.
        updated = any(row is not None for row in self.before)
        lock = "update" if updated and connections[self.using].vendor == "mysql" else ""
        row = self.plan.columns.read_of(self.instance, self.using, lock=lock)
        return (row,) * len(self.plan.parts)

    def _read(self, columns: Columns, *, lock: str) -> StoredRow | None:
        return columns.read_of(self.instance, self.using, lock=lock, key_of=sought_key)

    def _looks_first(self) -> bool:
        """Whether Django selects the row before its UPDATE, so that a missing row needs no lock."""
        is_forced = self.force_update or self.update_fields is not None
        return self.model._meta.select_on_save and not self.model._meta.parents and not is_forced

    def _may_be_there(self, model: type[Model]) -> bool:
        """Whether the save may find an existing row in *model*'s table."""
        if self.force_update or self.update_fields is not None:
            return True
        force = self.force_insert
        if force and (model is self.model or (force is not True and issubclass(model, force))):
            return False
        return may_be_there(self.instance, model)
