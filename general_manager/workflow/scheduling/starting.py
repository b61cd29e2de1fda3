"""Start the execution of one slot, or of a run that a person asks for."""

from datetime import UTC, datetime
from typing import Any

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.core.actors import current_actor
from general_manager.workflow.core.ids import new_id
from general_manager.workflow.core.observers import notify
from general_manager.workflow.engine import WorkflowExecution
from general_manager.workflow.schedules import SEPARATOR, Schedule
from general_manager.workflow.signals import schedule_fired

BY_HAND = "now:"
"""Stands in a correlation id instead of the slot."""


def start_slot(schedule: Schedule, slot: datetime) -> WorkflowExecution:
    """The execution of *slot*; the same one however often it is asked for."""
    return get_workflow_engine().start(
        schedule.workflow,
        schedule.input_for(slot),
        correlation_id=schedule.correlation_id(slot),
        metadata={"schedule": schedule.name, "slot": slot.astimezone(UTC).isoformat()},
    )


def start_by_hand(schedule: Schedule, now: datetime) -> WorkflowExecution:
    """An execution of its own, which is no slot's."""
    about: dict[str, Any] = {"schedule": schedule.name, "run_now_by": current_actor()}
    return get_workflow_engine().start(
        schedule.workflow,
        schedule.input_for(now),
        correlation_id=f"{schedule.name}{SEPARATOR}{BY_HAND}{new_id()}",
        metadata=about,
    )


def notify_fired(
    schedule: Schedule,
    slot: datetime,
    outcome: str,
    execution_id: str | None = None,
    *,
    count: int = 1,
) -> None:
    notify(
        schedule_fired,
        Schedule,
        schedule=schedule.name,
        slot=slot,
        outcome=outcome,
        execution_id=execution_id,
        count=count,
    )
