"""Do in the test what workers would do."""

from datetime import datetime, timedelta
from typing import Final

from django.db import connections, models, router
from django.utils import timezone

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.local import LocalWorkflowEngine
from general_manager.workflow.executor import run
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowExecutionRecord,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.columns import DatabaseNow
from general_manager.workflow.outbox import drain as drain_outbox
from general_manager.workflow.testing.published import held_events
from general_manager.workflow.testing.running import MOST_TURNS

TIMERS: Final[tuple[tuple[type[models.Model], str], ...]] = (
    (WorkflowOutbox, "available_at"),
    (WorkflowDeliveryAttempt, "available_at"),
    (WorkflowExecutionRecord, "wake_at"),
    (WorkflowExecutionRecord, "deadline"),
    (WorkflowStep, "until"),
)
"""Every column that says when something happens."""


def drain() -> int:
    """Deliver every event that is due and run every execution that is ready, until none is left.

    Returns how many deliveries and runs that took. Needs no worker, broker or commit, so it works
    inside a `TestCase`, in both modes: events that are kept in memory until the commit of an open
    transaction are delivered too. What rests, sleeps or waits is left alone; see `advance`.
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
    if isinstance(engine, LocalWorkflowEngine):
        turns += engine.run_due()
    for alias in aliases():
        turns += drain_outbox(alias, hand_on=False)
        ready = WorkflowExecutionRecord.objects.using(alias).runnable().order_by("pk")
        turns += sum(run(one, alias) for one in ready.values_list("execution_id", flat=True))
    return turns


def advance(duration: timedelta | None = None, *, to: datetime | None = None) -> int:
    """Let *duration* pass for events and executions, or the time until *to*, and do all that falls
    due meanwhile, each thing at its time; returns how many deliveries and runs that took.

    Works on both engines, and in a `TestCase`: what is to happen later is moved towards now, so
    the clocks of this process and of the database stay as they are, frozen or not. *to* is
    measured from `django.utils.timezone.now()`.
    """
    if (duration is None) == (to is None):
        raise TypeError("advance() takes a duration, or to=, and not both")
    left = to - timezone.now() if to is not None else duration
    if not isinstance(left, timedelta):
        raise TypeError(f"advance() takes a timedelta, not {duration!r}")
    if left < timedelta(0):
        raise ValueError(f"Time does not run backwards: advance() was asked for {left}")
    done = drain()
    for _ in range(MOST_TURNS):
        due = _next_due()
        if due is None or due > left:
            break
        _move(due)
        left -= due
        done += drain()
    else:
        raise AssertionError(f"There is no end to what falls due: {MOST_TURNS} times so far")
    _move(left)
    return done + drain()


def _next_due() -> timedelta | None:
    """How long until the next thing falls due that is not due yet."""
    found: list[timedelta] = []
    engine = get_workflow_engine()
    if isinstance(engine, LocalWorkflowEngine):
        found += engine.timers()
    for alias in aliases():
        # What is claimed or runs has a lease there, which nobody lets lapse in a test.
        active = WorkflowExecutionRecord.objects.using(alias).exclude(state="running")
        outbox = WorkflowOutbox.objects.using(alias).filter(claim_token=None)
        for rows, column in ((active, "wake_at"), (outbox, "available_at")):
            later = rows.filter(**{f"{column}__gt": DatabaseNow()}).annotate(now=DatabaseNow())
            first = later.order_by(column).values_list(column, "now").first()
            if first is not None:
                found.append(first[0] - first[1])
    return min((one for one in found if one > timedelta(0)), default=None)


def _move(by: timedelta) -> None:
    """What is to happen later, happens *by* sooner."""
    if not by:
        return
    engine = get_workflow_engine()
    if isinstance(engine, LocalWorkflowEngine):
        engine.move_timers(by)
    for alias in aliases():
        for model, column in TIMERS:
            rows = model._base_manager.using(alias).filter(**{f"{column}__isnull": False})
            for row in rows.only("pk", column):
                sooner = getattr(row, column) - by
                model._base_manager.using(alias).filter(pk=row.pk).update(**{column: sooner})


def aliases() -> list[str]:
    """The databases that have our tables."""
    return [
        alias for alias in connections if router.allow_migrate_model(alias, WorkflowExecutionRecord)
    ]
