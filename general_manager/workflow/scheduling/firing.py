"""The tick's part in schedules: start what is due, where the engine keeps its executions."""

from collections.abc import Mapping
from datetime import datetime

from django.db import Error

from general_manager.escaping import get_logger
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.memory_records import utc_now
from general_manager.workflow.schedules import Schedule, sound_schedules
from general_manager.workflow.scheduling.memory import fire_in_memory
from general_manager.workflow.scheduling.rows import fire_rows

logger = get_logger(__name__)


def fire_due() -> int:
    """Start the slots that are due; returns how many executions were started.

    Without schedules it does nothing. An error of the database is logged: the tick has more to do.
    """
    schedules = sound_schedules()
    if not schedules:
        return 0
    try:
        return fire_at(schedules, None)
    except Error:
        logger.exception("Schedules could not be read; retrying at the next tick")
        return 0


def fire_at(schedules: Mapping[str, Schedule], now: datetime | None) -> int:
    """As `fire_due`, for these schedules and at that time; without one, at the present."""
    engine = get_workflow_engine()
    if getattr(engine, "supports_timers", False):
        return fire_in_memory(engine, dict(schedules), now or utc_now())
    return fire_rows(schedules, now)
