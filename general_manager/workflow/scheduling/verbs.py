"""What a person may do with a schedule: pause it, unpause it, run it now."""

from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.memory_records import utc_now
from general_manager.workflow.core.slots import WrongTiming
from general_manager.workflow.engine import WorkflowExecution
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import WorkflowSchedule
from general_manager.workflow.schedules import (
    Schedule,
    ScheduleNotFoundError,
    ScheduleRefusedError,
    get_schedule,
    sound_schedules,
)
from general_manager.workflow.scheduling.memory import pause_in_memory, run_in_memory
from general_manager.workflow.scheduling.rows import (
    first_slot,
    is_active,
    read_rows,
    stored_schedules,
)
from general_manager.workflow.scheduling.starting import start_by_hand

__all__ = ["pause_schedule", "run_schedule", "unpause_schedule"]


def run_schedule(name: str) -> WorkflowExecution:
    """Start the workflow of the schedule *name* now, with its input; no slot is used up.

    Also while it is paused. Raises `ScheduleNotFoundError` if this process does not register it,
    and `ScheduleRefusedError` if it has ``overlap="skip"`` and an execution is active.
    """
    schedule, engine = get_schedule(name), get_workflow_engine()
    if getattr(engine, "supports_timers", False):
        return run_in_memory(engine, schedule, utc_now())
    rows = stored_schedules()
    with transaction.atomic(using=rows.db):
        row = locked(schedule.name)
        if row.overlap == "skip" and is_active(rows, name):
            raise ScheduleRefusedError(name, _("an execution of it is still active."))
        execution = start_by_hand(schedule, row.asked_at)
        rows.started(row, str(execution.correlation_id))
        rows.note(row, HistoryKind.RUN_NOW, execution.execution_id)
    return execution


def pause_schedule(name: str, *, reason: str = "") -> bool:
    """Start no slot of the schedule *name* from now on; false if it is paused already.

    Executions that were started go on. Raises `ScheduleNotFoundError`.
    """
    engine = get_workflow_engine()
    if getattr(engine, "supports_timers", False):
        return pause_in_memory(engine, get_schedule(name), utc_now(), paused=True)
    rows = stored_schedules()
    with transaction.atomic(using=rows.db):
        return rows.pause(locked(name), reason)


def unpause_schedule(name: str) -> bool:
    """Go on with the next slot of the schedule *name*; false if it is not paused.

    The slots of the pause are not missed ones, whatever ``missed`` says. Raises
    `ScheduleNotFoundError`.
    """
    engine = get_workflow_engine()
    if getattr(engine, "supports_timers", False):
        return pause_in_memory(engine, get_schedule(name), utc_now(), paused=False)
    rows = stored_schedules()
    with transaction.atomic(using=rows.db):
        row = locked(name)
        try:
            slot = first_slot(row.as_timing(), row, row.asked_at)
        except WrongTiming as error:
            raise ScheduleRefusedError(name, str(error)) from error
        return rows.unpause(row, slot)


def remove_schedule(row: WorkflowSchedule) -> None:
    """Delete the row with its history. If a process registers it, it begins anew."""
    stored_schedules().filter(pk=row.pk).delete()


def locked(name: str) -> Any:
    """The schedule's row, locked, with the database's time; added if it is registered here."""
    rows = stored_schedules()
    registered: Schedule | None = sound_schedules().get(name)
    if registered is not None:
        read_rows(rows, {name: registered})
    row = rows.select_for_update().at_present().filter(name=name).first()
    if row is None:
        raise ScheduleNotFoundError(name)
    return row
