"""What a dead worker or a lost message left behind, and timers: find them, send them again."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import uniform
from typing import Final

from django.db import DatabaseError, router

from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.actors import whereabouts
from general_manager.workflow.aside import tell_state
from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.backends.celery import CeleryWorkflowEngine
from general_manager.workflow.databases import outboxes
from general_manager.workflow.dispatch import run_executions_now
from general_manager.workflow.engine import WorkflowExecution, WorkflowState
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.event_registry.database import DatabaseEventRegistry
from general_manager.workflow.executor import give_up, run
from general_manager.workflow.messages import MESSAGE
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowHeartbeat
from general_manager.workflow.models.execution import ExecutionQuerySet
from general_manager.workflow.models.execution_recovery import Woken
from general_manager.workflow.outbox import drain
from general_manager.workflow.pruning import prune_once

logger = get_logger(__name__)

BATCH: Final = 200
"""Executions found at once."""


def keeps_rows_here() -> bool:
    """Whether events or executions are stored, and done by the processes that cause them."""
    if get_workflow_settings().run_async:
        return False
    return isinstance(get_event_registry(), DatabaseEventRegistry) or isinstance(
        get_workflow_engine(), CeleryWorkflowEngine
    )


def tick() -> bool:
    """Drain every outbox, sweep; false if that was just done elsewhere.

    Beat asks for it; with `WORKFLOW_ASYNC` off the timers of long-lived processes do.

    With `WORKFLOW_RETENTION_DAYS` it also prunes, a batch at a time.

    The jitter spreads ticks without holding anybody up: one that comes sooner after the last than
    the interval less a random part of the jitter is dropped.
    """
    settings = get_workflow_settings()
    interval = settings.beat_outbox_interval
    jitter = min(settings.beat_max_jitter, interval * 0.9) * uniform(0.5, 1)  # noqa: S311 - spread
    # Without any, Beat's own inaccuracy would drop every other tick.
    spread = max(jitter, interval * 0.1)
    if not _say_that_it_is_done(unless_within=interval - spread):
        return False
    drain()
    sweep()
    if settings.retention is not None:
        prune_once(settings.retention)
    return True


def _say_that_it_is_done(*, unless_within: timedelta = timedelta(0)) -> bool:
    """False if somebody said so less than *unless_within* ago. Health asks for it."""
    beats = WorkflowHeartbeat.objects.using(router.db_for_write(WorkflowHeartbeat))
    return beats.beat("tick", whereabouts(), unless_within=unless_within)


def sweep(*, hand_on: bool | None = None) -> int:
    """Wake every execution whose time has come; returns how many.

    Without *hand_on*, which is the default where `WORKFLOW_ASYNC` is off, or without a broker,
    they are run here.
    """
    if hand_on is None:
        hand_on = get_workflow_settings().run_async
    woken = 0
    for alias in outboxes():
        try:
            woken += _sweep_one(alias, hand_on=hand_on)
        except DatabaseError:
            logger.exception("The executions of database %r could not be swept", alias)
    return woken


def _sweep_one(alias: str, *, hand_on: bool) -> int:
    woken = 0
    while any(found := WorkflowExecutionRecord.objects.using(alias).wake_due(BATCH)):
        woken += len(found.ready) + len(found.suspect) + len(found.overdue)
        _end_lost_runs(found, alias)
        # A message each: what killed its worker must not take others' messages with it.
        messages = [[execution_id] for execution_id in found.suspect]
        messages += [found.ready[at : at + MESSAGE] for at in range(0, len(found.ready), MESSAGE)]
        for ids in messages:
            if not (hand_on and run_executions_now(ids, alias)):
                for execution_id in ids:
                    run(execution_id, alias)
    return woken


def _end_lost_runs(found: Woken, alias: str) -> None:
    """The runs of workers that died, and those that take longer than they may."""
    rows = WorkflowExecutionRecord.objects.using(alias)
    for execution_id in found.died:
        tell_state(WorkflowState.PENDING, partial(_read, execution_id, rows))
    for execution_id in found.overdue:
        give_up(execution_id, alias)


def _read(execution_id: str, rows: ExecutionQuerySet) -> WorkflowExecution:
    return rows.by_id(execution_id).snapshot()


@dataclass(frozen=True, slots=True)
class Turn:
    """What one round of work came to."""

    entries: int = 0
    executions: int = 0

    def __add__(self, other: "Turn") -> "Turn":
        return Turn(self.entries + other.entries, self.executions + other.executions)

    def __bool__(self) -> bool:
        return bool(self.entries or self.executions)


def work_off(*, limit: int | None = None) -> Iterator[Turn]:
    """Do here what workers would do, a batch a turn, until nothing is due or ready.

    At most *limit* entries are claimed and *limit* executions run. What rests, sleeps or waits is
    left alone; what another process has is its own. Raises `DatabaseError` if a database fails,
    when the others are done.
    """
    if keeps_rows_here():
        _say_that_it_is_done()
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
            turn += Turn(drain(alias, hand_on=False, limit=entries - turn.entries))
            turn += Turn(executions=_run_ready(alias, executions - turn.executions))
        except DatabaseError as error:
            logger.exception("The work in database %r could not be done", alias)
            failed[alias] = error
    return turn


def _run_ready(alias: str, limit: int) -> int:
    if limit <= 0:
        return 0
    rows = WorkflowExecutionRecord.objects.using(alias)
    found = rows.wake_due(limit)
    _end_lost_runs(found, alias)
    ready = rows.runnable().order_by("pk").values_list("execution_id", flat=True)[:limit]
    return len(found.overdue) + sum(run(one, alias) for one in ready)
