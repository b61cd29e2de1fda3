"""Continuing as new: one commit ends an execution and starts the next one of its chain."""

from collections.abc import Callable, Sequence
from typing import Any

from django.db import transaction

from general_manager.workflow.core.ids import new_id
from general_manager.workflow.durable.renewal import RENEWED_AS, renewed_metadata
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.executions.taking import chain_values
from general_manager.workflow.models.executions.values import is_in_time, is_overdue
from general_manager.workflow.models.sql.columns import not_indexed

INHERITED = (
    "workflow_id", "version", "handler_path", "retry", "timeout", "lifetime", "correlation_id",
    "caused_by", "queue", "priority", "subject", "attributes", "slot_key", "holds_slot", "rate_per",
    "rate_until", "limits",
)  # fmt: skip
"""Columns that pass to the next execution as they are."""
FAMILY = ("parent", "root", "depth", "abandoned", "awaited")
"""Columns of a child that also pass to whatever goes on for it."""


def continue_as_new(
    executions: Any,
    record: Any,
    input_data: dict[str, Any],
    closings: Sequence[Callable[[], None]] = (),
) -> str | None:
    """Running to completed, and a new execution in the same commit; returns the new one's id.

    `None` if the run no longer holds the execution, or was asked to end. May be repeated after a
    lost answer. The signals that the chain has kept, and its deadline, pass to the new one.
    *closings* write what was left to the completion: sagas whose blocks were left.
    """
    with transaction.atomic(using=executions.db):
        in_time = executions.held(record).filter(is_in_time(), ending_at=None)
        held = in_time.exclude(is_overdue())
        old = held.select_for_update().first()
        if old is None:
            return _written_before(executions, record)
        for close in closings:
            close()
        key, mine = new_id(), executions.filter(pk=old.pk)
        about = {**old.metadata, RENEWED_AS: key}
        mine.end(WorkflowState.COMPLETED, output_data={}, metadata=about)
        # Its key passes to the new one, and is unique. Nobody is notified: the chain is not over.
        mine.update(dedup_key=None, wake_at=None)
        executions.start_once(
            **{name: getattr(old, name) for name in INHERITED},
            execution_id=key,
            input_data=input_data,
            metadata=renewed_metadata(old.metadata, old.execution_id),
            dedup_key=old.dedup_key,
            state=WorkflowState.PENDING,
        )
        new = executions.filter(execution_id=key)
        new.update(
            **chain_values(old),
            has_signals=old.has_signals,
            deadline=old.deadline,
            **{name: getattr(old, name) for name in FAMILY},
        )
        executions.note(HistoryKind.CONTINUED_AS_NEW, [old.pk], key)
        executions.note(HistoryKind.CONTINUES, [new.get().pk], old.execution_id)
        return key


def _written_before(executions: Any, record: Any) -> str | None:
    """What this run has written, if the answer to its commit was lost."""
    is_over = not_indexed("state", WorkflowState.COMPLETED)
    mine = executions.filter(is_over, pk=record.pk, runs=record.runs)
    metadata = mine.values_list("metadata", flat=True).first() or {}
    key = metadata.get(RENEWED_AS)
    return key if executions.filter(execution_id=key).exists() else None
