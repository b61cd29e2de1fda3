"""An overview in a fixed number of cheap queries, for the admin, commands and monitors."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, cast

from django.db import router
from django.db.models import DateTimeField, Max, Min, QuerySet
from django.db.models.functions import Left, Right
from django.utils import timezone

from general_manager.conf import get_workflow_settings
from general_manager.workflow.core.actors import BEAT, WORKER
from general_manager.workflow.core.ids import MAX_ID_LENGTH
from general_manager.workflow.engine import ACTIVE_STATES, TERMINAL_STATES, WorkflowState
from general_manager.workflow.models import (
    DeliveryStatus,
    OutboxStatus,
    WorkflowExecutionRecord,
    WorkflowHeartbeat,
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.models.children.duties import ended_before
from general_manager.workflow.models.queue import are_late, queues_of_deliveries
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now
from general_manager.workflow.models.sql.counting import MOST, count_capped
from general_manager.workflow.operations.lines import counted_lines
from general_manager.workflow.operations.schedules import ahead_of_clock, unregistered
from general_manager.workflow.operations.schedules import late as late_schedules
from general_manager.workflow.operations.tables import Tables, whole_tables

DAY: Final = timedelta(days=1)
HOURS: Final = 24
MOST_PER_HOUR: Final = 2_000
FEW: Final = 6
TICK_DUTY: Final = "tick"
WORKER_SILENT: Final = timedelta(seconds=100)
"""Workers record a heartbeat every thirty seconds."""
LATE: Final = timedelta(seconds=90)
"""A sweep has missed work that has been due for so long."""


@dataclass(frozen=True, slots=True)
class Hour:
    """Executions that ended in one hour; *ended* includes *failed*."""

    start: datetime
    ended: int
    failed: int


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the system *at* one moment. A count above `MOST` means "more than `MOST`"."""

    at: datetime
    states: dict[str, int]
    """Executions by state: active ones now, terminal ones of the last day."""
    undelivered: int
    claimed: int
    oldest_undelivered: datetime | None
    dead: int
    late_executions: int
    long_deliveries: int
    late_deliveries: int
    """Entries that have been due for `LATE` and are unclaimed."""
    last_tick: datetime | None
    ticked_by: str
    workers: list[str]
    served: list[str] | None = None
    """Queues from which the workers take messages; `None` if that is not known of one of them."""
    beats: list[str] = field(default_factory=list)
    """Beat processes, which send the ticks that workers run."""
    late_schedules: int = 0
    unregistered_schedules: int = 0
    """Schedules that no process with ticks has registered lately."""
    ahead_schedules: int = 0
    """Schedules whose last slot is in the future."""
    lanes: int = 0
    """Keys with undelivered events in order."""
    blocked_lanes: int = 0
    late_lanes: int = 0
    """Lanes that have been due for `LATE` and are unclaimed."""
    late_items: int = 0
    """Events of the last day whose publisher did not know the ordered registration."""
    lines: int = 0
    """Keys of limits with executions in line."""
    in_line: int = 0
    standing_lines: int = 0
    """Lines in which nobody got a slot for an hour."""
    late_ends: int = 0
    """Executions that ended before `LATE`; a parent is not told, or children are not stopped."""

    def and_outbox_of(self, other: "Overview") -> "Overview":
        """This overview plus the outbox of another database."""
        ages = [
            one.oldest_undelivered for one in (self, other) if one.oldest_undelivered is not None
        ]
        return replace(
            self,
            undelivered=self.undelivered + other.undelivered,
            claimed=self.claimed + other.claimed,
            oldest_undelivered=min(ages, default=None),
            dead=self.dead + other.dead,
            long_deliveries=self.long_deliveries + other.long_deliveries,
            late_deliveries=self.late_deliveries + other.late_deliveries,
            lanes=self.lanes + other.lanes,
            blocked_lanes=self.blocked_lanes + other.blocked_lanes,
            late_lanes=self.late_lanes + other.late_lanes,
            late_items=self.late_items + other.late_items,
        )


@dataclass(frozen=True, slots=True)
class Details:
    """What the overview page shows besides the numbers."""

    hours: list[Hour]
    dead_by_handler: list[tuple[str, int]]
    failed_by_workflow: list[tuple[str, int]]
    failures: list[Any]
    """Failed executions, with the end of their error as `error_end`."""
    waiting: list[tuple[WorkflowExecutionRecord, datetime | None]] = field(default_factory=list)


