"""Schedules in tables: any number of ticks, each slot once, by the database's clock."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import Error, router, transaction

from general_manager.escaping import get_logger
from general_manager.workflow.core.encoding import error_text
from general_manager.workflow.core.slots import Timing
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.exceptions import ends_the_process
from general_manager.workflow.executions.lookup import begins
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowSchedule
from general_manager.workflow.models.schedule import ScheduleQuerySet
from general_manager.workflow.schedules import SEPARATOR, Schedule
from general_manager.workflow.scheduling.rules import (
    MOST_COUNTED,
    ON_TIME,
    SLOTS_PER_TICK,
    Take,
    next_take,
)
from general_manager.workflow.scheduling.starting import notify_fired, start_slot

logger = get_logger(__name__)

CONFIRMED_EVERY: Final = timedelta(minutes=1)
ABANDONED: Final = timedelta(minutes=5)
"""If no process has registered a version for so long, one with an older version takes over."""


def stored_schedules() -> ScheduleQuerySet:
    """The rows, in the database of executions: a slot and its execution are one transaction."""
    return WorkflowSchedule.objects.using(router.db_for_write(WorkflowExecutionRecord))


def fire_rows(schedules: Mapping[str, Schedule], now: datetime | None = None) -> int:
    """Start the due slots of *schedules*; returns how many executions were started.

    *now* is the database's time unless it is given. Trouble with one schedule is logged, noted in
    its row and tried again at the next tick; the others go on.
    """
    rows = stored_schedules()
    started = 0
    for name, row in read_rows(rows, schedules).items():
        try:
            started += _fire(rows, row, schedules[name], now or row.asked_at)
        except BaseException as error:
            if ends_the_process(error):
                raise
            logger.exception(
                "Schedule %r could not start the slot of %s; retrying at the next tick",
                name, row.next_at,
            )  # fmt: skip
            with suppress(Error):  # the database may be what failed
                rows.failed(row, error_text(error))
    return started


def read_rows(rows: ScheduleQuerySet, schedules: Mapping[str, Schedule]) -> dict[str, Any]:
    """The rows of *schedules* with the database's time; those that are missing are added."""
    found = {row.name: row for row in rows.at_present().named(schedules)}
    missing = [one for name, one in schedules.items() if name not in found]
    for one in missing:
        rows.add(one.name, options_of(one))
    if missing:
        found = {row.name: row for row in rows.at_present().named(schedules)}
    return found


def options_of(schedule: Schedule) -> dict[str, str]:
    """What a row says of its latest registration."""
    return {
        "workflow_id": schedule.workflow.workflow_id,
        "timing": schedule.text,
        "tz": schedule.tz,
        "missed": schedule.missed,
        "overlap": schedule.overlap,
        "version": schedule.version,
    }


def _fire(rows: ScheduleQuerySet, row: Any, schedule: Schedule, now: datetime) -> int:
    if not _is_settled(rows, row, schedule, now) or row.paused_at is not None:
        return 0
    timing, started = row.as_timing(), 0
    for _ in range(SLOTS_PER_TICK):
        take = None if row.next_at is None else next_take(timing, row.next_at, now, row.missed)
        if take is None:
            break
        outcome = _take(rows, row, schedule, take)
        if outcome is None:
            break  # another tick has taken it, or it was paused
        started += outcome
        row.next_at, row.last_slot = take.following, take.slot
    return started


def _is_settled(rows: ScheduleQuerySet, row: Any, schedule: Schedule, now: datetime) -> bool:
    """See that the row has the newest options, and a next slot; false if another process does."""
    if schedule.version == row.version:
        if row.asked_at - row.registered_at > CONFIRMED_EVERY:
            rows.confirm(row)
    elif schedule.version not in row.versions:
        return _adopt(rows, row, schedule, since=now)
    elif row.asked_at - row.registered_at > ABANDONED:
        return _adopt(rows, row, schedule, since=now - ON_TIME)
    if row.next_at is None and row.paused_at is None:
        row.next_at = first_slot(row.as_timing(), row, now)
        rows.place(row, row.next_at)
    return True


def _adopt(rows: ScheduleQuerySet, row: Any, schedule: Schedule, *, since: datetime) -> bool:
    """Put the options of *schedule* in force, with no slot before *since*."""
    values: dict[str, Any] = options_of(schedule)
    if (schedule.text, schedule.tz) != (row.timing, row.tz) and schedule.timing is not None:
        values["next_at"] = first_slot(schedule.timing, row, since)
    with transaction.atomic(using=rows.db):
        if not rows.adopt(row, values):
            return False
    for name, value in values.items():
        setattr(row, name, value)
    logger.info("Schedule %r now runs by %r (%s)", row.name, row.timing, row.tz)
    return True


def first_slot(timing: Timing, row: WorkflowSchedule, since: datetime) -> datetime | None:
    """The first slot after *since*, and never one that was taken: the clock may be set back."""
    return timing.after(since if row.last_slot is None else max(since, row.last_slot))


def _take(rows: ScheduleQuerySet, row: Any, schedule: Schedule, take: Take) -> int | None:
    """Take one slot and start it, in one transaction; `None` if the row has changed meanwhile."""
    execution_id: str | None = None
    with transaction.atomic(using=rows.db):
        if not rows.take(row, take.following, take.slot):
            return None
        if take.dropped:
            rows.note(row, HistoryKind.SLOTS_MISSED, _missed(row, take))
        is_blocked = take.starts and row.overlap == "skip" and is_active(rows, row.name)
        if is_blocked:
            rows.skipped(row, f"{take.slot:%Y-%m-%d %H:%M:%S} UTC")
            row.skipped += 1
        elif take.starts:
            execution_id = start_slot(schedule, take.slot).execution_id
            rows.started(row, schedule.correlation_id(take.slot))
            row.skipped = 0
    if take.dropped:
        notify_fired(schedule, take.slot, "missed", count=take.dropped)
    if take.starts:
        notify_fired(schedule, take.slot, "skipped" if is_blocked else "started", execution_id)
    return int(execution_id is not None)


def _missed(row: WorkflowSchedule, take: Take) -> str:
    more = "+" if take.dropped >= MOST_COUNTED else ""
    return f"{take.dropped:,}{more} from {row.next_at:%Y-%m-%d %H:%M:%S} UTC"


def is_active(rows: ScheduleQuerySet, name: str) -> bool:
    """Whether an execution of the schedule is active; asked under the lock of its row."""
    return bool(active_executions(rows.db, name).exists())


def active_executions(using: str, name: str) -> Any:
    mine = begins("correlation_id", f"{name}{SEPARATOR}", using)
    return WorkflowExecutionRecord.objects.using(using).filter(mine, state__in=ACTIVE_STATES)
