"""Is everything all right? Asked by the admin, `workflow_status` and monitors; answered once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from django.db import router
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from general_manager.conf import get_workflow_settings
from general_manager.durations import in_words
from general_manager.workflow.databases import outboxes
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.models import WorkflowOutbox
from general_manager.workflow.models.counting import MOST
from general_manager.workflow.overview import Overview, look
from general_manager.workflow.sweep import keeps_rows_here
from general_manager.workflow.tables import Tables

TICKS_MISSED: Final = 6
"""So many intervals without a tick of Beat are no coincidence."""

LEAST_PATIENCE: Final = timedelta(seconds=60)
NAMED: Final = 5
"""Workers that a sentence has room for."""
OLD: Final = timedelta(minutes=5)
"""Owed work that is older than this is stuck, or more than the workers can do."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong; worse ones have a higher *weight*."""

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

    @property
    def is_well(self) -> bool:
        return not self.troubles

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines: times in ISO 8601, ages in seconds."""
        seen = self.overview
        oldest = seen.oldest_owed
        return {
            "ok": self.is_well,
            "at": seen.at.isoformat(),
            "troubles": [
                {"code": one.code, "message": one.message, "remedy": one.remedy}
                for one in self.troubles
            ],
            "executions": dict(seen.states),
            "outbox": {
                "owed": seen.owed,
                "claimed": seen.claimed,
                "oldest_seconds": None if oldest is None else (seen.at - oldest).total_seconds(),
            },
            "dead_letters": seen.dead,
            "late_executions": seen.late_executions,
            "long_deliveries": seen.long_deliveries,
            "last_tick": None if seen.last_tick is None else seen.last_tick.isoformat(),
            "beats": seen.beats,
            "workers": seen.workers,
        }


def check_health(using: str | None = None, tables: Tables | None = None) -> Health:
    """Look, and say what is wrong. In local mode, where nothing is stored, all is well.

    At the database of the executions, or at *using*; and, if it is not named, at the outboxes of
    the others too. Of rows, what is in *tables*. Raises `DatabaseError` if a database cannot be
    asked.
    """
    seen = look(using, tables)
    asked = (router.db_for_read(WorkflowOutbox), router.db_for_write(WorkflowOutbox))
    for alias in [] if using else outboxes():
        if alias not in asked:
            seen = seen.and_outbox_of(look(alias, tables))
    return Health(seen, sorted(_troubles(seen), key=lambda one: -one.weight))


def _troubles(seen: Overview) -> Iterator[Trouble]:
    settings = get_workflow_settings()
    late = _late_tick(seen) if settings.beat_enabled else ""
    if not settings.beat_enabled and keeps_rows_here():
        yield from _of_timer(seen)
    is_wanted = late or (settings.run_async and seen.owed)
    if is_wanted and not seen.workers:
        yield Trouble(
            "no-worker",
            _("No Celery worker is running."),
            _("Start one: celery -A <project> worker"),
            100,
        )
    if late:
        yield from _of_beat(seen, late)
    if settings.run_async:
        yield from _of_idle_workers(seen)
    age = seen.at - seen.oldest_owed if seen.oldest_owed is not None else timedelta(0)
    if age > OLD:
        yield Trouble(
            "old-work",
            _("The oldest undelivered event is %s old.") % in_words(age),
            _(
                "Look at the outbox: does a handler fail, does a worker know every handler, "
                "are there enough workers? What a killed worker had waits for the end of its lease."
            ),
            60,
            seen.owed,
        )
    if seen.late_executions:
        yield Trouble(
            "late-executions",
            ngettext(
                "%s execution is due, and no worker has picked it up.",
                "%s executions are due, and no worker has picked them up.",
                seen.late_executions,
            )
            % number(seen.late_executions),
            _("Are Beat and workers running? Sweep now: manage.py workflow_drain_outbox")
            if settings.run_async
            else _("Run it now: manage.py workflow_drain_outbox"),
            70,
            seen.late_executions,
        )
    if seen.long_deliveries:
        limit = in_words(settings.delivery_running_timeout)
        yield Trouble(
            "long-deliveries",
            ngettext(
                "%(count)s event has been with its worker for more than %(limit)s.",
                "%(count)s events have been with their workers for more than %(limit)s.",
                seen.long_deliveries,
            )
            % {"count": number(seen.long_deliveries), "limit": limit},
            _("A handler hangs or is slow: start a workflow from it instead."),
            50,
            seen.long_deliveries,
        )
    if seen.dead:
        yield Trouble(
            "dead-letters",
            ngettext("%s dead letter.", "%s dead letters.", seen.dead) % number(seen.dead),
            _("Fix the cause, then requeue them: manage.py workflow_replay_dead_letters"),
            40,
            seen.dead,
        )


def _of_idle_workers(seen: Overview) -> Iterator[Trouble]:
    """A worker's main process says that it lives; a child of it may wait for good."""
    stuck_events = seen.late_deliveries and not seen.claimed
    stuck_executions = seen.late_executions and not seen.states[WorkflowState.RUNNING]
    is_idle = stuck_events or stuck_executions
    if not (is_idle and seen.workers):
        return
    names = {"names": ", ".join(seen.workers[:NAMED])}
    yield Trouble(
        "idle-workers",
        ngettext(
            "Worker %(names)s is running and picks up nothing that is due.",
            "Workers %(names)s are running and pick up nothing that is due.",
            len(seen.workers),
        )
        % names,
        _(
            "Do they listen to the queue of general_manager.workflow.tasks.*? Does a process wait "
            "for a database or broker that never answers (W017)? Look at its stack, restart it."
        ),
        80,
        len(seen.workers),
    )


