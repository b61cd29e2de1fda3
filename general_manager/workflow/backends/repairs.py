"""What an operator may do to stored executions besides the four verbs of every engine."""

from django.db import transaction

from general_manager.workflow.checkpoints import (
    NotContinuableError,
    Resolutions,
    kept_steps,
    verdict_on,
)
from general_manager.workflow.engine import HistoryKind, WorkflowState
from general_manager.workflow.exceptions import WorkflowInvalidStateError
from general_manager.workflow.ids import new_id
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowStep,
)
from general_manager.workflow.models.execution import ExecutionQuerySet
from general_manager.workflow.models.execution_values import dedup_key
from general_manager.workflow.rules import refusal

FAILED_ONLY = (WorkflowState.FAILED,)
CARRIED = ("workflow_id", "version", "handler_path", "input_data", "retry", "timeout")
"""What a fresh execution takes over from the failed one that it continues."""


def continue_failed(
    executions: ExecutionQuerySet, execution_id: str, resolved: Resolutions
) -> WorkflowExecutionRecord:
    """A fresh execution with the finished steps of a failed one; which stays failed.

    *resolved* maps the names of steps in doubt to ``(happened, result)``. Raises
    `WorkflowInvalidStateError` if the execution is not failed, was continued before, has another
    step in doubt, or if its correlation id is taken.
    """
    with transaction.atomic(using=executions.db):
        old = executions.select_for_update().by_id(execution_id)
        _require_continuable(old)
        rows = WorkflowStep.objects.using(executions.db)
        kept = _kept_rows(old, list(rows.filter(execution=old).order_by("pk")), resolved)
        key = new_id()
        known = executions.start_once(
            **{name: getattr(old, name) for name in CARRIED},
            execution_id=key,
            metadata={**old.metadata, "continues": old.execution_id},
            correlation_id=old.correlation_id,
            dedup_key=dedup_key(old.workflow_id, old.correlation_id),
            caused_by=old.caused_by,
            state=WorkflowState.PENDING,
        )
        if known is not None:
            raise _refusal(
                old, f"Its correlation id is taken by execution {known.execution_id}, which is "
                f"{known.state}.",
            )  # fmt: skip
        new = executions.by_id(key)
        # Not its first run: there are steps to read.
        executions.filter(pk=new.pk).update(runs=old.runs)
        for row in kept:
            row.pk, row.execution = None, new
        rows.bulk_create(kept)
        history = WorkflowHistory.objects.using(executions.db)
        history.note(HistoryKind.CONTINUED, execution=old, detail=new.execution_id)
        history.note(HistoryKind.CONTINUES, execution=new, detail=old.execution_id)
        for name in resolved:
            history.note(HistoryKind.RESOLVED, execution=new, detail=verdict_on(name, resolved))
        return new


def _require_continuable(old: WorkflowExecutionRecord) -> None:
    if old.state != WorkflowState.FAILED:
        raise _refusal(old, "")
    if old.handler_path is None:
        raise _refusal(old, "It never ran, because its handler cannot be imported.")
    successor = old.history.using(old._state.db).filter(kind=HistoryKind.CONTINUED).first()
    if successor is not None:
        raise _refusal(old, f"It was continued as execution {successor.detail}.")


def _kept_rows(
    old: WorkflowExecutionRecord, rows: list[WorkflowStep], resolved: Resolutions
) -> list[WorkflowStep]:
    by_name = {row.name: row for row in rows}
    try:
        kept = kept_steps((row.as_record() for row in rows), resolved)
    except NotContinuableError as error:
        raise _refusal(old, str(error)) from None
    for step in kept:
        by_name[step.name].status, by_name[step.name].result = step.status, step.result
    return [by_name[step.name] for step in kept]


def _refusal(old: WorkflowExecutionRecord, detail: str) -> WorkflowInvalidStateError:
    return refusal(old.execution_id, "continue", old.state, FAILED_ONLY, detail)


def wake_early(executions: ExecutionQuerySet, execution_id: str) -> WorkflowExecutionRecord:
    """End the rest or the sleep of an execution now.

    Raises `WorkflowInvalidStateError` for one that does neither, or that waits for an answer.
    """
    with transaction.atomic(using=executions.db):
        record = executions.select_for_update().by_id(execution_id)
        detail = ""
        if record.waiting_for is not None and record.state == WorkflowState.WAITING:
            detail = f"It waits for {record.waiting_for!r}: answer that instead."
        elif not executions.wake_now(record):
            detail = "It neither rests nor sleeps."
        if detail:
            resting = (WorkflowState.PENDING, WorkflowState.WAITING)
            raise refusal(execution_id, "wake", record.state, resting, detail)
        return record
