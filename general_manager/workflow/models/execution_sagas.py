"""The rows of sagas: opened, closed, undone."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.execution import Executions, WorkflowExecutionRecord
from general_manager.workflow.models.sql.columns import DatabaseNow
from general_manager.workflow.models.step import WorkflowStep


def close_saga(
    executions: Executions, record: WorkflowExecutionRecord, name: str, position: int
) -> bool:
    """The block was left; false if the run lost the execution, or it was asked to end."""
    with transaction.atomic(using=executions.db):
        held = executions.held(record).filter(ending_at=None)
        if not held.select_for_update().exists():
            return False
        _saga(executions, record, name).update(
            status=StepStatus.DONE, position=position, finished_at=DatabaseNow()
        )
        return True


def begin_undoing(
    executions: Executions,
    record: WorkflowExecutionRecord,
    name: str,
    *,
    position: int,
    failure: Mapping[str, Any],
    undos: Sequence[str],
) -> bool:
    """Open to undoing, for good; the wait that was opened in its block is closed."""
    with transaction.atomic(using=executions.db):
        if not executions.held(record).select_for_update().exists():
            return False
        row = _saga(executions, record, name)
        opened = (row.values_list("result", flat=True).first() or {}).get("opened", 0)
        row.update(
            status=StepStatus.UNDOING,
            position=position,
            failure=failure,
            result={"opened": opened, "undos": list(undos)},
        )
        waits = WorkflowStep.objects.using(executions.db).filter(
            execution=record, status=StepStatus.OPEN, position__gt=opened
        )
        if waits.update(status=StepStatus.CLOSED, finished_at=DatabaseNow()):
            executions.filter(pk=record.pk).update(waiting_for=None, waiting_since=None)
        kind, why = HistoryKind.UNDOING, str(failure["text"])
        executions.note(kind, [record.pk], why, step=name)
        return True


def end_undoing(
    executions: Executions,
    record: WorkflowExecutionRecord,
    name: str,
    *,
    position: int,
    left: Sequence[str],
) -> bool:
    """Undoing to undone, or to incomplete if undos are *left*."""
    with transaction.atomic(using=executions.db):
        if not executions.held(record).select_for_update().exists():
            return False
        row = _saga(executions, record, name)
        about = row.values_list("result", flat=True).first() or {}
        row.update(
            status=StepStatus.INCOMPLETE if left else StepStatus.UNDONE,
            position=position,
            finished_at=DatabaseNow(),
            result={**about, "left": list(left)},
        )
        return True


def _saga(executions: Executions, record: WorkflowExecutionRecord, name: str) -> Any:
    return WorkflowStep.objects.using(executions.db).filter(execution=record, name=name, saga=name)
