"""The health of the system, the same for the admin, `workflow_status` and monitors."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial, reduce
from itertools import chain
from typing import Any, Final

from django.db import router
from django.utils import timezone
from django.utils.translation import gettext as _

from general_manager.durations import in_words
from general_manager.escaping import visible
from general_manager.workflow.admission.pausing import merge_pauses, read_pauses
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowOutbox
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.operations.database_state import oldest_transaction
from general_manager.workflow.operations.lines import line_troubles
from general_manager.workflow.operations.overview import Overview, read_overview
from general_manager.workflow.operations.pauses import pause_to_json, pause_troubles
from general_manager.workflow.operations.reach import Reach
from general_manager.workflow.operations.tables import Tables, whole_tables
from general_manager.workflow.operations.troubles.ends import end_troubles
from general_manager.workflow.operations.troubles.lanes import lane_troubles
from general_manager.workflow.operations.troubles.outbox import outbox_troubles
from general_manager.workflow.operations.troubles.processes import (
    TroubleParts,
    late_tick,
    process_troubles,
)
from general_manager.workflow.operations.troubles.queues import queue_troubles
from general_manager.workflow.operations.troubles.schedules import schedule_troubles
from general_manager.workflow.pauses import Pause

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
    away: list[str] = field(default_factory=list)
    """Databases that cannot be reached: the rest is without them."""

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
    database. Counts the rows of *tables*. One of several databases that cannot be reached is a
    trouble, and `Health.away` names it. Raises `Error` if none can be reached.
    """
    reach = Reach()
    home = using or router.db_for_read(WorkflowExecutionRecord)
    outbox = using or router.db_for_write(WorkflowOutbox)
    aliases = [using] if using else outboxes()
    asked = {home, router.db_for_read(WorkflowOutbox), outbox}
    found = reach.read(home, lambda: [read_overview(home, tables)])
    for alias in aliases:
        if alias not in asked:
            found += reach.read(alias, partial(_outbox_of, alias, tables))
    reach.fail_if_none({home, *aliases})
    overview = reduce(Overview.and_outbox_of, found or [_nothing()])
    each = [reach.read(one, partial(read_pauses, using=one)) for one in aliases]
    seen = tables or whole_tables()
    pauses = seen.seen_pauses(merge_pauses(chain.from_iterable(each)))
    parts = [
        *process_troubles(overview),
        *reach.read(outbox, lambda: _of_transactions(outbox)),
        *reach.read(home, lambda: _of_home(home, seen, overview, pauses)),
        *reach.read(outbox, lambda: queue_troubles(outbox, overview)),
        *outbox_troubles(overview),
        *end_troubles(overview),
    ]
    parts += lane_troubles(seen, overview, [one for one in aliases if one not in reach.away])
    parts += [_of_databases(reach)] if reach.away else []
    troubles = [Trouble(*one) for one in parts]
    return Health(overview, sorted(troubles, key=lambda one: -one.weight), pauses, [*reach.away])


def _nothing() -> Overview:
    """What is known without the executions' database."""
    return Overview(
        at=timezone.now(),
        states={},
        undelivered=0,
        claimed=0,
        oldest_undelivered=None,
        dead=0,
        late_executions=0,
        long_deliveries=0,
        late_deliveries=0,
        last_tick=None,
        ticked_by="",
        workers=[],
    )


def _outbox_of(alias: str, tables: Tables | None) -> list[Overview]:
    return [_nothing().and_outbox_of(read_overview(alias, tables))]


def _of_home(
    home: str, tables: Tables, overview: Overview, pauses: list[Pause]
) -> Iterator[TroubleParts]:
    """What the executions' database knows more about."""
    is_ticking = not late_tick(overview)
    yield from schedule_troubles(tables.using(home), overview, is_ticking=is_ticking)
    yield from line_troubles(home, overview)
    yield from pause_troubles(pauses, overview.at)


def _of_databases(reach: Reach) -> TroubleParts:
    return (
        "database-away",
        reach.in_words(),
        _("Is it running, and migrated? What is shown here is without it."),
        110,
        len(reach.away),
    )


def _of_transactions(alias: str) -> Iterator[TroubleParts]:
    oldest = oldest_transaction(alias)
    if oldest is not None and oldest.age > OLD_TRANSACTION:
        yield (
            "old-transaction",
            _("A transaction has been open for %(age)s: %(who)s.")
            % {"age": in_words(oldest.age), "who": visible(oldest.who)},
            _(
                "While it is open no dead row can be removed, and tables grow. Is it a backup, a "
                "report, or a session that was forgotten? End it, or set "
                "idle_in_transaction_session_timeout."
            ),
            30,
            0,
        )
