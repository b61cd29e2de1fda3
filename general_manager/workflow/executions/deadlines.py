"""End executions that did not end within their workflow's deadline. The sweep calls it."""

from typing import Final

from general_manager.escaping import get_logger
from general_manager.workflow.admission.lines import look_soon
from general_manager.workflow.core.encoding import error_text, traceback_text
from general_manager.workflow.core.local_handlers import forget_handler
from general_manager.workflow.core.observers import notify_state
from general_manager.workflow.durable.ending import DeadlinePassed, Ending
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions.children.afterwards import attend_to
from general_manager.workflow.executions.ending import expire
from general_manager.workflow.executions.runner import run_here
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.executions.deadlines import find_expired, undo_expired

logger = get_logger(__name__)

DEADLINES_BATCH: Final = 200
"""Executions that one sweep ends at most; the next one continues."""


def end_late_executions(using: str) -> int:
    """Fail every execution whose deadline has passed, or have it undo first; returns how many."""
    executions = WorkflowExecutionRecord.objects.using(using)
    ended = 0
    for key, execution_id, lifetime, line in find_expired(executions, DEADLINES_BATCH):
        if _end(executions, key, DeadlinePassed(execution_id, lifetime)):
            ended += 1
            if line is not None:
                look_soon(using, line, run_here)
    return ended


def _end(executions: Executions, key: int, error: DeadlinePassed) -> bool:
    cause = Ending(WorkflowState.FAILED, error_text(error), traceback_text(error))
    if undo_expired(executions, key, cause):
        state = WorkflowState.PENDING
        logger.error("%s It undoes what it did.", error)
    elif expire(executions, key, cause.error, cause.traceback):
        state = WorkflowState.FAILED
        logger.error("%s", error)
        forget_handler(error.execution_id)
        attend_to([key], executions.db, run_here)
    else:
        return False
    notify_state(state, lambda: executions.get(pk=key).snapshot())
    return True
