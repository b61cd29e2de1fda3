"""How things stand, in a fixed number of cheap queries: for the admin, commands and monitors."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, cast

from django.db import router
from django.db.models import Min, QuerySet
from django.db.models.functions import Left, Right
from django.utils import timezone

from general_manager.conf import get_workflow_settings
from general_manager.workflow.actors import BEAT, WORKER
from general_manager.workflow.engine import ACTIVE_STATES, TERMINAL_STATES, WorkflowState
from general_manager.workflow.ids import MAX_ID_LENGTH
from general_manager.workflow.models import (
    DeliveryStatus,
    OutboxStatus,
    WorkflowExecutionRecord,
    WorkflowHeartbeat,
    WorkflowStep,
)
from general_manager.workflow.models.counting import MOST, count_capped
from general_manager.workflow.tables import Tables, whole_tables

DAY: Final = timedelta(days=1)
HOURS: Final = 24
MOST_PER_HOUR: Final = 2_000
FEW: Final = 6
TICK: Final = "tick"
WORKER_SILENT: Final = timedelta(seconds=100)
"""A worker says every thirty seconds that it is there."""
LATE: Final = timedelta(seconds=90)
"""Work that is due and was not looked at for so long: a sweep has missed it."""


@dataclass(frozen=True, slots=True)
class Hour:
    """What ended in one hour; *failed* is a part of *ended*."""

    start: datetime
    ended: int
    failed: int


@dataclass(frozen=True, slots=True)
class Overview:
    """How things stand *at* one moment. A count above `MOST` stands for "more than that"."""

    at: datetime
    states: dict[str, int]
    """Active states now; terminal ones in the last day."""
    owed: int
    claimed: int
    oldest_owed: datetime | None
    dead: int
    late_executions: int
    long_deliveries: int
    late_deliveries: int
    """Due for `LATE`, and no worker has claimed them."""
    last_tick: datetime | None
    ticked_by: str
    workers: list[str]
    beats: list[str] = field(default_factory=list)
    """Beat's own processes, which do not run the tick that they send."""

    def and_outbox_of(self, other: "Overview") -> "Overview":
        """The same, with what the outbox of another database owes."""
        ages = [one.oldest_owed for one in (self, other) if one.oldest_owed is not None]
        return replace(
            self,
            owed=self.owed + other.owed,
            claimed=self.claimed + other.claimed,
            oldest_owed=min(ages, default=None),
            dead=self.dead + other.dead,
            long_deliveries=self.long_deliveries + other.long_deliveries,
            late_deliveries=self.late_deliveries + other.late_deliveries,
        )


@dataclass(frozen=True, slots=True)
class Details:
    """What a page has room for besides the numbers."""

    hours: list[Hour]
    dead_by_handler: list[tuple[str, int]]
    failed_by_workflow: list[tuple[str, int]]
    failures: list[Any]
    """Executions, with the end of their error as `error_end`."""
    waiting: list[tuple[WorkflowExecutionRecord, datetime | None]] = field(default_factory=list)


def look(using: str | None = None, tables: Tables | None = None) -> Overview:
    """Three statements, whatever the size of the tables; on the database where executions live.

    Counts what is in *tables*; who ticks and works is the same for everybody.
    """
    alias = using or router.db_for_read(WorkflowExecutionRecord)
    tables = (tables or whole_tables()).using(alias)
    now = timezone.now()
    executions, deliveries = tables.executions, tables.deliveries
    entries = tables.entries.filter(available_at__isnull=False)
    running_too_long = now - get_workflow_settings().delivery_running_timeout
    parts: list[QuerySet[Any]] = [executions.filter(state=state) for state in ACTIVE_STATES]
    parts += [executions.filter(state=one, ended_at__gt=now - DAY) for one in TERMINAL_STATES]
    parts += [
        entries,
        entries.filter(status=OutboxStatus.CLAIMED),
        deliveries.filter(status=DeliveryStatus.DEAD_LETTER),
        executions.filter(wake_at__lt=now - LATE),
        entries.filter(status=OutboxStatus.CLAIMED, begun=True, claimed_at__lt=running_too_long),
        entries.exclude(status=OutboxStatus.CLAIMED).filter(available_at__lt=now - LATE),
    ]
    counts = count_capped(parts, alias)
    # Since when it is owed, not when it is due: a rest after a failure cannot hide it.
    due_first = entries.order_by("available_at")[:MOST]
    beats = {beat.duty: beat for beat in WorkflowHeartbeat.objects.using(alias)}
    tick = beats.get(TICK)
    alive = now - WORKER_SILENT
    return Overview(
        at=now,
        states=dict(zip((*ACTIVE_STATES, *TERMINAL_STATES), counts[:6], strict=True)),
        owed=counts[6],
        claimed=counts[7],
        oldest_owed=due_first.aggregate(oldest=Min("owed_since"))["oldest"],
        dead=counts[8],
        late_executions=counts[9],
        long_deliveries=counts[10],
        late_deliveries=counts[11],
        last_tick=tick.at if tick else None,
        ticked_by=tick.by if tick else "",
        workers=_alive(WORKER, beats.values(), alive),
        beats=_alive(BEAT, beats.values(), alive),
    )


