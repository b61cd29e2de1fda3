"""Executions of either engine, for the start page and the demo."""

from general_manager.workflow import WorkflowExecution, get_workflow_engine


def all_executions(limit: int = 200) -> list[WorkflowExecution]:
    """The latest *limit*, oldest first."""
    engine = get_workflow_engine()
    engine.run_due()  # in local mode; does nothing with workers
    return list(reversed(list(engine.executions()[:limit])))
