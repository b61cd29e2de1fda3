"""The overview in local mode: what this process remembers, since nothing is stored."""

from dataclasses import dataclass
from typing import Final

from django.utils.safestring import SafeString

from general_manager.escaping import visible
from general_manager.workflow.admin.fields.formats import ago, badge, short_id
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.operations.moments import last_line

MOST_EXECUTIONS: Final = 50
LONGEST_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class Line:
    state: SafeString
    workflow: str
    execution: SafeString
    started: SafeString
    note: str


def remembered() -> list[Line] | None:
    """The latest executions of this process, newest first; `None` if they are stored instead."""
    engine = get_workflow_engine()
    if not getattr(engine, "supports_timers", False):
        return None
    return [
        Line(
            badge(one.state),
            visible(one.workflow_id[:LONGEST_TEXT]),
            short_id(one.execution_id),
            ago(one.started_at),
            visible(last_line(one.error)[:LONGEST_TEXT]),
        )
        for one in engine.executions()[:MOST_EXECUTIONS]
    ]
