"""Bulk changes that are reported on request, in a bounded number of statements."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import NotSupportedError, connections
from django.db.models import Field, Model, Q, QuerySet

from general_manager.atomic import writing_atomic
from general_manager.manager.change import Action, read_values
from general_manager.manager.reporting import Batch, announce, is_announced, report_row
from general_manager.manager.stored import StoredRow
from general_manager.manager.trackers import Plan, plan_for_bulk
from general_manager.manager.verbs import alters_data

M = TypeVar("M", bound=Model)
Rows = dict[tuple[Any, ...], StoredRow]

CHUNK = 2_000
"""Rows per chunk, if the database accepts as many keys."""


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
        _refuse_keys(self.model, values)
        self._for_write = True
        using = self.db
        with writing_atomic(using):
            ordered = self.using(using).order_by("pk").values_list("pk", flat=True)
            changed = 0
            for keys in _chunks(list(dict.fromkeys(ordered)), self.model, using):
                changes = _Changes(self.model, using)
                changes.read_before(keys)
                # Rows that changed while we waited for the lock may no longer match.
                matching = list(self.using(using).filter(pk__in=keys).values_list("pk", flat=True))
                changes.announce("update", [values] * len(matching))
                rows: QuerySet[M] = QuerySet(self.model, using=using).filter(pk__in=matching)
                changed += rows.update(**values)
                changes.report_updates(matching)
        return changed

    @alters_data
    def bulk_update_and_publish(
        self, objs: Iterable[M], fields: Sequence[str], batch_size: int | None = None
    ) -> int:
        """`bulk_update` that reports each row that actually changed."""
        self._for_write = True
        using = self.db
        changed = 0
        with writing_atomic(using):
            for chunk in _chunks(list(objs), self.model, using):
                changes = _Changes(self.model, using)
                changes.read_before([one.pk for one in chunk])
                changes.announce("update", [read_values(one, set(fields)) for one in chunk])
                changed += self.using(using).bulk_update(chunk, fields, batch_size)
                changes.report_updates([one.pk for one in chunk])
        return changed

    @alters_data
    def bulk_create_and_publish(self, objs: Iterable[M], batch_size: int | None = None) -> list[M]:
        """`bulk_create` that reports each new row.

        Raises `NotSupportedError`, with nothing created, if the database does not return the keys
        of new rows. ``ignore_conflicts`` is not supported: it hides which rows were created.
        """
        self._for_write = True
        using = self.db
        made: list[M] = []
        with writing_atomic(using):
            for chunk in _chunks(list(objs), self.model, using):
                changes = _Changes(self.model, using)
                changes.announce("create", [read_values(one) for one in chunk])
                created = self.using(using).bulk_create(chunk, batch_size)
                if any(one.pk is None for one in created):
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
        self._before: Rows = {}

    def read_before(self, keys: Sequence[Any]) -> None:
        self._before = self._read(keys, lock="update")

    def announce(self, action: Action, values: Iterable[Mapping[str, Any]]) -> None:
        for part in self._plan.parts:
            for wanted in values if is_announced(part.tracker.model) else ():
                announce(part.tracker.model, None, action, dict(wanted), self._using)

    def report_updates(self, keys: Sequence[Any]) -> None:
        after = self._read(keys, lock=self._relock())
        for key, row in after.items():
            for part in self._plan.parts:
                if key in self._before:
                    report_row(part, None, self._before[key], row, self._using, batch=self._batch)
        self._batch.finish()

    def report_creations(self, created: Sequence[Model]) -> None:
        after = self._read([one.pk for one in created])
        for instance in created:
            row = after.get(_tuple(instance.pk))
            for part in self._plan.parts:
                report_row(part, instance, None, row, self._using, batch=self._batch)
        self._batch.finish()

    def _relock(self) -> str:
        return "update" if connections[self._using].vendor == "mysql" else ""

    def _read(self, keys: Sequence[Any], *, lock: str = "") -> Rows:
        columns = self._plan.columns
        fields: Sequence[Field[Any, Any]] = columns.model._meta.pk_fields
        found = columns.read_where(self._using, Q(pk__in=keys), lock=lock)
        rows = {tuple(row.value(one) for one in fields): row for row in found}
        return {key: rows[key] for key in map(_tuple, keys) if key in rows}


def _tuple(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _chunks(items: list[Any], model: type[Model], using: str) -> Iterator[list[Any]]:
    limit = connections[using].features.max_query_params
    size = min(CHUNK, (limit or CHUNK) // 2 // len(model._meta.pk_fields))
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _refuse_keys(model: type[Model], values: Mapping[str, Any]) -> None:
    keys = {name for one in model._meta.pk_fields for name in (one.name, one.attname)} | {"pk"}
    for name in values:
        if name in keys:
            raise TypeError(f"{model.__name__}.{name} identifies the row and cannot be changed")
