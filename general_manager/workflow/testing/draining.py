"""Do the workers' work in the test."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from asgiref.sync import sync_to_async
from django.db import models
from django.utils import timezone

from general_manager.workflow.admission.lines import look_now
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.base import WorkflowEngine
from general_manager.workflow.executions.deadlines import end_late_executions
from general_manager.workflow.executions.runner import run, run_here
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowLimitKey,
    WorkflowOutbox,
    WorkflowSignal,
    WorkflowStep,
)
from general_manager.workflow.models.databases import aliases
from general_manager.workflow.models.executions.looks import look
from general_manager.workflow.models.sql.columns import DatabaseNow
from general_manager.workflow.outbox.drain import drain as drain_outbox
from general_manager.workflow.testing.published import held_events
from general_manager.workflow.testing.running import MOST_TURNS
from general_manager.workflow.testing.slots import SlotClock

TIMERS: Final[tuple[tuple[type[models.Model], str], ...]] = (
    (WorkflowOutbox, "available_at"),
    (WorkflowLane, "available_at"),
    (WorkflowDeliveryAttempt, "available_at"),
    (WorkflowExecutionRecord, "wake_at"),
    (WorkflowExecutionRecord, "run_until"),
    (WorkflowExecutionRecord, "step_deadline"),
    (WorkflowExecutionRecord, "deadline"),
    (WorkflowExecutionRecord, "rate_until"),
    (WorkflowExecutionRecord, "slot_until"),
    (WorkflowLimitKey, "look_at"),
    (WorkflowStep, "until"),
)
"""Every column with a time at which something falls due."""


def drain() -> int:
    """Deliver every event that is due and run every execution that is ready, until none is left.

    Returns the number of deliveries and runs. Needs no worker, broker or commit, so it works
    inside a `TestCase`, in both modes: events that are kept in memory until the commit of an open
    transaction are delivered too. Does not end delays, sleeps or waits; see `advance`.
    """
    done = 0
    while turns := _drain_once():
        done += turns
    return done


def _drain_once() -> int:
    turns = 0
    for held in held_events():
        held()
        turns += 1
    engine = get_workflow_engine()
    if isinstance(engine, WorkflowEngine):
        turns += engine.run_due()
    for alias in aliases():
        turns += drain_outbox(alias)
        turns += end_late_executions(alias)
        _look_for_signals(alias)
        _look_at_lines(alias)
        ready = WorkflowExecutionRecord.objects.using(alias).runnable().order_by("pk")
        turns += sum(run(one, alias) for one in ready.values_list("execution_id", flat=True))
    return turns


def _look_for_signals(alias: str) -> None:
    """The looks of signals that were sent in a transaction: a test case never commits."""
    executions = WorkflowExecutionRecord.objects.using(alias)
    for signal in WorkflowSignal.objects.using(alias).filter(available_at__isnull=False):
        look(executions, signal.chain, [signal.pk])


def _look_at_lines(alias: str) -> None:
    """The looks at the lines of limits, as for signals."""
    waiting = WorkflowExecutionRecord.objects.using(alias).filter(waits_slot__isnull=False)
    for key in waiting.order_by("waits_slot").values_list("waits_slot", flat=True).distinct():
        look_now(alias, str(key), run_here)


def advance(
    duration: timedelta | None = None,
    *,
    to: datetime | None = None,
    schedules: bool | Collection[str] = True,
) -> int:
    """Let *duration*, or the time until *to*, pass for events, executions and schedules.

    Does everything that falls due meanwhile, in order. Returns the number of deliveries and runs.
    Works on both engines, and in a `TestCase`: later times are moved towards now, so the clocks of
    this process and of the database, frozen or not, are not changed. *to* is measured from
    `django.utils.timezone.now()`.

    The slots of all registered *schedules* start, of those with these names, or of none.
    """
    if (duration is None) == (to is None):
        raise TypeError("advance() takes either a duration or to=, not both")
    left = to - timezone.now() if to is not None else duration
    if not isinstance(left, timedelta):
        raise TypeError(f"advance() takes a timedelta, not {duration!r}")
    if left < timedelta(0):
        raise ValueError(f"advance() cannot go back in time: {left}")
    clock = SlotClock(wanted=schedules)
    done = clock.fire() + drain()
    for _ in range(MOST_TURNS):
        due = _next_due(clock)
        if due is None or due > left:
            break
        _move(due)
        left -= due
        clock.now += due
        done += clock.fire() + drain()
    else:
        raise AssertionError(f"New work keeps falling due, {MOST_TURNS} times so far")
    _move(left)
    clock.now += left
    done += clock.fire() + drain()
    clock.keep()
    return done


async def adrain() -> int:
    """`drain`, from an async test."""
    return await sync_to_async(drain, thread_sensitive=True)()


async def aadvance(
    duration: timedelta | None = None,
    *,
    to: datetime | None = None,
    schedules: bool | Collection[str] = True,
) -> int:
    """`advance`, from an async test."""
    in_thread = sync_to_async(advance, thread_sensitive=True)
    return await in_thread(duration, to=to, schedules=schedules)


def _next_due(clock: SlotClock) -> timedelta | None:
    """The time until the next work or slot falls due that is not due yet."""
    slot = clock.next()
    found: list[timedelta] = [] if slot is None else [slot - clock.now]
    engine = get_workflow_engine()
    if isinstance(engine, WorkflowEngine):
        found += engine.timers()
    for alias in aliases():
        # For claimed entries and running executions it is a lease, which does not expire in a test.
        active = WorkflowExecutionRecord.objects.using(alias).exclude(state="running")
        outbox = WorkflowOutbox.objects.using(alias).filter(claim_token=None)
        lanes = WorkflowLane.objects.using(alias).filter(claim_token=None)
        limited = WorkflowExecutionRecord.objects.using(alias)
        lines = WorkflowLimitKey.objects.using(alias).in_use().values("key")
        started = limited.filter(holds_rate__in=lines)
        columns = (
            (active, "wake_at"),
            (limited, "deadline"),
            (started, "rate_until"),
            (outbox, "available_at"),
            (lanes, "available_at"),
        )
        for rows, column in columns:
            later = rows.filter(**{f"{column}__gt": DatabaseNow()}).annotate(now=DatabaseNow())
            first = later.order_by(column).values_list(column, "now").first()
            if first is not None:
                found.append(first[0] - first[1])
    return min((one for one in found if one > timedelta(0)), default=None)


def _move(by: timedelta) -> None:
    """Move all later times *by* towards now."""
    if not by:
        return
    engine = get_workflow_engine()
    if isinstance(engine, WorkflowEngine):
        engine.move_timers(by)
    for alias in aliases():
        for model, column in TIMERS:
            rows = model._base_manager.using(alias).filter(**{f"{column}__isnull": False})
            for row in rows.only("pk", column):
                sooner = getattr(row, column) - by
                model._base_manager.using(alias).filter(pk=row.pk).update(**{column: sooner})
