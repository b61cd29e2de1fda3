"""Bulk changes that are reported on request, in a bounded number of statements."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

from asgiref.sync import sync_to_async
from django import VERSION
from django.db import NotSupportedError, connections
from django.db.models import Model, Q, QuerySet
from django.db.models.sql import Query

from general_manager.atomic import writing_atomic
from general_manager.manager.change import Action, read_values
from general_manager.manager.reporting import Batch, announce, is_announced, report_row
from general_manager.manager.spelling import Rows, stored_key
from general_manager.manager.stored import StoredRow, key_values
from general_manager.manager.trackers import Plan, plan_for_bulk
from general_manager.manager.verbs import alters_data

M = TypeVar("M", bound=Model)

CHUNK = 2_000
"""Rows per chunk, if the database accepts as many keys."""

_WRITING: Final = "_general_manager_writing"


class PublishingQuerySet(QuerySet[M]):
    """`update`, `bulk_create` and `bulk_update` that report each row that they change.

    ::

        class Check(models.Model):
            objects = PublishingQuerySet.as_manager()


        Check.objects.filter(due__lt=now).update_and_publish(status="down")

    Rows are reported as configured by `track_changes`, else with all fields and under the
    model's name. Each verb runs in one transaction and takes a fixed number of statements for
    each chunk of rows.
    """

    @alters_data
    def update_and_publish(self, **values: Any) -> int:
        """Change the matching rows, as `update` does, and report those that actually changed."""
        if self.query.is_sliced:
            raise TypeError("Cannot update a query once a slice has been taken.")
        if self.query.distinct_fields and VERSION >= (6, 1):  # as its own update
            raise TypeError("Cannot call update_and_publish() after .distinct(*fields).")
        _refuse_keys(self.model, values)
        if self._is_writing():
            return super().update(**values)
        self._for_write = True
        using = self.db
        with writing_atomic(using):
            chunks = list(_chunks(self._chosen(), self.model, using))
            if len(chunks) == 1:
                changes = _Changes(self.model, using)
                changes.read_before(chunks[0])
                return self._update(self._matching(chunks[0]), values, changes)
            # Writing the first chunk may change what the filter says of the others.
            held = [self._hold(one) for one in chunks]
            return sum(self._update(one, values) for one in held)

    def _chosen(self) -> list[Any]:
        """The keys of the rows to update, in the order in which to update them."""
        rows = self._undistinguished()
        if not self._is_ordered():
            rows = rows.order_by("pk")
        return list(dict.fromkeys(rows.values_list("pk", flat=True)))

    def _is_ordered(self) -> bool:
        """Whether the UPDATE takes the rows in the caller's order, as for a unique column."""
        return connections[self.db].vendor == "mysql" and bool(self.query.order_by)

    def _undistinguished(self) -> Self:
        """A copy without `distinct`, which an UPDATE does not heed."""
        rows = self.using(self.db)
        rows.query.distinct, rows.query.distinct_fields = False, ()
        return rows

    def _hold(self, keys: Sequence[Any]) -> list[Any]:
        """Lock the rows with *keys*; returns the keys of those that still match."""
        if connections[self.db].features.has_select_for_update:
            _Changes(self.model, self.db).read_before(keys)
        return self._matching(keys)

    def _matching(self, keys: Sequence[Any]) -> list[Any]:
        """Rows that changed while we waited for the lock may no longer match."""
        rows = self._undistinguished().filter(pk__in=keys)
        return list(rows.values_list("pk", flat=True))

    def _update(
        self, keys: Sequence[Any], values: dict[str, Any], changes: "_Changes | None" = None
    ) -> int:
        """Change and report the rows with *keys*; *changes* if they have been read."""
        if changes is None:
            changes = _Changes(self.model, self.db)
            changes.read_before(keys)
        changes.announce("update", [values] * len(keys))
        changed = self._rows_to_update().filter(pk__in=keys).update(**values)
        changes.report_updates(keys)
        return changed

    def _rows_to_update(self) -> Self:
        """All rows, with the annotations to which the new values may refer."""
        rows = self._undistinguished()
        if rows.query.annotations:
            rows.query.clear_where()
            rows.query.clear_ordering(force=True)
        else:
            rows.query = Query(self.model)
        if self._is_ordered():
            rows.query.order_by = self.query.order_by
        return self._writer(rows)

    def _writer(self, rows: Self | None = None) -> Self:
        """*rows*, or a copy, to write with by a subclass's methods: these may call the verb."""
        rows = self.using(self.db) if rows is None else rows
        setattr(rows.query, _WRITING, True)  # also in its copies
        return rows

    def _is_writing(self) -> bool:
        return getattr(self.query, _WRITING, False)

    @alters_data
    def bulk_update_and_publish(
        self, objs: Iterable[M], fields: Sequence[str], batch_size: int | None = None
    ) -> int:
        """`bulk_update` that reports each row that actually changed."""
        if self._is_writing():
            return super().bulk_update(objs, fields, batch_size)
        self._for_write = True
        using = self.db
        fields = list(fields)  # each chunk needs them all
        changed = 0
        with writing_atomic(using):
            for chunk in _chunks(list(objs), self.model, using):
                changes = _Changes(self.model, using)
                changes.read_before([one.pk for one in chunk])
                changes.announce("update", [read_values(one, set(fields)) for one in chunk])
                changed += self._writer().bulk_update(chunk, fields, batch_size)
                changes.report_updates([one.pk for one in chunk])
        return changed

    @alters_data
    def bulk_create_and_publish(self, objs: Iterable[M], batch_size: int | None = None) -> list[M]:
        """`bulk_create` that reports each new row.

        Raises `NotSupportedError`, with nothing created, if the database does not return the keys
        of new rows. ``ignore_conflicts`` is not supported: it hides which rows were created.
        """
        if self._is_writing():
            return super().bulk_create(objs, batch_size)
        self._for_write = True
        using = self.db
        made: list[M] = []
        with writing_atomic(using):
            for chunk in _chunks(list(objs), self.model, using):
                changes = _Changes(self.model, using)
                changes.announce("create", [read_values(one) for one in chunk])
                created = self._writer().bulk_create(chunk, batch_size)
                if any(key_values(one, self.model) is None for one in created):
                    raise NotSupportedError(
                        f"{connections[using].display_name} does not return the keys of new "
                        f"rows of {self.model._meta.label}. Set the keys, or save one by one."
                    )
                changes.report_creations(created)
                made += created
        return made

    @alters_data
    async def aupdate_and_publish(self, **values: Any) -> int:
        return await sync_to_async(self.update_and_publish)(**values)

    @alters_data
    async def abulk_update_and_publish(
        self, objs: Iterable[M], fields: Sequence[str], batch_size: int | None = None
    ) -> int:
        return await sync_to_async(self.bulk_update_and_publish)(objs, fields, batch_size)

    @alters_data
    async def abulk_create_and_publish(
        self, objs: Iterable[M], batch_size: int | None = None
    ) -> list[M]:
        return await sync_to_async(self.bulk_create_and_publish)(objs, batch_size)


