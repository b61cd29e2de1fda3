"""Let go of what is over for long enough, in batches, in every database that holds rows of ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db import DatabaseError

from general_manager.escaping import get_logger
from general_manager.workflow.actors import WORKER
from general_manager.workflow.databases import outboxes
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowHeartbeat,
    WorkflowOutbox,
)
from general_manager.workflow.models.pruning import kept_by, not_kept

logger = get_logger(__name__)

BATCH: Final = 1_000
"""Rows of each kind that one transaction deletes, besides what hangs on them."""

MOST_AT_ONCE: Final = 10_000
"""A larger batch would hold its locks for seconds."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many events, with their deliveries, and executions, with their steps."""

    events: int = 0
    executions: int = 0

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(self.events + other.events, self.executions + other.executions)

    def __bool__(self) -> bool:
        return bool(self.events or self.executions)


def prune(
    older_than: timedelta, *, include_failed: bool = False, batch_size: int = BATCH
) -> Iterator[Pruned]:
    """Delete what was over *older_than* ago; yields after each batch how much that was.

    Dead letters and failed executions stay without *include_failed*; what is owed or active stays
    in any case. Raises `DatabaseError` if a database fails; what was deleted by then is gone.
    """
    for alias in outboxes():
        while pruned := _prune_batch(alias, older_than, batch_size, include_failed=include_failed):
            yield pruned


def prune_once(older_than: timedelta, *, batch_size: int = BATCH) -> Pruned:
    """At most one batch in each database; trouble with one is logged and leaves the others be."""
    pruned = Pruned()
    for alias in outboxes():
        try:
            pruned += _prune_batch(alias, older_than, batch_size, include_failed=False)
        except DatabaseError:
            logger.exception("Old rows of database %r could not be pruned", alias)
    return pruned


def count_prunable(older_than: timedelta, *, include_failed: bool = False) -> Pruned:
    """What `prune` would delete."""
    found = Pruned()
    for alias in outboxes():
        entries = WorkflowOutbox.objects.using(alias)
        executions = WorkflowExecutionRecord.objects.using(alias)
        found += Pruned(
            not_kept(entries.prunable(older_than, include_failed=include_failed)).count(),
            not_kept(executions.prunable(older_than, include_failed=include_failed)).count(),
        )
    return found


def find_kept(older_than: timedelta, *, include_failed: bool = False) -> dict[str, int]:
    """What of the project's keeps rows that could be pruned, and how many."""
    kept: dict[str, int] = {}
    for alias in outboxes():
        for table in (WorkflowOutbox, WorkflowExecutionRecord):
            rows = table.objects.using(alias).prunable(older_than, include_failed=include_failed)
            for who, which in kept_by(rows).items():
                kept[who] = kept.get(who, 0) + which.count()
    return {who: count for who, count in kept.items() if count}


def _prune_batch(alias: str, older_than: timedelta, size: int, *, include_failed: bool) -> Pruned:
    # Workers that never said goodbye; there is a row for each name that a worker ever had.
    WorkflowHeartbeat.objects.using(alias).forget(WORKER, older_than)
    entries = WorkflowOutbox.objects.using(alias)
    executions = WorkflowExecutionRecord.objects.using(alias)
    return Pruned(
        entries.prunable(older_than, include_failed=include_failed).prune(size),
        executions.prunable(older_than, include_failed=include_failed).prune(size),
    )
