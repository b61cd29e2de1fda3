"""Cancelling an execution: at once, or after its sagas are undone."""

from django.db import transaction

from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.executions.ending import cancel as end_cancelled
from general_manager.workflow.executions.rules import cancelled_because, refusal
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.children.look import close_open
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.executions.ending import (
    left_undone,
    open_sagas,
    request_end,
)


def cancel(
    executions: Executions, execution_id: str, reason: str | None, *, compensate: bool
) -> tuple[WorkflowExecutionRecord, bool]:
    """The execution as it is now, and whether it became ready, to undo.

    Without an open saga and without children, one that is not running has nothing to undo and is
    cancelled at once.
    Raises `WorkflowInvalidStateError` if it has ended.
    """
    with transaction.atomic(using=executions.db):
        record = executions.select_for_update().by_id(execution_id)
        metadata = dict(record.metadata)
        if reason is not None:
            metadata["cancel_reason"] = reason
        is_running = record.state == WorkflowState.RUNNING
        has_more = is_running or record.has_children
        if compensate and (has_more or open_sagas(executions, record)):
            if record.state not in ACTIVE_STATES:
                raise refusal(execution_id, "cancel", record.state, ACTIVE_STATES)
            ending = Ending(WorkflowState.CANCELLED, reason or "")
            is_ready = request_end(executions, record, ending, metadata)
            if is_ready and record.has_children:
                close_open(executions, record)
            return executions.by_id(execution_id), is_ready
        left = left_undone(executions, record) if record.runs and record.ended_at is None else []
        why = cancelled_because(reason or "", left)
        if not end_cancelled(executions, record, metadata, why):
            raise refusal(execution_id, "cancel", record.state, ACTIVE_STATES)
        return executions.by_id(execution_id), False