def _late_tick(seen: Overview) -> str:
    """Since when no tick was run, in words; empty if there was one lately."""
    interval = get_workflow_settings().beat_outbox_interval
    patience = max(LEAST_PATIENCE, interval * TICKS_MISSED)
    if seen.last_tick is None:
        return _("Beat has never ticked.")
    if seen.at - seen.last_tick <= patience:
        return ""
    return _("No tick of Beat for %s.") % in_words(seen.at - seen.last_tick)


def _of_beat(seen: Overview, late: str) -> Iterator[Trouble]:
    """Beat sends the tick, and a worker runs it: which of the two is missing?"""
    if not seen.beats:
        yield Trouble(
            "no-beat",
            late,
            _(
                "Is Beat running? Lost messages, retries and timers wait for it: "
                "celery -A <project> beat"
            ),
            95,
        )
    elif seen.workers:
        yield Trouble(
            "no-tick",
            _("%s Beat is running; the workers have not run its tick.") % late,
            _(
                "Does a worker consume the queue of general_manager's tasks, and is it free? "
                "See the queue's length in the broker."
            ),
            95,
        )


def _of_timer(seen: Overview) -> Iterator[Trouble]:
    """Without workers: does any process do what comes due later?"""
    is_active = seen.owed or any(seen.states[state] for state in ACTIVE_STATES)
    if not is_active or (seen.last_tick is not None and seen.at - seen.last_tick <= OLD):
        return
    if seen.last_tick is None:
        message = _("No process has ever looked for work that is due.")
    else:
        message = _("No process has looked for work that is due for %s.") % in_words(
            seen.at - seen.last_tick
        )
    yield Trouble(
        "no-timer",
        message,
        _(
            "Without workers (WORKFLOW_ASYNC = False) retries, sleeps and timeouts are done by a "
            "web server that has had a request, or by manage.py workflow_drain_outbox, for example "
            "from cron."
        ),
        95,
    )


def number(count: int) -> str:
    """A capped count in words: ``10,000+`` stands for more."""
    return f"{MOST:,}+" if count > MOST else f"{count:,}"
