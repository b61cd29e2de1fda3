"""The health of the system, the same for the admin, `workflow_status` and monitors."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from django.db import router
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.workflow.admission.pausing import read_pauses
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.models.sql.counting import MOST
from general_manager.workflow.operations.database_state import oldest_transaction
from general_manager.workflow.operations.lines import line_troubles
from general_manager.workflow.operations.overview import Overview, read_overview
from general_manager.workflow.operations.pauses import pause_to_json, pause_troubles
from general_manager.workflow.operations.tables import Tables, whole_tables
from general_manager.workflow.operations.troubles.ends import end_troubles
from general_manager.workflow.operations.troubles.lanes import lane_troubles
from general_manager.workflow.operations.troubles.queues import queue_troubles
from general_manager.workflow.operations.troubles.schedules import schedule_troubles
from general_manager.workflow.pauses import Pause
from general_manager.workflow.workers.tick import keeps_rows_here

TICKS_MISSED: Final = 6
"""After so many intervals without a tick, Beat counts as stopped."""

LEAST_PATIENCE: Final = timedelta(seconds=60)
NAMED: Final = 5
"""Workers that a message names."""
OLD: Final = timedelta(minutes=5)
"""Older undelivered events are stuck, or the workers are overloaded."""
OLD_TRANSACTION: Final = timedelta(minutes=10)
"""A transaction that stays open keeps the dead rows that every claim has to skip."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One problem; worse ones have a higher *weight*."""

    code: str
    message: str
    remedy: str
    weight: int
    count: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    overview: Overview
    troubles: list[Trouble] = field(default_factory=list)
    """Worst first."""
    pauses: list[Pause] = field(default_factory=list)
    """What is paused, the latest first: not wrong by itself."""

    @property
    def is_well(self) -> bool:
        return not self.troubles

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines: times in ISO 8601, ages in seconds."""
        overview = self.overview
        oldest, tick = overview.oldest_undelivered, overview.last_tick
        age = None if oldest is None else (overview.at - oldest).total_seconds()
        return {
            "ok": self.is_well,
            "at": overview.at.isoformat(),
            "troubles": [
                {"code": one.code, "message": one.message, "remedy": one.remedy}
                for one in self.troubles
            ],
            "executions": dict(overview.states),
            "outbox": {
                "undelivered": overview.undelivered,
                "claimed": overview.claimed,
                "oldest_seconds": age,
            },
            "dead_letters": overview.dead,
            "late_executions": overview.late_executions,
            "late_ends": overview.late_ends,
            "long_deliveries": overview.long_deliveries,
            "lanes": overview.lanes,
            "blocked_lanes": overview.blocked_lanes,
            "late_items": overview.late_items,
            "late_schedules": overview.late_schedules,
            "unregistered_schedules": overview.unregistered_schedules,
            "lines": {"count": overview.lines, "executions": overview.in_line},
            "pauses": [pause_to_json(one) for one in self.pauses],
            "last_tick": None if tick is None else tick.isoformat(),
            "beats": overview.beats,
            "workers": overview.workers,
        }


def check_health(using: str | None = None, tables: Tables | None = None) -> Health:
    """Find out what is wrong. Local mode stores nothing, so nothing is ever wrong there.

    Checks the executions' database and the outboxes of all others; with *using*, only that
    database. Counts the rows of *tables*. Raises `DatabaseError` if a database cannot be reached.
    """
    overview = read_overview(using, tables)
    asked = (router.db_for_read(WorkflowOutbox), router.db_for_write(WorkflowOutbox))
    for alias in [] if using else outboxes():
        if alias not in asked:
            overview = overview.and_outbox_of(read_overview(alias, tables))
    outbox = using or router.db_for_write(WorkflowOutbox)
    executions = using or router.db_for_read(WorkflowExecutionRecord)
    seen, pauses = tables or whole_tables(), read_pauses(using=using)
    found = (
        *schedule_troubles(seen.using(executions), overview, is_ticking=not _late_tick(overview)),
        *queue_troubles(outbox, overview),
        *line_troubles(executions, overview),
        *lane_troubles(seen, overview),
        *end_troubles(overview),
        *pause_troubles(pauses, overview.at),
    )
    troubles = [*_troubles(overview), *_of_transactions(outbox), *(Trouble(*one) for one in found)]
    return Health(overview, sorted(troubles, key=lambda one: -one.weight), pauses)


def _troubles(overview: Overview) -> Iterator[Trouble]:
    settings = get_workflow_settings()
    late = _late_tick(overview) if settings.beat_enabled else ""
    if not settings.beat_enabled and keeps_rows_here():
        yield from _of_timer(overview)
    is_wanted = late or (settings.run_async and overview.undelivered)
    if is_wanted and not overview.workers:
        yield Trouble(
            "no-worker",
            _("No Celery worker is running."),
            _("Start one: celery -A <project> worker"),
            100,
        )
    if late:
        yield from _of_beat(overview, late)
    if settings.run_async:
        yield from _of_idle_workers(overview)
    age = (
        overview.at - overview.oldest_undelivered
        if overview.oldest_undelivered is not None
        else timedelta(0)
    )
    if age > OLD:
        yield Trouble(
            "old-work",
            _("The oldest undelivered event is %s old.") % in_words(age),
            _(
                "Check the outbox: does a handler fail? Do workers register every handler? Are "
                "there enough workers? Events of a killed worker wait until its lease expires."
            ),
            60,
            overview.undelivered,
        )
    if overview.late_executions:
        yield Trouble(
            "late-executions",
            ngettext(
                "%s execution is due, and no worker has picked it up.",
                "%s executions are due, and no worker has picked them up.",
                overview.late_executions,
            )
            % number(overview.late_executions),
            _("Are Beat and workers running? Sweep now: manage.py workflow_drain_outbox")
            if settings.run_async
            else _("Run it now: manage.py workflow_drain_outbox"),
            70,
            overview.late_executions,
        )
    if overview.long_deliveries:
        limit = in_words(settings.delivery_running_timeout)
        yield Trouble(
            "long-deliveries",
            ngettext(
                "%(count)s event has been with its worker for more than %(limit)s.",
                "%(count)s events have been with their workers for more than %(limit)s.",
                overview.long_deliveries,
            )
            % {"count": number(overview.long_deliveries), "limit": limit},
            _("A handler hangs or is slow. Let it start a workflow instead."),
            50,
            overview.long_deliveries,
        )
    if overview.dead:
        yield Trouble(
            "dead-letters",
            ngettext("%s dead letter.", "%s dead letters.", overview.dead) % number(overview.dead),
            _("Fix the cause, then requeue: manage.py workflow_requeue_dead_letters"),
            40,
            overview.dead,
        )


def _of_transactions(alias: str) -> Iterator[Trouble]:
    oldest = oldest_transaction(alias)
    if oldest is not None and oldest.age > OLD_TRANSACTION:
        yield Trouble(
            "old-transaction",
            _("A transaction has been open for %(age)s: %(who)s.")
            % {"age": in_words(oldest.age), "who": visible(oldest.who)},
            _(
                "While it is open no dead row can be removed, and tables grow. Is it a backup, a "
                "report, or a session that was forgotten? End it, or set "
                "idle_in_transaction_session_timeout."
            ),
            30,
        )


def _of_idle_workers(overview: Overview) -> Iterator[Trouble]:
    """A worker's main process is alive, but its child processes may hang."""
    stuck_events = overview.late_deliveries and not overview.claimed
    stuck_executions = overview.late_executions and not overview.states[WorkflowState.RUNNING]
    is_idle = stuck_events or stuck_executions
    if not (is_idle and overview.workers):
        return
    names = {"names": ", ".join(overview.workers[:NAMED])}
    yield Trouble(
        "idle-workers",
        ngettext(
            "Worker %(names)s is running but does not pick up due work.",
            "Workers %(names)s are running but do not pick up due work.",
            len(overview.workers),
        )
        % names,
        _(
            "Do they consume the queue of general_manager.workflow.tasks.*? Does a process hang on "
            "a database or broker that never answers (W017)? Dump its stack, then restart it."
        ),
        80,
        len(overview.workers),
    )