def read_overview(using: str | None = None, tables: Tables | None = None) -> Overview:
    """Read the overview in a few statements, on the executions' database or *using*.

    Counts the rows of *tables*. Ticks and workers do not depend on them. Uses the database's clock,
    which wrote the times: this process's clock may be off.
    """
    alias = using or router.db_for_read(WorkflowExecutionRecord)
    tables = (tables or whole_tables()).using(alias)
    executions, deliveries = tables.executions, tables.deliveries
    entries = tables.entries.filter(available_at__isnull=False)
    running_too_long = from_now(-get_workflow_settings().delivery_running_timeout)
    queues = queues_of_deliveries(alias, only_due=False)
    parts: list[QuerySet[Any]] = [executions.filter(state=state) for state in ACTIVE_STATES]
    parts += [executions.filter(state=one, ended_at__gt=from_now(-DAY)) for one in TERMINAL_STATES]
    parts += [
        entries,
        entries.filter(status=OutboxStatus.CLAIMED),
        deliveries.filter(status=DeliveryStatus.DEAD_LETTER),
        executions.filter(are_late(alias, LATE)),
        entries.filter(status=OutboxStatus.CLAIMED, started=True, claimed_at__lt=running_too_long),
        entries.exclude(status=OutboxStatus.CLAIMED).filter(
            queue__in=queues, available_at__lt=from_now(-LATE)
        ),
        *(rule(tables.schedules) for rule in (late_schedules, unregistered, ahead_of_clock)),
        *counted_lines(alias),
        tables.lanes,
        tables.lanes.filter(blocked_since__isnull=False),
        tables.lanes.filter(
            queue__in=queues, available_at__lt=from_now(-LATE), claim_token__isnull=True
        ),
        deliveries.filter(late_at__gt=from_now(-DAY)),
        executions.filter(ended_before(LATE)),
    ]
    counts = count_capped(parts, alias)
    heartbeats: Any = WorkflowHeartbeat.objects.using(alias)
    found = list(heartbeats.annotate(asked_at=DatabaseNow()))
    # Without either, nothing has an age.
    oldest, asked_at = _oldest(entries, queues)
    now = found[0].asked_at if found else asked_at or timezone.now()
    beats = {beat.duty: beat for beat in found}
    tick = beats.get(TICK_DUTY)
    alive = now - WORKER_SILENT
    return Overview(
        at=now,
        states=dict(zip((*ACTIVE_STATES, *TERMINAL_STATES), counts[:6], strict=True)),
        undelivered=counts[6],
        claimed=counts[7],
        oldest_undelivered=oldest,
        dead=counts[8],
        late_executions=counts[9],
        long_deliveries=counts[10],
        late_deliveries=counts[11],
        last_tick=tick.at if tick else None,
        ticked_by=tick.by if tick else "",
        workers=_alive(WORKER, beats.values(), alive),
        served=_served(beats.values(), alive),
        beats=_alive(BEAT, beats.values(), alive),
        late_schedules=counts[12],
        unregistered_schedules=counts[13],
        ahead_schedules=counts[14],
        lines=counts[15],
        in_line=counts[16],
        standing_lines=counts[17],
        lanes=counts[18],
        blocked_lanes=counts[19],
        late_lanes=counts[20],
        late_items=counts[21],
        late_ends=counts[22],
    )


def _oldest(
    entries: QuerySet[WorkflowOutbox], queues: Iterable[str]
) -> tuple[datetime | None, datetime | None]:
    """When the oldest was published, not when it is due: a retry's delay must not hide it.

    And the time on the database's clock, if there is any.
    """
    found = []
    for queue in queues:
        due_first = entries.filter(queue=queue).order_by("available_at")[:MOST]
        now = Max(DatabaseNow(), output_field=DateTimeField())
        found.append(due_first.aggregate(since=Min("undelivered_since"), at=now))
    oldest = [one["since"] for one in found if one["since"] is not None]
    return min(oldest, default=None), next((one["at"] for one in found), None)


def _served(beats: Iterable[WorkflowHeartbeat], since: datetime) -> list[str] | None:
    of_workers = [one.queues for one in beats if one.duty.startswith(WORKER) and one.at > since]
    if not of_workers or None in of_workers:
        return None
    return sorted({name for names in of_workers for name in names or ()})


def _alive(kind: str, beats: Iterable[WorkflowHeartbeat], since: datetime) -> list[str]:
    names = (one.duty.removeprefix(kind) for one in beats
             if one.duty.startswith(kind) and one.at > since)  # fmt: skip
    return sorted(names)


def read_details(
    using: str | None = None, tables: Tables | None = None, *, at: datetime | None = None
) -> Details:
    """Read more in six statements: open waits, recent failures, and the last day by hour.

    *at* is the database's time, as `read_overview` returns it.
    """
    alias = using or router.db_for_read(WorkflowExecutionRecord)
    tables = (tables or whole_tables()).using(alias)
    executions = tables.executions
    failed = executions.filter(state=WorkflowState.FAILED)
    lately = failed.filter(ended_at__gt=from_now(-DAY))
    dead = tables.deliveries.filter(status=DeliveryStatus.DEAD_LETTER)
    asking = executions.filter(state=WorkflowState.WAITING, waiting_for__isnull=False)
    # Waiting executions have no end time, so the index on state and end sorts them by age.
    longest = tables.seen(_short(asking).order_by("ended_at", "pk")[:FEW])
    questions = WorkflowStep.objects.using(alias).defer("result")
    questions = questions.filter(execution__in=longest, answerable=True)
    since = {(one.execution_id, one.name): one.started_at for one in questions}
    return Details(
        hours=_hours(executions, at or timezone.now(), alias),
        dead_by_handler=_most_common(dead, "registration_id"),
        failed_by_workflow=_most_common(lately, "workflow_id"),
        failures=tables.seen(_short(failed).order_by("-ended_at")[:FEW]),
        waiting=[(one, since.get((one.pk, str(one.waiting_for)))) for one in longest],
    )


def _short(rows: QuerySet[Any]) -> QuerySet[Any]:
    """*rows* with only the end of the error and without large columns."""
    large = (
        "traceback", "error", "input_data", "output_data", "metadata", "retry", "attributes",
        "reports", "limits", "ending",
    )  # fmt: skip
    found: Any = rows.defer(*large)
    return cast("QuerySet[Any]", found.annotate(error_end=Right("error", 1_000)))


def _hours(executions: QuerySet[WorkflowExecutionRecord], now: datetime, alias: str) -> list[Hour]:
    """The last day by hour, the current hour last; each counted up to `MOST_PER_HOUR`."""
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
    """The most frequent values of *column* among `MOST` of *rows*."""
    counted = Counter(rows.order_by().values_list(Left(column, MAX_ID_LENGTH), flat=True)[:MOST])
    return counted.most_common(2 * FEW)
