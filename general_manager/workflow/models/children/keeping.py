"""What a fresh execution keeps of the children of the one that it continues."""

from typing import Any

from django.db.models import Q

from general_manager.workflow.durable.continuation import Plan
from general_manager.workflow.models.children.states import CHILDREN_CHUNK
from general_manager.workflow.models.children.table import WorkflowChildSlot


def keep_children(using: str, old: Any, new: Any, plan: Plan) -> bool:
    """Copy slots to the fresh execution; returns whether there are any.

    All of a gather that is kept; of another one those that completed, so that only the others start
    again, unless something before it is to run again. None of a gather that its saga has undone:
    what its children did is not in force.
    """
    slots = WorkflowChildSlot.objects.using(using)
    wanted = Q(gather__in=[one.name for one in plan.kept])
    if plan.keeps_children:
        wanted |= Q(outcome="completed") & ~Q(gather__in=plan.undone)
    rows: list[WorkflowChildSlot] = []
    has_any = False
    for row in slots.filter(wanted, execution=old).order_by("pk").iterator(CHILDREN_CHUNK):
        row.pk, row.execution, row.is_stopped = None, new, False
        rows.append(row)
        has_any = True
        if len(rows) == CHILDREN_CHUNK:
            slots.bulk_create(rows)
            rows.clear()
    slots.bulk_create(rows)
    return has_any
