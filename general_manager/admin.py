"""The module in which Django looks for admin classes; and the mixin for those of a project."""

from general_manager.workflow.admin import (  # noqa: F401 - importing registers the pages
    dead_letters,
    events,
    executions,
    lanes,
    outbox,
    overview,
    pauses,
    schedules,
)
from general_manager.workflow.admin.panel import WorkflowsPanel

__all__ = ["WorkflowsPanel"]
