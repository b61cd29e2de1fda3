"""Delete old finished rows in batches, in every database with our tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db import DatabaseError

from general_manager.escaping import get_logger
from general_manager.workflow.core.actors import WORKER
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowHeartbeat,
    WorkflowOutbox,
    WorkflowPause,
    WorkflowSchedule,
    WorkflowTakenEvent,
)
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.models.pruning import kept_by, not_kept
from general_manager.workflow.schedules import all_schedules

logger = get_logger(__name__)

PRUNE_BATCH: Final = 1_000
"""Rows of each kind that one transaction deletes, in addition to their dependent rows."""

MOST_AT_ONCE: Final = 10_000
"""A larger batch would hold its locks for seconds."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """Numbers of events (with deliveries) and executions (with steps)."""

    events: int = 0
    executions: int = 0

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(self.events + other.events, self.executions + other.executions)

    def __bool__(self) -> bool:
        return bool(self.events or self.executions)


def prune(
    older_than: timedelta,
    *,
    include_failed: bool = False,
    batch_size: int = PRUNE_BATCH,
    using: str | None = None,
) -> Iterator[Pruned]:
    """Delete rows that finished before *older_than* ago. Yields the number of each batch.

    *using*: only in that database.

    Keeps dead letters and failed executions unless *include_failed*; always keeps undelivered
    events and active executions. Raises `DatabaseError` if a database fails; earlier batches stay
    deleted.
    """
    for alias in _among(using):
        while pruned := _prune_batch(alias, older_than, batch_size, include_failed=include_failed):
            yield pruned
        while _prune_around(alias, older_than, batch_size):
            pass


def prune_once(older_than: timedelta, *, batch_size: int = PRUNE_BATCH) -> Pruned:
    """Prune at most one batch in each database; an error in one is logged and skips only it."""
    pruned = Pruned()
    for alias in outboxes():
        try:
            pruned += _prune_batch(alias, older_than, batch_size, include_failed=False)
            _prune_around(alias, older_than, batch_size)
        except DatabaseError:
            logger.exception(
                "Old rows of database %r could not be pruned; retrying at the next tick", alias
            )
    return pruned


def count_prunable(
    older_than: timedelta, *, include_failed: bool = False, using: str | None = None
) -> Pruned:
    """How many rows `prune` would delete."""
    found = Pruned()
    for alias in _among(using):
        entries = WorkflowOutbox.objects.using(alias)
        executions = WorkflowExecutionRecord.objects.using(alias)
        found += Pruned(
            not_kept(entries.prunable(older_than, include_failed=include_failed)).count(),
            not_kept(executions.prunable(older_than, include_failed=include_failed)).count(),
        )
    return found


def find_kept(
    older_than: timedelta, *, include_failed: bool = False, using: str | None = None
) -> dict[str, int]:
    """References from the project's models that keep prunable rows, each with a number of rows."""
    kept: dict[str, int] = {}
    for alias in _among(using):
        for table in (WorkflowOutbox, WorkflowExecutionRecord):
            rows = table.objects.using(alias).prunable(older_than, include_failed=include_failed)
            for who, which in kept_by(rows).items():
                kept[who] = kept.get(who, 0) + which.count()
    return {who: count for who, count in kept.items() if count}


def _among(using: str | None) -> list[str]:
    return outboxes() if using is None else [using]


def _prune_batch(alias: str, older_than: timedelta, size: int, *, include_failed: bool) -> Pruned:
    # Heartbeats of killed workers; each worker name leaves a row.
    WorkflowHeartbeat.objects.using(alias).forget(WORKER, older_than)
    entries = WorkflowOutbox.objects.using(alias)
    executions = WorkflowExecutionRecord.objects.using(alias)
    return Pruned(
        entries.prunable(older_than, include_failed=include_failed).prune(size),
        executions.prunable(older_than, include_failed=include_failed).prune(size),
    )


def _prune_around(alias: str, older_than: timedelta, size: int) -> int:
    """A batch of the few rows that hang on no event or execution. Returns how many were deleted."""
    deleted = WorkflowPause.objects.using(alias).prune(older_than, size)
    if all_schedules():
        deleted += WorkflowSchedule.objects.using(alias).prune_history(older_than, size)
    return deleted + WorkflowTakenEvent.objects.using(alias).prune(older_than, size)
