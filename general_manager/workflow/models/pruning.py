"""What retention removes: a batch of finished rows at a time, with all that hangs on them."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

from django.db import models, transaction

from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.claiming import ClaimingQuerySet
from general_manager.workflow.models.columns import in_
from general_manager.workflow.models.execution_recovery import RecoveringQuerySet
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.referrers import (
    Family,
    Reference,
    blocking,
    delete_referred,
    is_kept,
    name_once,
    references,
)

Row = TypeVar("Row", bound=models.Model)

OVER: Final = (WorkflowState.COMPLETED, WorkflowState.CANCELLED)
SETTLED: Final = ("processed",)
FAILED: Final = (WorkflowState.FAILED,)
DEAD: Final = ("dead_letter",)
"""What failed is kept until somebody asks for it to go."""


class PruningExecutions(RecoveringQuerySet[Row]):
    def prunable(self, older_than: timedelta, *, include_failed: bool = False) -> Self:
        """Those that ended longer ago than that; failed ones only if they are asked for."""
        states = OVER + FAILED if include_failed else OVER
        return self.filter(state__in=states, ended_at__lt=in_(-older_than))

    def family(self) -> Family:
        steps: Any = self.model._meta.get_field("steps")
        tables = {
            self.model: "pk",
            steps.related_model: "execution",
            WorkflowHistory: "execution",
        }
        return Family(self.model, "pk", tables)

    def prune(self, limit: int) -> int:
        """Delete up to *limit* of these with their steps and history; returns how many.

        One short transaction. What somebody has locked just now is passed over, and so is what
        rows of the project keep.
        """
        if found := references(self.family(), self.db):
            return _prune_referred(self, limit, self.family(), found)
        with transaction.atomic(using=self.db):
            keys = _take(self, limit)
            if keys:
                steps: Any = self.model._meta.get_field("steps")
                _delete(steps.related_model, self.db, execution__in=keys)
                _delete(WorkflowHistory, self.db, execution__in=keys)
                _delete(self.model, self.db, pk__in=keys)
            return len(keys)


class PruningEntries(ClaimingQuerySet[Row]):
    def prunable(self, older_than: timedelta, *, include_failed: bool = False) -> Self:
        """Those that were settled longer ago than that; dead ones only if they are asked for."""
        statuses = SETTLED + DEAD if include_failed else SETTLED
        return self.filter(status__in=statuses, settled_at__lt=in_(-older_than))

    def family(self) -> Family:
        deliveries: Any = self.model._meta.get_field("deliveries")
        event: Any = self.model._meta.get_field("event")
        tables = {
            event.related_model: "outbox",
            self.model: "pk",
            deliveries.related_model: "outbox",
            WorkflowHistory: "delivery__outbox",
        }
        return Family(event.related_model, "outbox", tables)

    def prune(self, limit: int) -> int:
        """Delete up to *limit* of these with their events, deliveries and the history of those.

        Returns how many. One short transaction. What somebody has locked just now, to replay it,
        is passed over, and so is what rows of the project keep.
        """
        if found := references(self.family(), self.db):
            return _prune_referred(self, limit, self.family(), found)
        with transaction.atomic(using=self.db):
            keys = _take(self, limit)
            if keys:
                deliveries: Any = self.model._meta.get_field("deliveries")
                event: Any = self.model._meta.get_field("event")
                rows = self.model._base_manager.using(self.db).filter(pk__in=keys)
                events = list(rows.values_list("event_id", flat=True))
                _delete(WorkflowHistory, self.db, delivery__outbox__in=keys)
                _delete(deliveries.related_model, self.db, outbox__in=keys)
                _delete(self.model, self.db, pk__in=keys)
                _delete(event.related_model, self.db, pk__in=events)
            return len(keys)


def not_kept(rows: Any) -> "models.QuerySet[Any]":
    """Those of *rows* that nothing of the project keeps."""
    blockers = blocking(references(rows.family(), rows.db))
    kept: models.QuerySet[Any] = rows.exclude(is_kept(blockers, rows.db)) if blockers else rows
    return kept


def kept_by(rows: Any) -> "dict[str, models.QuerySet[Any]]":
    """What keeps some of these from being pruned, and which."""
    found = blocking(references(rows.family(), rows.db))
    return {str(one): rows.filter(is_kept([one], rows.db)) for one in found}


def _prune_referred(rows: Any, limit: int, family: Family, found: Collection[Reference]) -> int:
    """`prune`, where rows of the project refer to ours: as Django deletes, and by its signals."""
    blockers = blocking(found)
    free = not_kept(rows)
    kept: set[int] = set()
    while True:
        with transaction.atomic(using=rows.db):
            keys = _take(free.exclude(pk__in=kept), limit)
            if not keys:
                break
            stay = delete_referred(family, keys, rows.db, found)
        kept |= stay
        if len(stay) < len(keys):
            return len(keys) - len(stay)
    for one in blockers:
        if rows.filter(is_kept([one], rows.db)).exists():
            name_once(family, str(one))
    return 0


def _take(rows: "models.QuerySet[Any]", limit: int) -> list[int]:
    # In no order: sorting would read all that is prunable for each batch.
    free = rows.order_by().select_for_update(skip_locked=True)
    return list(free.values_list("pk", flat=True)[:limit])


def _delete(model: type[models.Model], using: str, **which: Collection[int]) -> None:
    """One DELETE. The public way loads every row as soon as anybody listens to deletions."""
    rows: Any = model._base_manager.using(using).filter(**which)
    rows._raw_delete(using)  # noqa: SLF001 - see above
