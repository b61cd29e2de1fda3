"""Executions whose time has come: the sweep makes them ready."""

from typing import Any

from django.db import models
from django.db.models import Case, F, Value, When

from general_manager.workflow.core.encoding import error_text
from general_manager.workflow.durable.errors import StepTimeout
from general_manager.workflow.durable.failures import failure_of
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.executions.values import (
    Woken,
    after_death,
    is_overdue,
    is_step_overdue,
    ready_now,
)
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now, not_indexed
from general_manager.workflow.models.sql.commits import bookkeeping
from general_manager.workflow.models.timing import END_GRACE


def wake_due(executions: Any, limit: int) -> Woken:
    """Make up to *limit* executions pending whose wait is over or whose run has ended silently.

    The worker of a running one has died, which is counted in ``crashes`` until a step completes;
    unless it was one of a batch, which then run alone, or its step has exceeded its timeout, which
    counts as an attempt of the step. A run that is
    overdue as a whole does not change here: see `seize_overdue`.
    """
    states = (WorkflowState.RUNNING, WorkflowState.WAITING)
    with bookkeeping(executions.db) as update:
        due = executions.filter(state__in=states, wake_at__lte=DatabaseNow())
        rows = list(
            due.select_for_update(skip_locked=True)
            .annotate(
                is_overdue=Case(When(is_overdue(), then=True), default=False),
                is_step_overdue=Case(When(is_step_overdue(), then=True), default=False),
            )
            .values_list(
                "pk", "execution_id", "state", "is_overdue", "is_step_overdue", "slot_key"
            )[:limit]
        )
        woken = [row for row in rows if not row[3]]
        overdue = [row for row in rows if row[3]]
        timed_out = [row for row in woken if row[4]]
        if timed_out:
            _time_out_attempts(executions, [row[0] for row in timed_out])
        # The condition is repeated: not every database locks the rows it selects.
        still_due = executions.filter(not_indexed("state", *states), wake_at__lte=DatabaseNow())
        if woken:  # due since then, and so before what has just come
            update(
                still_due.filter(pk__in=[row[0] for row in woken]),
                **after_death(),
                state=WorkflowState.PENDING,
                claim_token=None,
                **ready_now(F("wake_at")),
            )
        if overdue:  # this sweep may die before it ends them: another one finds them then
            late = still_due.filter(pk__in=[row[0] for row in overdue])
            update(late, wake_at=from_now(END_GRACE))
        died = [row for row in woken if row[2] == WorkflowState.RUNNING and not row[4]]
        if died:
            executions.note(HistoryKind.RECOVERED, [row[0] for row in died])
        return Woken(
            len(woken),
            [row[1] for row in overdue],
            [row[1] for row in died],
            [row[1] for row in timed_out],
            {row[5] for row in woken if row[5] and row[2] == WorkflowState.WAITING},
        )


def _time_out_attempts(executions: Any, keys: list[int]) -> None:
    """Running attempts to failed ones; what follows is decided by the next run, with the code."""
    steps: Any = executions.model._meta.get_field("steps").related_model
    running = steps.objects.using(executions.db).filter(
        execution__in=keys, status=StepStatus.RUNNING
    )
    for pk, key, name, attempts in running.values_list("pk", "execution_id", "name", "attempts"):
        error = StepTimeout(name)
        running.filter(pk=pk).update(
            status=StepStatus.RETRYING,
            attempts=F("attempts") + 1,
            failure=Value(failure_of(error, is_final=True).to_json(), models.JSONField()),
            until=None,
        )
        WorkflowHistory.objects.using(executions.db).note(
            HistoryKind.ATTEMPT_FAILED,
            execution_id=key,
            detail=error_text(error),
            step=name,
            number=attempts + 1,
        )
