"""What the overview shows in local mode: what this process remembers, for it is nowhere else."""

from dataclasses import dataclass
from typing import Any, Final

from django.utils.safestring import SafeString

from general_manager.escaping import visible
from general_manager.workflow.admin.formats import ago, badge, short_id
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.timeline import last_line

MOST: Final = 50
MOST_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class Line:
    state: SafeString
    workflow: str
    execution: SafeString
    started: SafeString
    note: str


def remembered() -> list[Line] | None:
    """The latest executions of this process, newest first; `None` where they are stored."""
    engine: Any = get_workflow_engine()
    if not isinstance(engine, LocalWorkflowEngine):
        return None
    return [
        Line(
            badge(one.state),
            visible(one.workflow_id[:MOST_TEXT]),
            short_id(one.execution_id),
            ago(one.started_at),
            visible(last_line(one.error)[:MOST_TEXT]),
        )
        for one in engine.latest(MOST)
    ]
