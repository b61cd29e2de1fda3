"""What is wrong with the processes that do the work, in words, for the health of the system."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.operations.numbers import number
from general_manager.workflow.operations.overview import Overview
from general_manager.workflow.operations.troubles.outbox import OLD
from general_manager.workflow.workers.tick import keeps_rows_here

TICKS_MISSED: Final = 6
"""After so many intervals without a tick, Beat counts as stopped."""

LEAST_PATIENCE: Final = timedelta(seconds=60)
NAMED: Final = 5
"""Workers that a message names."""

TroubleParts = tuple[str, str, str, int, int]
"""Code, message, remedy, weight and count."""


def process_troubles(overview: Overview) -> Iterator[TroubleParts]:
    """Workers, Beat and timers: who is missing, and what nobody picks up."""
    if not overview.states:  # of the database with the heartbeats nothing is known
        return
    settings = get_workflow_settings()
    late = late_tick(overview) if settings.beat_enabled else ""
    if not settings.beat_enabled and keeps_rows_here():
        yield from _of_timer(overview)
    is_wanted = late or (settings.run_async and overview.undelivered)
    if is_wanted and not overview.workers:
        yield (
            "no-worker",
            _("No Celery worker is running."),
            _("Start one: celery -A <project> worker"),
            100,
            0,
        )
    if late:
        yield from _of_beat(overview, late)
    if settings.run_async:
        yield from _of_idle_workers(overview)
    if overview.late_executions:
        yield (
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


def _of_idle_workers(overview: Overview) -> Iterator[TroubleParts]:
    """A worker's main process is alive, but its child processes may hang."""
    stuck_events = overview.late_deliveries and not overview.claimed
    stuck_executions = overview.late_executions and not overview.states[WorkflowState.RUNNING]
    is_idle = stuck_events or stuck_executions
    if not (is_idle and overview.workers):
        return
    names = {"names": ", ".join(overview.workers[:NAMED])}
    yield (
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


def late_tick(overview: Overview) -> str:
    """How long ago the last tick ran, in words; empty if it ran recently."""
    interval = get_workflow_settings().beat_outbox_interval
    patience = max(LEAST_PATIENCE, interval * TICKS_MISSED)
    if overview.last_tick is None:
        return _("Beat has never ticked.")
    if overview.at - overview.last_tick <= patience:
        return ""
    return _("No tick of Beat for %s.") % in_words(overview.at - overview.last_tick)


def _of_beat(overview: Overview, late: str) -> Iterator[TroubleParts]:
    """Beat sends the tick and a worker runs it: find out which of the two is missing."""
    if not overview.beats:
        yield (
            "no-beat",
            late,
            _(
                "Lost messages, retries and timers wait for Beat. Start it: "
                "celery -A <project> beat"
            ),
            95,
            0,
        )
    elif overview.workers:
        yield (
            "no-tick",
            _("%s Beat is running, but the workers have not run its tick.") % late,
            _(
                "Does a worker consume the queue of general_manager's tasks? Is it busy? "
                "Check the queue's length in the broker."
            ),
            95,
            0,
        )


def _of_timer(overview: Overview) -> Iterator[TroubleParts]:
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
    yield (
        "no-timer",
        message,
        _(
            "Without workers (WORKFLOW_ASYNC = False) a web server processes retries, sleeps and "
            "timeouts from its first request on. Without a web server, run manage.py "
            "workflow_drain_outbox, for example from cron."
        ),
        95,
        0,
    )
