"""The one door to the end of a stored execution: its state and its event are one commit.

Every end goes through here: of a handler, of one that kills its workers or is overdue, by a
deadline, by `cancel`, after the undos of its sagas, by an answer without a wait, and at the start.
Only an execution that continues as new is not over. Without a handler for its event, an end is the
one statement of the table's verb. It leaves a `wake_at` on the row if others wait for the
execution, or if it has children to stop: see `children.attending`, called after the commit.
"""

from collections.abc import Callable, Mapping
from typing import Any

from django.db import transaction
from django.utils import timezone

from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.event_registry import EventRegistry
from general_manager.workflow.executions.end_events import end_event, registry_for
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.executions.deadlines import end_expired
from general_manager.workflow.models.executions.ending import end_as as end_as_asked
from general_manager.workflow.models.sql.compiled import can_fetch

FACTS = (
    "execution_id", "workflow_id", "correlation_id", "subject", "attributes", "caused_by", "error",
)  # fmt: skip


def complete(
    executions: Executions, record: WorkflowExecutionRecord, output: Mapping[str, Any]
) -> bool:
    """Running to completed, under the claim; returns whether it won."""
    won = _end(
        executions,
        record.pk,
        WorkflowState.COMPLETED,
        lambda: executions.complete(record, output),
    )
    record.leaves_duty = won and (record.awaited or not can_fetch(executions.db))
    return won


def fail(executions: Executions, record: WorkflowExecutionRecord, **values: Any) -> bool:
    """Running to failed, under the claim; returns whether it won."""
    held = executions.held(record)
    record.leaves_duty = _end(
        executions,
        record.pk,
        WorkflowState.FAILED,
        lambda: held.end(WorkflowState.FAILED, **values),
    )
    return record.leaves_duty


def end_as(executions: Executions, record: WorkflowExecutionRecord, ending: Ending) -> bool:
    """Running, and undone, to the state that *ending* names, under the claim; whether it won."""
    record.leaves_duty = _end(
        executions,
        record.pk,
        ending.state,
        lambda: end_as_asked(executions, record, ending),
    )
    return record.leaves_duty


def cancel(
    executions: Executions,
    record: WorkflowExecutionRecord,
    metadata: Mapping[str, Any],
    reason: str,
) -> bool:
    """Active to cancelled; returns whether it won."""
    return _end(
        executions,
        record.pk,
        WorkflowState.CANCELLED,
        lambda: executions.cancel(record, metadata, reason),
    )


def complete_unasked(
    executions: Executions, record: WorkflowExecutionRecord, metadata: Mapping[str, Any]
) -> bool:
    """Waiting to completed, by an answer though no wait is open. The caller locks the row."""
    rows = executions.filter(pk=record.pk)
    return _end(
        executions,
        record.pk,
        WorkflowState.COMPLETED,
        lambda: rows.end(WorkflowState.COMPLETED, output_data={}, metadata=metadata),
    )


def expire(executions: Executions, key: int, error: str, traceback: str) -> bool:
    """Active to failed, because its deadline has passed; returns whether it won."""
    return _end(
        executions,
        key,
        WorkflowState.FAILED,
        lambda: end_expired(executions, key, error, traceback),
    )


def start_once(executions: Executions, **values: Any) -> WorkflowExecutionRecord | None:
    """The table's `start_once`; an execution that is over as it starts has its event too."""
    registry = registry_for(values["state"])
    if registry is None:
        return executions.start_once(**values)
    with transaction.atomic(using=executions.db):
        known = executions.start_once(**values)
        if known is None:
            _emit(registry, executions, values["state"], execution_id=values["execution_id"])
        return known


def _end(executions: Executions, key: int, state: WorkflowState, write: Callable[[], bool]) -> bool:
    registry = registry_for(state)
    if registry is None:
        return write()
    with transaction.atomic(using=executions.db):
        won = write()
        if won:
            _emit(registry, executions, state, pk=key)
        return won


def _emit(registry: EventRegistry, executions: Executions, state: str, **which: Any) -> None:
    facts = executions.filter(**which).values(*FACTS).get()
    event = end_event(state, at=timezone.now(), **facts)
    if event is not None:
        registry.publish_with_change(event, using=executions.db)
