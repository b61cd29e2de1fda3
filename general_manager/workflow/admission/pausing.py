"""Pause and unpause in the tables, in every database that it concerns; release what was parked.

A pause holds for every claim that begins after its commit. Unpausing lifts it, commits, and
releases a bounded number of rows; ticks go on with the rest, also if this process dies in between.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from django.db import connections, router, transaction
from django.db.models import QuerySet
from django.utils import timezone

from general_manager.workflow.core.actors import current_actor
from general_manager.workflow.core.transactions import is_in_transaction
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models import (
    OutboxStatus,
    WorkflowExecutionRecord,
    WorkflowLane,
    WorkflowOutbox,
    WorkflowPause,
)
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.models.executions.parking import release
from general_manager.workflow.models.parking.entries import parked_for, parked_in_lanes
from general_manager.workflow.models.parking.entries import release as release_entries
from general_manager.workflow.models.pause import Released
from general_manager.workflow.models.sql.columns import DatabaseNow
from general_manager.workflow.models.sql.counting import MOST, count_capped
from general_manager.workflow.pauses import Pause, PauseKind

MOST_BATCHES: Final = 20
"""Batches that one call releases; the next tick goes on."""


def pause(kind: PauseKind, name: str, reason: str) -> Pause:
    """Pause it, or leave it paused; returns the pause with the numbers of this moment."""
    aliases = homes(kind)
    for alias in aliases:  # before it is paused in some of them
        connections[alias].ensure_connection()
    for alias in aliases:
        WorkflowPause.objects.using(alias).pause(kind, name, reason)
    found = read_pauses(kind, name)
    # Unpaused again already, by somebody else.
    return found[0] if found else Pause(kind, name, timezone.now(), current_actor(), reason)


def unpause(kind: PauseKind, name: str, then: Callable[[str, Released], object]) -> bool:
    """Lift the pause; false if it is not paused. *then* has the work done that this releases.

    In a caller's transaction, both follow its commit.
    """
    lifted = [one for one in homes(kind) if WorkflowPause.objects.using(one).lift(kind, name)]
    for alias in lifted:
        if is_in_transaction(alias):
            transaction.on_commit(_releasing(alias, kind, name, then), using=alias, robust=True)
        else:
            _releasing(alias, kind, name, then)()
    return bool(lifted)


def _releasing(
    alias: str, kind: PauseKind, name: str, then: Callable[[str, Released], object]
) -> Callable[[], None]:
    def release_and_do() -> None:
        found = release_some(alias, kind, name)
        if found.queues:
            then(alias, found)

    return release_and_do


def release_some(alias: str, kind: PauseKind, name: str) -> Released:
    """Release up to `MOST_BATCHES` batches of what a lifted pause has parked."""
    ids: list[str] = []
    queues: set[str] = set()
    lines: frozenset[str] = frozenset()
    for _ in range(MOST_BATCHES):
        if kind is PauseKind.WORKFLOW:
            found = release(WorkflowExecutionRecord.objects.using(alias), name)
        else:
            found = release_entries(WorkflowOutbox.objects.using(alias), name)
        if not found.queues:
            break
        ids += found.ids
        queues |= found.queues
        lines |= found.lines
    return Released(ids, queues, lines)


def release_lifted(alias: str) -> Released:
    """Go on with every lifted pause."""
    pauses = WorkflowPause.objects.using(alias)
    ids: list[str] = []
    queues: set[str] = set()
    lines: frozenset[str] = frozenset()
    for kind, name, may_be_over in pauses.lifted():
        found = release_some(alias, kind, name)
        ids += found.ids
        queues |= found.queues
        lines |= found.lines
        if may_be_over and not found.queues and not _holds_back(alias, kind, name):
            pauses.released(kind, name)
    return Released(ids, queues, lines)


def _holds_back(alias: str, kind: PauseKind, name: str) -> bool:
    """Whether something is still parked: a release skips rows that somebody has locked."""
    return any(one.exists() for one in _parked_by(alias, WorkflowPause(kind=kind, name=name)))


def read_pauses(
    kind: PauseKind | None = None, name: str | None = None, *, using: str | None = None
) -> list[Pause]:
    """The pauses that are in force, the latest first, with numbers over every database or *using*.

    One statement in each database, and two or three more where something is paused.
    """
    aliases = homes(kind) if using is None else [using]
    return merge_pauses(chain.from_iterable(_read(alias, kind, name) for alias in aliases))


def homes(kind: PauseKind | None = None) -> list[str]:
    """Databases whose claims a pause of this *kind* holds back: that of the executions, or each.

    A workflow can be paused although another database cannot be reached.
    """
    if kind is PauseKind.WORKFLOW:
        return [router.db_for_write(WorkflowExecutionRecord)]
    return outboxes()


def merge_pauses(found: Iterable[Pause]) -> list[Pause]:
    """One for each name, of what each database has; the numbers are added."""
    merged: dict[tuple[str, str], Pause] = {}
    for one in found:
        known = merged.get((one.kind, one.name))
        merged[one.kind, one.name] = one if known is None else replace(
            one,
            since=known.since,
            parked=one.parked + known.parked,
            running=one.running + known.running,
        )  # fmt: skip
    return list(merged.values())


def _read(alias: str, kind: PauseKind | None, name: str | None) -> Iterator[Pause]:
    rows = WorkflowPause.objects.using(alias).on().order_by("-paused_at", "-pk")
    if kind is not None:
        rows = rows.filter(kind=kind)
    elif alias not in homes(PauseKind.WORKFLOW):  # there it would hold nothing back
        rows = rows.exclude(kind=PauseKind.WORKFLOW)
    if name is not None:
        rows = rows.filter(name=name)
    for row, parked, running in _counted(alias, list(rows)):
        yield Pause(
            PauseKind(row.kind), row.name, row.paused_at, row.paused_by, row.reason, parked, running
        )


def _counted(alias: str, rows: list[WorkflowPause]) -> list[tuple[WorkflowPause, int, int]]:
    executions = WorkflowExecutionRecord.objects.using(alias)
    running = [
        executions.filter(state=WorkflowState.RUNNING, workflow_id=row.name)
        for row in rows
        if row.kind == PauseKind.WORKFLOW
    ]
    parked = count_parked(alias, rows)
    counts = iter(count_capped(running, alias) if running else ())
    claimed = _claimed(alias) if len(running) < len(rows) else Counter()
    return [
        (
            row,
            count,
            next(counts) if row.kind == PauseKind.WORKFLOW else claimed[row.name],
        )
        for row, count in zip(rows, parked, strict=True)
    ]


def count_parked(alias: str, rows: list[WorkflowPause]) -> list[int]:
    """How many executions or deliveries each pause has parked, in one statement."""
    parts = [_parked_by(alias, row) for row in rows]
    counts = iter(count_capped([one for part in parts for one in part], alias) if parts else ())
    return [sum(next(counts) for _ in part) for part in parts]


def _parked_by(alias: str, row: WorkflowPause) -> list["QuerySet[Any]"]:
    if row.kind == PauseKind.REGISTRATION:
        return [parked_for(alias, row.name), parked_in_lanes(alias, row.name)]
    executions = WorkflowExecutionRecord.objects.using(alias)
    return [executions.filter(workflow_id=row.name, parked_at__isnull=False)]


def _claimed(alias: str) -> Counter[str]:
    """By registration: what a worker is delivering now, entries that expect it and lanes."""
    entries = WorkflowOutbox.objects.using(alias).filter(available_at__isnull=False)
    held = entries.filter(status=OutboxStatus.CLAIMED, started=True)
    expected = held.values_list("expected_registrations", flat=True)[:MOST]
    lanes = WorkflowLane.objects.using(alias).filter(available_at__gt=DatabaseNow())
    held_lanes = lanes.exclude(claim_token=None).values_list("registration_id", flat=True)
    return Counter(chain.from_iterable(expected)) + Counter(held_lanes[:MOST])