def _late_tick(overview: Overview) -> str:
    """How long ago the last tick ran, in words; empty if it ran recently."""
    interval = get_workflow_settings().beat_outbox_interval
    patience = max(LEAST_PATIENCE, interval * TICKS_MISSED)
    if overview.last_tick is None:
        return _("Beat has never ticked.")
    if overview.at - overview.last_tick <= patience:
        return ""
    return _("No tick of Beat for %s.") % in_words(overview.at - overview.last_tick)


def _of_beat(overview: Overview, late: str) -> Iterator[Trouble]:
    """Beat sends the tick and a worker runs it: find out which of the two is missing."""
    if not overview.beats:
        yield Trouble(
            "no-beat",
            late,
            _(
                "Lost messages, retries and timers wait for Beat. Start it: "
                "celery -A <project> beat"
            ),
            95,
        )
    elif overview.workers:
        yield Trouble(
            "no-tick",
            _("%s Beat is running, but the workers have not run its tick.") % late,
            _(
                "Does a worker consume the queue of general_manager's tasks? Is it busy? "
                "Check the queue's length in the broker."
            ),
            95,
        )


def _of_timer(overview: Overview) -> Iterator[Trouble]:
    """Without workers: does any process handle retries, sleeps and timeouts?"""
    is_active = overview.undelivered or any(overview.states[state] for state in ACTIVE_STATES)
    if not is_active or (
        overview.last_tick is not None and overview.at - overview.last_tick <= OLD
    ):
        return
    if overview.last_tick is None:
        message = _("No process has ever processed due work.")
    else:
        message = _("No process has processed due work for %s.") % in_words(
            overview.at - overview.last_tick
        )
    yield Trouble(
        "no-timer",
        message,
        _(
            "Without workers (WORKFLOW_ASYNC = False) a web server processes retries, sleeps and "
            "timeouts from its first request on. Without a web server, run manage.py "
            "workflow_drain_outbox, for example from cron."
        ),
        95,
    )


def number(count: int) -> str:
    """A capped count as text: ``10,000+`` means more than that."""
    return f"{MOST:,}+" if count > MOST else f"{count:,}"
