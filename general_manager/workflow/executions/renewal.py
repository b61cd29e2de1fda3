"""A run that ends its execution as a new one."""

from collections.abc import Callable, Sequence
from typing import Any

from general_manager.workflow.core.local_handlers import find_handler, keep_handler
from general_manager.workflow.core.observers import notify_state
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions.commits import persist_for
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.executions.renewal import continue_as_new


def renew(
    record: WorkflowExecutionRecord,
    using: str,
    input_data: dict[str, Any],
    closings: Sequence[Callable[[], None]],
) -> str:
    """Complete the execution and start the next one; returns its id, or empty if it lost."""
    executions = WorkflowExecutionRecord.objects.using(using)
    key = persist_for(
        record, using, lambda: continue_as_new(executions, record, input_data, closings)
    )
    if key is None:
        return ""
    handler = find_handler(record.execution_id)
    if handler is not None:
        keep_handler(key, handler)
    notify_state(WorkflowState.COMPLETED, lambda: executions.get(pk=record.pk).snapshot())
    notify_state(WorkflowState.PENDING, lambda: executions.get(execution_id=key).snapshot())
    return key
