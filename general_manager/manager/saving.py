"""What a save of a tracked model changes, read and reported in the transaction of its statements.

Django's `save_base` sends `pre_save`, saves one table after the other through `_save_table`, and
sends `post_save`. Only the tables are in a transaction, here as without tracking: the receivers of
Django's signals run outside of it.
"""

from collections.abc import Callable, Iterable
from functools import partial, wraps
from threading import local
from typing import Any

from django.db import connections, router
from django.db.models import Model

from general_manager.atomic import writing_atomic
from general_manager.manager.change import Action, read_values
from general_manager.manager.elsewhere import is_reported_elsewhere
from general_manager.manager.reporting import announce, is_announced, report_row, reported_so_far
from general_manager.manager.stored import Columns, StoredRow, key_values
from general_manager.manager.trackers import NOTHING, Plan, plan_for

SaveTable = Callable[..., Any]


class _Here(local):
    def __init__(self) -> None:
        self.saves: list[_Save] = []


_here = _Here()
_wrappers: set[Any] = set()


def track_saves(model: type[Model]) -> None:
    """Have every save of *model*'s instances reported."""
    tracked: Any = model
    if tracked.save_base not in _wrappers:  # which a parent may have
        tracked.save_base = _around_save(model, tracked.save_base)
        _wrappers.add(tracked.save_base)
    if tracked._save_table not in _wrappers:  # noqa: SLF001 - Django's door
        tracked._save_table = _around_table(tracked._save_table)  # noqa: SLF001 - Django's door
        _wrappers.add(tracked._save_table)  # noqa: SLF001 - Django's door


def _around_save(model: type[Model], save_base: Callable[..., None]) -> Callable[..., None]:
    @wraps(save_base)
    def tracked_save_base(  # noqa: PLR0917 - Django's own signature
        instance: Model,
        raw: bool = False,  # noqa: FBT001, FBT002 - Django's own signature
        force_insert: Any = False,  # noqa: FBT002 - the same
        force_update: bool = False,  # noqa: FBT001, FBT002 - the same
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
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
        )
        current = _here.saves[-1] if _here.saves else None
        if raw:
            return save()
        if current is not None and current.instance is instance and model not in current.around:
            current.around.add(model)  # this class and its parent are both tracked: it is one save
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
        raw: bool = False,  # noqa: FBT001, FBT002 - Django's own signature
        cls: Any = None,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        def save() -> Any:
            return save_table(instance, raw, cls, *arguments, **options)

        current = _here.saves[-1] if _here.saves else None
        if raw or current is None or current.instance is not instance or current.in_table:
            return save()
        return current.save_table(cls, save)

    return tracked_save_table


class _Save:
    """One save of one instance, which may go to several tables."""

    __slots__ = (
        "around", "before", "begun", "force_insert", "force_update", "in_table", "instance",
        "model", "outermost", "plan", "update_fields", "using",
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

    def save_table(self, cls: type[Model], save: Callable[[], Any]) -> Any:
        """Save one of the tables, with what comes before the first and after the last."""
        self.in_table = True
        try:
            is_first, self.begun = not self.begun, True
            if is_first and not is_reported_elsewhere(self.instance, self.using):
                names = None if self.update_fields is None else frozenset(self.update_fields)
                self.plan = plan_for(self.model, names)
            if not self.plan.parts:
                return save()
            if self.model._meta.parents:  # Django itself has one transaction for all tables
                return self._save_table(save, is_first=is_first, is_last=cls is self.model)
            with writing_atomic(self.using, savepoint=False):
                return self._save_table(save, is_first=True, is_last=True)
        finally:
            self.in_table = False

    def _save_table(self, save: Callable[[], Any], *, is_first: bool, is_last: bool) -> Any:
        if is_first:
            self._begin()
        result = save()
        if is_last:
            self._finish()
        return result

    def _begin(self) -> None:
        """Read what is there, and announce what is about to be made of it."""
        self.before = self._read_before()
        reported = reported_so_far()
        for part, row in zip(self.plan.parts, self.before, strict=True):
            if not is_announced(part.tracker.model):
                continue
            values = read_values(self.instance, {one.name for one in part.fields})
            action: Action = "create" if row is None else "update"
            announce(part.tracker.model, self.instance, action, values, self.using)
        if reported != reported_so_far():  # by a receiver's doing: perhaps of this row
            self.before = self._read_before()

    def _finish(self) -> None:
        """Read what is there now, and report what changed."""
        after = self._read_after()
        state = self.instance._state
        kept = (state.adding, state.db)
        state.adding, state.db = False, self.using  # as Django does next; receivers may save it
        try:
            for place, part in enumerate(self.plan.parts):
                rows = self.before[place], after[place]
                report_row(part, self.instance, *rows, self.using)
        except BaseException:
            state.adding, state.db = kept
            raise

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
        # A child is added to a parent's row that was there before.
        return tuple(
            self._read(part.tracker.columns, lock="update") if may else None
            for part, may in zip(parts, there, strict=True)
        )

    def _read_after(self) -> tuple[StoredRow | None, ...]:
        # To MariaDB, a row that an UPDATE left as it was is as old as the caller's snapshot; a
        # locking read sees what the one before saw.
        updated = any(row is not None for row in self.before)
        lock = "update" if updated and connections[self.using].vendor == "mysql" else ""
        row = self._read(self.plan.columns, lock=lock)
        return (row,) * len(self.plan.parts)

    def _read(self, columns: Columns, *, lock: str) -> StoredRow | None:
        key = key_values(self.instance, columns.model)
        return None if key is None else columns.read(self.using, key, lock=lock)

    def _looks_first(self) -> bool:
        """Whether Django asks for the row before it updates, so that it need not be allowed to."""
        is_forced = self.force_update or self.update_fields is not None
        return self.model._meta.select_on_save and not self.model._meta.parents and not is_forced

    def _may_be_there(self, model: type[Model]) -> bool:
        """Whether a save may find a row of *model*: what Django asks before it tries an UPDATE."""
        if self.force_update or self.update_fields is not None:
            return True
        meta = model._meta
        force = self.force_insert
        if force and (model is self.model or (force is not True and issubclass(model, force))):
            return False
        adding = self.instance._state.adding
        if key_values(self.instance, model) is None:
            if adding or len(meta.pk_fields) > 1 or not meta.pk_fields[0].has_default():
                return False
            # The next thing that Django does, and it then looks for a row of this key.
            key: Any = meta.pk_fields[0]
            setattr(self.instance, key.attname, key.get_pk_value_on_save(self.instance))
            return key_values(self.instance, model) is not None
        defaulted = all(one.has_default() or one.has_db_default() for one in meta.pk_fields)
        return not (adding and defaulted)


def take_write_lock(model: type[Model], using: str) -> None:
    """On SQLite, make the transaction that Django has begun a writing one before it reads.

    Afterwards SQLite refuses that at once, if another connection wrote in between.
    """
    connection = connections[using]
    if connection.vendor != "sqlite" or not model._meta.managed:
        return
    if connection.transaction_mode is None:  # type: ignore[attr-defined]  # SQLite's own
        table = connection.ops.quote_name(model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table} WHERE 0")  # noqa: S608 - the table's own name
