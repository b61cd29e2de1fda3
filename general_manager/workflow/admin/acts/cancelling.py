"""The engine that acts use, and how an execution is cancelled."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.base import WorkflowEngine
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowExecution
from general_manager.workflow.exceptions import ChangedMeanwhileError
from general_manager.workflow.models import WorkflowExecutionRecord


def engine() -> WorkflowEngine:
    """The engine for stored executions, also if the project runs another engine."""
    found = get_workflow_engine()
    return found if getattr(found, "supports_tables", False) else CeleryWorkflowEngine()


def cancel(
    record: WorkflowExecutionRecord, reason: str | None, *, undo_first: bool
) -> WorkflowExecution:
    if undo_first:
        if record.ending_at is not None:
            raise ChangedMeanwhileError(_("It is being undone already."))
        return engine().cancel(record.execution_id, reason=reason, compensate=True)
    return engine().cancel(record.execution_id, reason=reason)  # as any engine has it


def how_cancelled(execution: WorkflowExecution) -> str | Promise:
    if execution.state in ACTIVE_STATES:
        return _("To be undone first; it is cancelled after that.")
    return _("Cancelled.")
