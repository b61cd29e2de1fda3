"""The end of an execution as an event, for those who register for it. The same on every engine.

The process in which the execution ends decides: if its registry has a handler for the type, there
is an event; otherwise the end costs nothing more. All processes of a project register the same.
"""

import re
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from general_manager.escaping import get_logger
from general_manager.workflow.event_registry import EventRegistry, get_event_registry
from general_manager.workflow.events import (
    EXECUTION_CANCELLED,
    EXECUTION_COMPLETED,
    EXECUTION_FAILED,
    WorkflowEvent,
)

logger = get_logger(__name__)

TYPES: Final = {
    "completed": EXECUTION_COMPLETED,
    "failed": EXECUTION_FAILED,
    "cancelled": EXECUTION_CANCELLED,
}
"""By the terminal state."""
END_SOURCE: Final = "general_manager.workflow.executions"
LONGEST_CHAIN_OF_ENDS: Final = 10
"""An execution that the handler of such an event started, whose end starts another, and so on: the
end after so many has no event, so a handler that answers each end with a start does not run on."""
LONGEST_ERROR: Final = 2_000
_PROBES: Final = {
    state: WorkflowEvent("probe", kind, {}, event_name=f"execution_{state}")
    for state, kind in TYPES.items()
}
_END_ID: Final = re.compile(r"[0-9a-f-]{36}\.(?:completed|failed|cancelled)\.(\d{1,3})")


def registry_for(state: str) -> EventRegistry | None:
    """The registry in force, if it has a handler for the ends in *state*."""
    if state not in _PROBES:
        return None
    try:
        registry = get_event_registry()
    except ImproperlyConfigured:  # a check reports it; executions end all the same
        return None
    is_ours = isinstance(registry, EventRegistry)  # a project's own may not say what matches
    return registry if is_ours and registry.matching(_PROBES[state]) else None


def end_event(
    state: str,
    *,
    execution_id: str,
    workflow_id: str,
    correlation_id: str | None,
    subject: str | None,
    attributes: dict[str, Any] | None,
    error: str | None,
    caused_by: str | None,
    at: datetime | None,
) -> WorkflowEvent | None:
    """The event, with an id that the execution has once; `None` at the end of a chain of ends."""
    links = links_before(caused_by) + 1
    if links > LONGEST_CHAIN_OF_ENDS:
        logger.error(
            "Execution %s of workflow %s is %s, which is not emitted as %s: it was started by a "
            "handler of such an event, %d times in a row. If they start each other endlessly, let "
            "the handler's registration leave its own workflow out (when=).",
            execution_id, workflow_id, state, TYPES[state], LONGEST_CHAIN_OF_ENDS,
        )  # fmt: skip
        return None
    return WorkflowEvent(
        event_id=f"{execution_id}.{state}.{links}",
        event_type=TYPES[state],
        event_name=f"execution_{state}",
        payload={
            "execution_id": execution_id,
            "workflow_id": workflow_id,
            "state": state,
            "correlation_id": correlation_id,
            "subject": subject,
            "attributes": attributes or {},
            "error": None if error is None else error[:LONGEST_ERROR],
        },
        source=END_SOURCE,
        occurred_at=at,
    )


def links_before(caused_by: str | None) -> int:
    """How many ends in a row led to an execution that this event started."""
    found = _END_ID.fullmatch(caused_by or "")
    return int(found[1]) if found else 0
