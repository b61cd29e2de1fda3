"""Starts children: each chunk together with its slots, in one commit under the parent's lock.

A child that is started is not ready. What may run at once becomes ready in the same commit; the
rest is held, until a look releases it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from django.db import models, transaction
from django.db.models import Case, ExpressionWrapper, F, When

from general_manager.workflow.durable.children.specs import CYCLE
from general_manager.workflow.durable.ending import ending_of
from general_manager.workflow.durable.stops import EndRequested
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.models.children.states import (
    CHILDREN_CHUNK,
    newest_of,
    waiters_of,
)
from general_manager.workflow.models.children.table import WorkflowChildSlot, child_values
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.executions.taking import chain_of
from general_manager.workflow.models.executions.values import (
    CHILD_FIELDS,
    LIMIT_FIELDS,
    START_FIELDS,
    due_now,
    ready_now,
)
from general_manager.workflow.models.sql.columns import DatabaseNow, not_indexed
from general_manager.workflow.models.sql.inserts import insert_new

MOST_WAITERS: Final = 1_000
"""Executions that are followed in the search for a cycle."""

StartOnce = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class NewChild:
    """A child to insert: its place, its key, and the columns of its execution."""

    place: int
    key: str
    abandon: bool
    values: Mapping[str, Any]

    @property
    def execution_id(self) -> str:
        return str(self.values["execution_id"])

    @property
    def is_plain(self) -> bool:
        """It can be inserted together with others: nothing can be in its place."""
        is_active = self.values["state"] in ACTIVE_STATES
        return is_active and self.values["dedup_key"] is None


class Started(NamedTuple):
    """What became of a chunk of children."""

    ready: Sequence[NewChild]
    """Those that may run."""
    joined: Collection[int]
    """The places of those that were there already: nothing was started for them."""


@dataclass(slots=True)
class Room:
    """Which children of a gather run, by their chains, and how many may."""

    at_once: int | None
    running: set[str] = field(default_factory=set)

    @property
    def is_full(self) -> bool:
        return self.at_once is not None and len(self.running) >= self.at_once


def start_chunk(
    executions: Executions,
    record: Any,
    gather: str,
    children: Sequence[NewChild],
    *,
    at_once: int | None,
    start_once: StartOnce,
) -> Started | None:
    """Start those of *children* that have no slot yet.

    Returns `None` if the run no longer holds the execution, and raises `EndRequested` if that is to
    end. May be repeated after a lost answer.
    """
    slots = WorkflowChildSlot.objects.using(executions.db)
    with transaction.atomic(using=executions.db):
        parent = executions.held(record).select_for_update().first()
        if parent is None:
            return None
        ending = ending_of(parent.ending)
        if ending is not None:
            raise EndRequested(ending)
        mine = slots.of(parent.pk, gather)
        places = [one.place for one in children]
        known = set(mine.filter(place__in=places).values_list("place", flat=True))
        new = [one for one in children if one.place not in known]
        joined = _insert(executions, parent, new, start_once)
        room = Room(at_once)
        if at_once is not None:
            room.running.update(mine.running().values_list("child", flat=True))
        rows, ready = _slots(executions, parent, gather, new, joined, room=room)
        slots.bulk_create(rows)
        _make_ready(executions, ready)
        if not parent.has_children:
            executions.filter(pk=parent.pk).update(has_children=True)
        return Started(ready, joined.keys())


def _insert(
    executions: Executions, parent: Any, children: Sequence[NewChild], start_once: StartOnce
) -> dict[int, Any]:
    """Insert the executions; returns those that were there already, by place."""
    fields = (*START_FIELDS, *CHILD_FIELDS, *LIMIT_FIELDS)
    joined: dict[int, Any] = {}
    plain: list[list[Any]] = []
    for one in children:
        family = child_values(parent, abandoned=one.abandon)
        if one.is_plain:
            given = {**one.values, **family, "ready": False}
            plain.append([given.get(name) for name in fields])
        else:
            other = start_once(executions, **one.values, **family)
            if other is not None:
                joined[one.place] = other
    for start in range(0, len(plain), CHILDREN_CHUNK):
        rows = plain[start : start + CHILDREN_CHUNK]
        insert_new(executions.model, fields, rows, executions.db, unless=("execution_id",))
    return joined


def _slots(
    executions: Executions,
    parent: Any,
    gather: str,
    children: Sequence[NewChild],
    joined: Mapping[int, Any],
    *,
    room: Room,
) -> tuple[list[WorkflowChildSlot], list[NewChild]]:
    """The slots of *children*, and which of them may run: as many as there is *room* for.

    A child that is joined runs, too, unless it is held; and it is one, however often it is joined.
    """
    above = _above(executions, parent) if joined else set()
    rows: list[WorkflowChildSlot] = []
    ready: list[NewChild] = []
    for one in sorted(children, key=lambda child: child.place):
        other = joined.get(one.place)
        chain = one.execution_id if other is None else chain_of(other)
        is_over = one.values["state"] not in ACTIVE_STATES
        waits = other is None and not is_over and room.is_full
        row = WorkflowChildSlot(
            execution=parent,
            gather=gather,
            place=one.place,
            key=one.key,
            workflow_id=one.values["workflow_id"],
            child=chain,
            is_own=other is None,
            is_held=waits,
        )
        if other is not None:
            _settle_at_once(row, other, is_cycle=chain in above)
            if row.outcome is None and not other.is_held:
                room.running.add(chain)
        elif not waits and not is_over:
            room.running.add(chain)
            ready.append(one)
        rows.append(row)
    return rows, ready


def _above(executions: Executions, parent: Any) -> set[str]:
    """The chains of this execution and of all that wait for it."""
    slots = WorkflowChildSlot.objects.using(executions.db)
    chain = chain_of(parent)
    return {chain} | waiters_of(executions, slots, [chain], MOST_WAITERS)


def _settle_at_once(row: WorkflowChildSlot, other: Any, *, is_cycle: bool) -> None:
    """A joined child that is over already, or that waits for the one that joins it."""
    if is_cycle:
        row.outcome, row.ended_as = CYCLE, other.execution_id
    elif other.state == WorkflowState.COMPLETED:
        row.outcome, row.ended_as = other.state, other.execution_id
        row.result, row.error = other.output_data, other.error or ""


def _make_ready(executions: Executions, children: Sequence[NewChild]) -> None:
    """Rows that nobody else sees yet."""
    for priority in {one.values["priority"] for one in children}:
        keys = [one.execution_id for one in children if one.values["priority"] == priority]
        executions.filter(execution_id__in=keys).update(**released(priority))


def released(priority: int) -> dict[str, Any]:
    """The values that make a child ready; its deadline counts from then."""
    time = models.DateTimeField()
    end = ExpressionWrapper(DatabaseNow() + F("lifetime"), output_field=time)
    has_one = When(lifetime__isnull=False, then=end)
    return {
        **ready_now(due_now(priority)),
        "deadline": Case(has_one, default=None, output_field=time),
    }


def mark_joined(executions: Executions, record: Any, gather: str) -> None:
    """Have the end of joined children leave a `wake_at`: others may have started them.

    Each in a commit of its own, after that of the slots: two executions that join each other would
    otherwise wait for each other's lock. A child that has ended meanwhile is found by the look.
    """
    slots = WorkflowChildSlot.objects.using(executions.db).of(record.pk, gather)
    left = set(slots.open().filter(is_own=False).values_list("child", flat=True))
    while left:
        found = newest_of(executions, left)
        for chain, newest in found.items():
            is_active = not_indexed("state", *ACTIVE_STATES)
            row = executions.filter(is_active, execution_id=newest.execution_id)
            if newest.is_over or row.update(awaited=True):
                left.discard(chain)  # else it has ended, or continued as new, since then


def find_cycles(executions: Executions, record: Any, gather: str) -> list[str]:
    """Chains of open joined children that wait for this execution.

    Looked for after the join is committed: of two executions that join each other, at least one
    sees the other's join.
    """
    slots = WorkflowChildSlot.objects.using(executions.db).of(record.pk, gather)
    joined = set(slots.open().filter(is_own=False).values_list("child", flat=True))
    return sorted(joined & _above(executions, record)) if joined else []


def settle_cycles(executions: Executions, record: Any, gather: str, chains: Sequence[str]) -> None:
    """Give up the joined children that wait for this execution."""
    with transaction.atomic(using=executions.db):
        if not executions.held(record).select_for_update().exists():
            return
        slots = WorkflowChildSlot.objects.using(executions.db).of(record.pk, gather)
        slots.open().naming(chains).filter(is_own=False).update(outcome=CYCLE)