class _Changes:
    """The changes to one chunk of rows."""

    def __init__(self, model: type[Model], using: str) -> None:
        self._using = using
        self._plan: Plan = plan_for_bulk(model)
        self._batch = Batch(using)
        self._model = self._plan.columns.model
        self._before: dict[Any, StoredRow] = {}

    def read_before(self, keys: Sequence[Any]) -> None:
        """Lock the rows with *keys*, and keep them to compare."""
        found = self._plan.columns.read_where(self._using, Q(pk__in=keys), lock="update")
        self._before = {stored_key(self._model, row): row for row in found}

    def announce(self, action: Action, values: Iterable[Mapping[str, Any]]) -> None:
        for part in self._plan.parts:
            for wanted in values if is_announced(part.tracker.model) else ():
                announce(part.tracker.model, None, action, dict(wanted), self._using)

    def report_updates(self, keys: Sequence[Any]) -> None:
        for row in self._read(keys, lock=self._relock()).in_order_of(keys):
            before = self._before.get(stored_key(self._model, row))
            for part in self._plan.parts if before is not None else ():
                report_row(part, None, before, row, self._using, batch=self._batch)
        self._batch.finish()

    def report_creations(self, created: Sequence[Model]) -> None:
        after = self._read([one.pk for one in created])
        for instance in created:
            row = after.find(instance.pk)
            for part in self._plan.parts:
                report_row(part, instance, None, row, self._using, batch=self._batch)
        self._batch.finish()

    def _relock(self) -> str:
        return "update" if connections[self._using].vendor == "mysql" else ""

    def _read(self, keys: Sequence[Any], *, lock: str = "") -> Rows:
        found = self._plan.columns.read_where(self._using, Q(pk__in=keys), lock=lock)
        return Rows(self._model, self._using, found)


def _chunks(items: list[Any], model: type[Model], using: str) -> Iterator[list[Any]]:
    """The *items* in chunks: one if there are none, so that Django checks the arguments."""
    limit = connections[using].features.max_query_params
    size = min(CHUNK, (limit or CHUNK) // 2 // len(model._meta.pk_fields))
    for start in range(0, len(items) or 1, size):
        yield items[start : start + size]


def _refuse_keys(model: type[Model], values: Mapping[str, Any]) -> None:
    keys = {name for one in model._meta.pk_fields for name in (one.name, one.attname)} | {"pk"}
    for name in values:
        if name in keys:
            raise TypeError(f"{model.__name__}.{name} identifies the row and cannot be changed")