def _alive(kind: str, beats: Iterable[WorkflowHeartbeat], since: datetime) -> list[str]:
    names = (one.duty.removeprefix(kind) for one in beats
             if one.duty.startswith(kind) and one.at > since)  # fmt: skip
    return sorted(names)


def look_closer(using: str | None = None, tables: Tables | None = None) -> Details:
    """Six statements more: what is waited for, what failed lately, and the last day's hours."""
    alias = using or router.db_for_read(WorkflowExecutionRecord)
    now = timezone.now()
    tables = (tables or whole_tables()).using(alias)
    executions = tables.executions
    failed = executions.filter(state=WorkflowState.FAILED)
    lately = failed.filter(ended_at__gt=now - DAY)
    dead = tables.deliveries.filter(status=DeliveryStatus.DEAD_LETTER)
    asking = executions.filter(state=WorkflowState.WAITING, waiting_for__isnull=False)
    # What waits has no end: in the order of the index on states and ends, that is by age.
    longest = tables.seen(_short(asking).order_by("ended_at", "pk")[:FEW])
    questions = WorkflowStep.objects.using(alias).defer("result")
    questions = questions.filter(execution__in=longest, answerable=True)
    since = {(one.execution_id, one.name): one.started_at for one in questions}
    return Details(
        hours=_hours(executions, now, alias),
        dead_by_handler=_most_common(dead, "registration_id"),
        failed_by_workflow=_most_common(lately, "workflow_id"),
        failures=tables.seen(_short(failed).order_by("-ended_at")[:FEW]),
        waiting=[(one, since.get((one.pk, str(one.waiting_for)))) for one in longest],
    )


def _short(rows: QuerySet[Any]) -> QuerySet[Any]:
    """With the end of an error, which is what is read of it, and nothing that may be large."""
    large = ("traceback", "error", "input_data", "output_data", "metadata", "retry")
    found: Any = rows.defer(*large)
    return cast("QuerySet[Any]", found.annotate(error_end=Right("error", 1_000)))


def _hours(executions: QuerySet[WorkflowExecutionRecord], now: datetime, alias: str) -> list[Hour]:
    """The last day in hours, the present one last; each counted up to `MOST_PER_HOUR`."""
    present = now.replace(minute=0, second=0, microsecond=0)
    starts = [present - timedelta(hours=back) for back in reversed(range(HOURS))]
    parts = []
    for state in TERMINAL_STATES:
        rows = executions.filter(state=state)
        hour = timedelta(hours=1)
        parts += [rows.filter(ended_at__gte=one, ended_at__lt=one + hour) for one in starts]
    counts = count_capped(parts, alias, MOST_PER_HOUR)
    by_state = [counts[number * HOURS : (number + 1) * HOURS] for number in range(3)]
    completed, failed, cancelled = by_state
    return [
        Hour(start, completed[number] + failed[number] + cancelled[number], failed[number])
        for number, start in enumerate(starts)
    ]


def _most_common(rows: QuerySet[Any], column: str) -> list[tuple[str, int]]:
    """The values of *column* that are most frequent among `MOST` of *rows*."""
    counted = Counter(rows.order_by().values_list(Left(column, MAX_ID_LENGTH), flat=True)[:MOST])
    return counted.most_common(2 * FEW)
