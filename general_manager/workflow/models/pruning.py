"""Retention: deletes finished rows in batches, with the rows that belong to them."""

from collections.abc import Collection
from typing import Any, Final

from django.db import models, transaction

from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.sql.deletes import (
    Family,
    Reference,
    blocking,
    delete_referred,
    is_kept,
    references,
    warn_once,
)

FINISHED: Final = (WorkflowState.COMPLETED, WorkflowState.CANCELLED)
FAILED: Final = (WorkflowState.FAILED,)
"""Failed executions and dead letters are kept until their deletion is asked for."""


def not_kept(rows: Any) -> "models.QuerySet[Any]":
    """Those of *rows* that no row of the project keeps."""
    blockers = blocking(references(rows.family(), rows.db))
    kept: models.QuerySet[Any] = rows.exclude(is_kept(blockers, rows.db)) if blockers else rows
    return kept


def kept_by(rows: Any) -> "dict[str, models.QuerySet[Any]]":
    """The project's relations that keep some of *rows* from being pruned, each with those rows."""
    found = blocking(references(rows.family(), rows.db))
    return {str(one): rows.filter(is_kept([one], rows.db)) for one in found}


def prune_referred(rows: Any, limit: int, family: Family, found: Collection[Reference]) -> int:
    """`prune`, if rows of the project refer to ours: as Django deletes, with its signals."""
    blockers = blocking(found)
    free = not_kept(rows)
    kept: set[int] = set()
    while True:
        with transaction.atomic(using=rows.db):
            keys = take(free.exclude(pk__in=kept), limit)
            if not keys:
                break
            stay = delete_referred(family, keys, rows.db, found)
        kept |= stay
        if len(stay) < len(keys):
            return len(keys) - len(stay)
    for one in blockers:
        if rows.filter(is_kept([one], rows.db)).exists():
            warn_once(family, str(one))
    return 0


def prune_alone(rows: Any, limit: int, family: Family) -> int:
    """`prune`, if no row of the project refers to ours: one DELETE for each table, root last."""
    with transaction.atomic(using=rows.db):
        keys = take(rows, limit)
        if keys:
            if family.beforehand is not None:
                family.beforehand(keys, rows.db)
            roots = keys
            if family.way != "pk":
                found = family.root._base_manager.using(rows.db)
                found = found.filter(**{f"{family.way}__in": keys})
                roots = list(found.values_list("pk", flat=True))
            for model, way in reversed(list(family.tables.items())):
                if model is not family.root:
                    delete(model, rows.db, **{f"{way}__in": keys})
            delete(family.root, rows.db, pk__in=roots)
        return len(keys)


def take(rows: "models.QuerySet[Any]", limit: int) -> list[int]:
    # Unordered: sorting would read all prunable rows for each batch.
    free = rows.order_by().select_for_update(skip_locked=True)
    return list(free.values_list("pk", flat=True)[:limit])


def delete(model: type[models.Model], using: str, **which: Collection[Any]) -> None:
    """One DELETE. Django's public API loads every row if there is a receiver for deletions."""
    rows: Any = model._base_manager.using(using).filter(**which)
    rows._raw_delete(using)  # noqa: SLF001 - see above
