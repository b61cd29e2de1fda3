"""Executions of either engine, for the start page and the demo."""

from general_manager.workflow import LocalWorkflowEngine, WorkflowExecution, get_workflow_engine
from general_manager.workflow.models import WorkflowExecutionRecord


def all_executions(limit: int = 200) -> list[WorkflowExecution]:
    """The latest *limit*, oldest first."""
    engine = get_workflow_engine()
    if isinstance(engine, LocalWorkflowEngine):
        engine.run_due()
        return engine.executions()[-limit:]
    records = WorkflowExecutionRecord.objects.order_by("-pk")[:limit]
    return [record.snapshot() for record in reversed(records)]
