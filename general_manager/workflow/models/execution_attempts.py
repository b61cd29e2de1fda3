"""Attempts of steps that have a budget of their own: what they change on their execution."""

from datetime import timedelta
from typing import Any

from django.db import transaction

from general_manager.workflow.durable.records import FailedAttempt, StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.execution import Executions, WorkflowExecutionRecord
from general_manager.workflow.models.executions.values import lease_end
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now
from general_manager.workflow.models.step import WorkflowStep


def begin_attempt(
    executions: Executions,
    record: WorkflowExecutionRecord,
    name: str,
    timeout: timedelta,
    *,
    position: int,
    lease: timedelta,
) -> bool:
    """Record that an attempt of step *name* runs.

    Returns whether the run still holds the execution, and it was not asked to end. The sweep looks
    at the execution when *timeout* is over, if not earlier.
    """
    with transaction.atomic(using=executions.db):
        held = executions.held(record).filter(ending_at=None)
        if not held.update(step_deadline=from_now(timeout)):
            return False
        wake_at = lease_end(lease, "run_until", "step_deadline")
        executions.held(record).update(wake_at=wake_at)
        WorkflowStep.objects.using(executions.db).put(
            record,
            name,
            status=StepStatus.RUNNING,
            position=position,
            until=from_now(timeout),
        )
        return True


def attempt_ended(
    executions: Executions, record: WorkflowExecutionRecord, lease: timedelta, *, in_time: bool
) -> bool:
    """The attempt that had a time limit has ended: only the lease counts again.

    Returns whether the run still holds the execution, and, if it has to be, is *in_time*. The row
    of the execution is locked before that of the step, as the sweep does it.
    """
    held = executions.held(record)
    rows = held.exclude(step_deadline__lte=DatabaseNow()) if in_time else held
    return rows.update(step_deadline=None, wake_at=lease_end(lease, "run_until")) == 1


def postpone_step(
    executions: Executions,
    record: WorkflowExecutionRecord,
    attempt: FailedAttempt,
    delay: timedelta,
    *,
    position: int,
    saga: str | None,
) -> bool:
    """Running to pending, until the step's next attempt; returns whether it won.

    Not counted as an attempt of the execution.
    """
    with transaction.atomic(using=executions.db):
        if not executions.held(record).select_for_update().exists():
            return False
        WorkflowStep.objects.using(executions.db).put(
            record,
            attempt.name,
            status=StepStatus.RETRYING,
            position=position,
            attempts=attempt.number,
            failure=attempt.failure,
            saga=saga,
            until=from_now(delay),
        )
        # Written last, so that the attempt is due when the execution is.
        _give_up(executions, record, from_now(delay))
        if attempt.is_new:
            kind, why = HistoryKind.ATTEMPT_FAILED, str(attempt.failure["text"])
            executions.note(kind, [record.pk], why, step=attempt.name, number=attempt.number)
        return True


def is_attempt_due(executions: Executions, record: WorkflowExecutionRecord, name: str) -> bool:
    """Whether the delay before the step's next attempt is over; else gives the execution up."""
    steps = WorkflowStep.objects.using(executions.db).filter(execution=record, name=name)
    until = steps.filter(until__gt=DatabaseNow()).values_list("until", flat=True).first()
    if until is None:
        return True
    _give_up(executions, record, until)
    return False


def _give_up(executions: Executions, record: WorkflowExecutionRecord, until: Any) -> None:
    executions.held(record).update(
        state=WorkflowState.PENDING,
        ready=False,
        wake_at=until,
        claim_token=None,
        holds_slot=None,
        step_deadline=None,
    )
