"""How many children are over of those that an execution waits for."""

from dataclasses import replace

from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import ChildCount, WorkflowExecution, WorkflowState
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.children.table import WorkflowChildSlot
from general_manager.workflow.models.execution import Executions


def with_children(executions: Executions, record: WorkflowExecutionRecord) -> WorkflowExecution:
    """The snapshot of *record*, with the count of the children that it waits for."""
    found = record.snapshot()
    count = children_of(executions, record)
    return found if count is None else replace(found, children=count)


def children_of(executions: Executions, record: WorkflowExecutionRecord) -> ChildCount | None:
    """`None` unless it waits for children; no statement if it cannot."""
    is_waiting = record.state == WorkflowState.WAITING and record.waiting_for is None
    if not is_waiting or not record.has_children:
        return None
    steps = WorkflowStep.objects.using(executions.db)
    waits = steps.filter(execution=record, status=StepStatus.GATHERING)
    name = waits.values_list("name", flat=True).first()
    if name is None:
        return None
    slots = WorkflowChildSlot.objects.using(executions.db).of(record.pk, name)
    return ChildCount(name, slots.exclude(outcome=None).count(), slots.count())
