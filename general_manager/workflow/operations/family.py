"""The children of one execution, for pages and traces: counted, and the first of them."""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from django.db.models import Count, Q

from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import ChildCount
from general_manager.workflow.models import (
    WorkflowChildSlot,
    WorkflowExecutionRecord,
    WorkflowStep,
)
from general_manager.workflow.models.children.states import newest_of

MOST_CHILDREN: Final = 20
"""Children of one gather that are listed; all are counted."""
MOST_GATHERS: Final = 10
"""Gathers of one execution that are listed."""


class ShownChild(NamedTuple):
    """One child of a gather."""

    key: str
    execution_id: str
    state: str
    error: str


class GatherCount(NamedTuple):
    """One gather of an execution: how many children are over, and the first of them."""

    name: str
    total: int
    over: int
    failed: int
    shown: tuple[ShownChild, ...]

    def __str__(self) -> str:
        failed = f", {self.failed} not completed" if self.failed else ""
        return f"{self.name}: {self.over} of {self.total} over{failed}"

    def lines(self) -> list[str]:
        """One for each child that is listed, and one for the rest."""
        found = [f"{one.key}: {one.state} {one.execution_id}" for one in self.shown]
        left = self.total - len(found)
        return [*found, f"and {left} more of {self.name}"] if left else found


def counts_of(using: str, keys: Collection[int]) -> Mapping[int, ChildCount]:
    """For executions that wait for children: how many there are, and how many are over."""
    steps = WorkflowStep.objects.using(using).filter(status=StepStatus.GATHERING)
    names = dict(steps.filter(execution__in=keys).values_list("execution_id", "name"))
    if not names:
        return {}
    slots = WorkflowChildSlot.objects.using(using).filter(execution__in=list(names))
    rows = slots.values("execution_id", "gather").annotate(total=Count("pk"), over=Count("outcome"))
    return {
        one["execution_id"]: ChildCount(one["gather"], one["over"], one["total"])
        for one in rows.order_by()
        if one["gather"] == names[one["execution_id"]]
    }


def children_shown(record: WorkflowExecutionRecord) -> list[GatherCount]:
    """The gathers of an execution, by name; nothing, and no statement, without any."""
    if not record.has_children:
        return []
    slots = WorkflowChildSlot.objects.using(record._state.db or "default")
    mine = slots.filter(execution=record.pk)
    bad = Q(outcome__isnull=False) & ~Q(outcome="completed")
    rows: Any = mine.values("gather").annotate(
        total=Count("pk"), over=Count("outcome"), failed=Count("pk", filter=bad)
    )
    return [
        GatherCount(
            one["gather"], one["total"], one["over"], one["failed"], _shown(mine, one["gather"])
        )
        for one in rows.order_by("gather")[:MOST_GATHERS]
    ]


def _shown(slots: Any, gather: str) -> tuple[ShownChild, ...]:
    mine = slots.filter(gather=gather).defer("result")
    rows = list(mine.order_by("place")[:MOST_CHILDREN])
    executions = WorkflowExecutionRecord.objects.using(slots.db)
    states = newest_of(executions, {one.child for one in rows if one.outcome is None})
    return tuple(
        ShownChild(
            one.key,
            one.ended_as or (states[one.child].execution_id if one.child in states else one.child),
            one.outcome or states[one.child].state,
            one.error,
        )
        for one in rows
    )
