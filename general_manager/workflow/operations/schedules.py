"""Schedules as people see them: what is registered here, what is stored, what is wrong."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from django.db.models import QuerySet

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.memory_records import utc_now
from general_manager.workflow.core.slots import Timing
from general_manager.workflow.models import WorkflowHeartbeat, WorkflowSchedule
from general_manager.workflow.models.sql.columns import from_now
from general_manager.workflow.schedules import Schedule, all_schedules
from general_manager.workflow.scheduling.memory import memory_of
from general_manager.workflow.scheduling.rows import active_executions, stored_schedules

SLOT_LATE: Final = timedelta(seconds=90)
"""A slot that has been due for so long is late."""
UNREGISTERED: Final = timedelta(minutes=10)
"""Ticks confirm once a minute what their process registers."""
CLOCK_AHEAD: Final = timedelta(minutes=5)
NEXT_SHOWN: Final = 5

ACTIVE: Final = "scheduled"
PAUSED: Final = "paused"
LATE_SLOT: Final = "late"
NOT_REGISTERED: Final = "unregistered"
BROKEN: Final = "broken"
"""It has a mistake that `manage.py check` reports."""


def unregistered(rows: "QuerySet[Any]") -> "QuerySet[Any]":
    """Schedules that no process with ticks has registered lately."""
    return rows.filter(registered_at__lt=from_now(-UNREGISTERED))


def late(rows: "QuerySet[Any]") -> "QuerySet[Any]":
    """Registered schedules with a slot that should have started."""
    known = rows.filter(registered_at__gte=from_now(-UNREGISTERED), paused_at=None)
    return known.filter(next_at__lt=from_now(-SLOT_LATE))


def ahead_of_clock(rows: "QuerySet[Any]") -> "QuerySet[Any]":
    """Schedules that took a slot of the future: the database's clock was set back since."""
    return rows.filter(last_slot__gt=from_now(CLOCK_AHEAD))


def condition(row: WorkflowSchedule, now: datetime, last_tick: datetime | None) -> str:
    """Whether the schedule runs. Without ticks, nobody can tell whether it is registered."""
    if row.registered_at < min(now, last_tick or now) - UNREGISTERED:
        return NOT_REGISTERED
    if row.paused_at is not None:
        return PAUSED
    if row.next_at is not None and row.next_at < now - SLOT_LATE:
        return LATE_SLOT
    return ACTIVE


def last_tick(using: str) -> datetime | None:
    """When a tick last ran."""
    ticks = WorkflowHeartbeat.objects.using(using).filter(duty="tick")
    return ticks.values_list("at", flat=True).first()


def next_slots(timing: Timing, first: datetime | None, count: int = NEXT_SHOWN) -> list[datetime]:
    """The slot *first* and those that follow it."""
    if first is None:
        return []
    return [first, *islice(timing.following(first), count - 1)]


@dataclass(frozen=True, slots=True)
class Listed:
    """One schedule, registered in this process, stored, or both."""

    name: str
    condition: str
    workflow_id: str
    timing: str
    tz: str
    missed: str
    overlap: str
    next_at: datetime | None = None
    last_slot: datetime | None = None
    last_started_at: datetime | None = None
    active: int = 0
    skipped: int = 0
    is_registered_here: bool = True
    is_stored: bool = False
    """Whether its row, if there is one, knows more."""
    error: str = ""
    paused_by: str = ""
    pause_reason: str = ""
    coming: list[datetime] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        def iso(moment: datetime | None) -> str | None:
            return None if moment is None else moment.isoformat()

        return {
            "name": self.name,
            "condition": self.condition,
            "workflow": self.workflow_id,
            "timing": self.timing,
            "tz": self.tz,
            "missed": self.missed,
            "overlap": self.overlap,
            "next_at": iso(self.next_at),
            "last_slot": iso(self.last_slot),
            "last_started_at": iso(self.last_started_at),
            "active": self.active,
            "skipped": self.skipped,
            "registered_here": self.is_registered_here,
            "error": self.error,
            "paused_by": self.paused_by,
            "pause_reason": self.pause_reason,
        }


def list_schedules() -> list[Listed]:
    """Every schedule, by name: those of this process, and those of the database."""
    registered = all_schedules()
    engine = get_workflow_engine()
    if getattr(engine, "supports_timers", False):
        found = [_in_memory(one, engine) for one in registered.values()]
        return sorted(found, key=lambda one: one.name)
    rows = stored_schedules()
    tick = last_tick(rows.db)
    listed = {row.name: _stored(row, registered.get(row.name), tick) for row in rows.at_present()}
    for name, one in registered.items():
        if name not in listed or one.problem:
            listed[name] = _registered(one)
    return [listed[name] for name in sorted(listed)]


def in_this_process() -> list[Listed]:
    """The registrations of this process, by name, without a query."""
    engine, registered = get_workflow_engine(), all_schedules()
    if getattr(engine, "supports_timers", False):
        return list_schedules()
    return [replace(_registered(registered[name]), is_stored=True) for name in sorted(registered)]


def _registered(one: Schedule) -> Listed:
    coming = None if one.timing is None else one.timing.after(utc_now())
    return Listed(
        name=one.name,
        condition=BROKEN if one.problem else ACTIVE,
        workflow_id=one.workflow.workflow_id,
        timing=one.text,
        tz=one.tz,
        missed=one.missed,
        overlap=one.overlap,
        next_at=coming,
        error=one.problem,
        coming=[] if one.timing is None else next_slots(one.timing, coming),
    )


def _in_memory(one: Schedule, engine: Any) -> Listed:
    listed = _registered(one)
    state = memory_of(engine).states.get(one.name)
    if state is None or one.timing is None:
        return listed
    return Listed(
        name=one.name,
        condition=PAUSED if state.paused else ACTIVE,
        workflow_id=listed.workflow_id,
        timing=one.text,
        tz=one.tz,
        missed=one.missed,
        overlap=one.overlap,
        next_at=state.next_at,
        last_slot=state.last_slot,
        last_started_at=state.last_slot,
        coming=next_slots(one.timing, state.next_at),
    )


def _stored(row: Any, registered: Schedule | None, tick: datetime | None) -> Listed:
    try:
        coming = next_slots(row.as_timing(), row.next_at)
    except (ValueError, OverflowError):  # a row of another release, or of year 9999
        coming = []
    return Listed(
        name=row.name,
        condition=condition(row, row.asked_at, tick),
        workflow_id=row.workflow_id,
        timing=row.timing,
        tz=row.tz,
        missed=row.missed,
        overlap=row.overlap,
        next_at=row.next_at,
        last_slot=row.last_slot,
        last_started_at=row.last_started_at,
        active=active_executions(row._state.db, row.name).count(),
        skipped=row.skipped,
        is_registered_here=registered is not None,
        error=row.error,
        paused_by=row.paused_by,
        pause_reason=row.pause_reason,
        coming=coming,
    )
