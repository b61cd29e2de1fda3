"""The tick: find timers, the work of dead workers and queues whose messages were lost."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from django.db import DatabaseError, router
from django.db.models import Case, When

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.admission.lines import look_now, sweep_lines
from general_manager.workflow.admission.pausing import release_lifted
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.core.actors import whereabouts
from general_manager.workflow.core.observers import notify_state
from general_manager.workflow.core.spreading import spread
from general_manager.workflow.engine import WorkflowExecution, WorkflowState
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.executions.children.afterwards import attend_left
from general_manager.workflow.executions.deadlines import end_late_executions
from general_manager.workflow.executions.runner import give_up, run, run_here
from general_manager.workflow.executions.signals import look_for_dead_senders
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowHeartbeat,
    WorkflowQueue,
)
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.executions.parking import is_to_park
from general_manager.workflow.models.executions.values import NEEDS_SLOT, Woken
from general_manager.workflow.models.queue import queues_with_work
from general_manager.workflow.outbox.drain import drain
from general_manager.workflow.scheduling.firing import fire_due
from general_manager.workflow.transport import get_transport
from general_manager.workflow.transport.nudges import send_nudge
from general_manager.workflow.workers.pruning import prune_once

logger = get_logger(__name__)

SWEEP_BATCH: Final = 200
"""Executions in one batch."""


def keeps_rows_here() -> bool:
    """Whether events or executions are stored and processed by the processes that create them."""
    if get_workflow_settings().run_async:
        return False
    in_force: tuple[object, ...] = (get_event_registry(), get_workflow_engine())
    return any(getattr(one, "supports_tables", False) for one in in_force)


def tick() -> bool:
    """Start due slots, sweep, and see to what is due; false if another has just done so.

    Beat sends it; with `WORKFLOW_ASYNC` off the timers of long-lived processes call it.

    With `WORKFLOW_RETENTION_DAYS` it also prunes one batch.

    The jitter spreads ticks without delaying anything: a tick is dropped if it follows the last one
    sooner than the interval minus a random part of the jitter.
    """
    settings = get_workflow_settings()
    interval = settings.beat_outbox_interval
    jitter = spread(min(settings.beat_max_jitter, interval * 0.9), 0.5, 1)
    # Without jitter, Beat's own inaccuracy would drop every other tick.
    slack = max(jitter, interval * 0.1)
    if not _say_that_it_is_done(unless_within=interval - slack):
        return False
    fire_due()
    if not settings.run_async:
        drain()
    sweep()
    if settings.retention is not None:
        prune_once(settings.retention)
    return True


def _say_that_it_is_done(*, unless_within: timedelta = timedelta(0)) -> bool:
    """Record a heartbeat for health checks; false if there is one within *unless_within*."""
    beats = WorkflowHeartbeat.objects.using(router.db_for_write(WorkflowHeartbeat))
    return beats.beat("tick", whereabouts(), unless_within=unless_within)


def sweep(*, hand_on: bool | None = None) -> int:
    """Make every execution ready that is due, and have what is ready done.

    Returns how many it made ready, or ran.

    Workers get one message for each queue in which something is due. Without *hand_on*, which is
    the default if `WORKFLOW_ASYNC` is off, or without a broker, executions run in this process.
    """
    if hand_on is None:
        hand_on = get_workflow_settings().run_async
    woken = 0
    for alias in outboxes():
        try:
            ready, ended = _wake(alias)
            if not (hand_on and _tell_workers(alias)):
                if hand_on:  # the broker is away
                    drain(alias)
                ready = _run_all(alias)
            woken += ready + ended
        except DatabaseError:
            logger.exception(
                "The executions of database %r could not be swept; retrying at the next tick", alias
            )
    return woken


def _wake(alias: str) -> tuple[int, int]:
    """How many may run now, and how many were taken from a run that hangs."""
    executions = WorkflowExecutionRecord.objects.using(alias)
    ended = end_late_executions(alias)
    released = release_lifted(alias)
    ready = look_for_dead_senders(executions) + attend_left(alias, run_here) + len(released.ids)
    for key in released.lines:
        ended += look_now(alias, key, run_here)
    while (found := executions.wake_due(SWEEP_BATCH)).ready or found.overdue:
        ready += found.ready
        ended += len(found.overdue)
        _end_lost_runs(found, alias)
        for key in found.lines:
            ended += look_now(alias, key, run_here)
    return ready, ended + sweep_lines(alias, run_here)


def _tell_workers(alias: str) -> bool:
    """Send a message for each queue in which something is due and no worker is busy.

    False if the transport accepts none.
    """
    queues = WorkflowQueue.objects.using(alias)
    transport = get_transport().here()
    free = [one for one in queues_with_work(alias) if not queues.is_busy(one)]
    sent = [send_nudge(transport, alias, one) for one in free]
    return all(sent)


@dataclass(frozen=True, slots=True)
class Turn:
    """The result of one round of work."""

    entries: int = 0
    executions: int = 0
    moved: int = 0
    """Executions that did not run: they were parked, or joined the line of their limit."""

    def __add__(self, other: "Turn") -> "Turn":
        return Turn(
            self.entries + other.entries,
            self.executions + other.executions,
            self.moved + other.moved,
        )

    def __bool__(self) -> bool:
        return bool(self.entries or self.executions or self.moved)


def _run_all(alias: str) -> int:
    """Run what is ready here, one by one."""
    done = 0
    while turn := _run_batch(alias, SWEEP_BATCH):
        done += turn.executions
    return done


def _run_batch(alias: str, limit: int) -> Turn:
    """Run the first of what is ready here, or have it parked or put in line by the claim."""
    ready = WorkflowExecutionRecord.objects.using(alias).runnable().order_by("wake_at")
    moves = Case(When(is_to_park() | NEEDS_SLOT, then=True), default=False)
    found = list(ready.values_list("execution_id", moves)[:limit])
    ran = sum(run(one, alias) for one, _ in found)
    return Turn(executions=ran, moved=sum(is_moved for _, is_moved in found))


def _end_lost_runs(found: Woken, alias: str) -> None:
    """Recover the runs of dead workers and end those that exceed their timeout."""
    rows = WorkflowExecutionRecord.objects.using(alias)
    for execution_id in (*found.died, *found.timed_out):
        notify_state(WorkflowState.PENDING, partial(_read, execution_id, rows))
    for execution_id in found.overdue:
        give_up(execution_id, alias)


def _read(execution_id: str, rows: Executions) -> WorkflowExecution:
    return rows.by_id(execution_id).snapshot()


def run_inline(*, limit: int | None = None) -> Iterator[Turn]:
    """Do the workers' work here, one batch per turn, until nothing is due or ready.

    Claims at most *limit* entries and runs at most *limit* executions. Does not end delays, sleeps
    or waits, and does not touch the work of other processes. Raises `DatabaseError` if a database
    fails, after the others are done.
    """
    if keeps_rows_here():
        _say_that_it_is_done()
        fire_due()
    done = Turn()
    failed: dict[str, DatabaseError] = {}
    while turn := _take_turn(_batch(limit, done.entries), _batch(limit, done.executions), failed):
        done += turn
        yield turn
    for error in failed.values():
        raise error


def _batch(limit: int | None, done: int) -> int:
    size = get_workflow_settings().outbox_batch_size
    return size if limit is None else min(size, limit - done)


def _take_turn(entries: int, executions: int, failed: dict[str, DatabaseError]) -> Turn:
    turn = Turn()
    for alias in outboxes():
        if alias in failed:
            continue
        try:
            turn += Turn(drain(alias, limit=entries - turn.entries))
            turn += _run_ready(alias, executions - turn.executions)
        except DatabaseError as error:
            logger.exception("The due work in database %r could not be done", alias)
            failed[alias] = error
    return turn


def _run_ready(alias: str, limit: int) -> Turn:
    if limit <= 0:
        return Turn()
    rows = WorkflowExecutionRecord.objects.using(alias)
    expired = end_late_executions(alias)
    look_for_dead_senders(rows)
    attend_left(alias, run_here)
    found = rows.wake_due(limit)
    _end_lost_runs(found, alias)
    for key in found.lines:
        look_now(alias, key, run_here)
    sweep_lines(alias, run_here)
    return Turn(executions=expired + len(found.overdue)) + _run_batch(alias, limit)
