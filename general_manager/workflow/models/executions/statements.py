"""The compiled statements of the transitions of executions."""

from datetime import timedelta
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Exists, OuterRef, Q, Subquery

from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.executions.values import (
    ENDED,
    NEEDS_SLOT,
    due_now,
    is_in_time,
    is_runnable,
    ready_now,
    running,
)
from general_manager.workflow.models.pause import is_workflow_paused
from general_manager.workflow.models.sql.columns import DatabaseNow, not_indexed
from general_manager.workflow.models.sql.compiled import CompiledSelect, CompiledUpdate, Slot


def _claiming(rows: Any, lease: timedelta) -> tuple[Any, dict[str, Any]]:
    is_free = ~NEEDS_SLOT & ~Q(is_workflow_paused())
    mine = rows.filter(is_in_time(), is_free, execution_id=Slot("execution_id"))
    return mine.filter(is_runnable()), running(lease)


class Suspension(NamedTuple):
    """What the statement that suspends a run depends on."""

    has_timeout: bool
    answerable: bool
    unless_signalled: bool
    """Not if a look has found signals, which may answer the wait."""


def _suspending(rows: Any, how: Suspension) -> tuple[Any, dict[str, Any]]:
    """Running to waiting, under the claim, together with the insert of the wait."""
    time = models.DateTimeField()
    timeout = Slot("timeout", models.DurationField())
    until = models.ExpressionWrapper(DatabaseNow() + timeout, output_field=time)
    held = held_in_time(rows)
    return held.filter(has_signals=False) if how.unless_signalled else held, {
        "state": WorkflowState.WAITING,
        "claim_token": None,
        "holds_slot": None,
        "wake_at": until if how.has_timeout else None,
        "waiting_for": Slot("name") if how.answerable else None,
        "waiting_since": DatabaseNow(),
    }


def _suspending_unanswered(rows: Any) -> tuple[Any, dict[str, Any]]:
    """Running to waiting, if the wait *name* is neither answered nor due.

    An answer clears ``waiting_for`` under the row's lock, so this statement sees it.
    """
    steps: Any = rows.model._meta.get_field("steps").related_model
    step = steps.objects.filter(execution=OuterRef("pk"), name=Slot("name"), status=StepStatus.OPEN)
    due = step.filter(until__lte=DatabaseNow())
    held = held_in_time(rows).filter(waiting_for=Slot("name")).exclude(Exists(due))
    return held, {
        "state": WorkflowState.WAITING,
        "claim_token": None,
        "holds_slot": None,
        "wake_at": Subquery(step.values("until")),
    }


class WaitEnd(NamedTuple):
    """What the statement depends on that makes an execution go on after its wait."""

    has_metadata: bool
    is_waiting: bool
    priority: int


def _ending_wait(rows: Any, how: WaitEnd) -> tuple[Any, dict[str, Any]]:
    """The open wait got its outcome: waiting becomes ready. Lock the row before."""
    values: dict[str, Any] = {
        "waiting_for": None, "waiting_since": None, "attempts": 0, "crashes": 0,
    }  # fmt: skip
    if how.has_metadata:
        values["metadata"] = Slot("metadata", models.JSONField())
    if how.is_waiting:
        values |= {"state": WorkflowState.PENDING, **ready_now(due_now(how.priority))}
    return rows.filter(pk=Slot("key", models.BigIntegerField())), values


def _ending_delay(rows: Any, priority: int) -> tuple[Any, dict[str, Any]]:
    """A delay or a sleep is over: delayed or waiting becomes ready."""
    is_delayed = Q(not_indexed("state", WorkflowState.PENDING), ready=False)
    is_asleep = Q(not_indexed("state", WorkflowState.WAITING), waiting_for=None)
    row = rows.filter(pk=Slot("key", models.BigIntegerField()))
    values = {"state": WorkflowState.PENDING, **ready_now(due_now(priority))}
    return row.filter(is_delayed | is_asleep), values


def _with_id(rows: Any, lock: str) -> Any:
    found = rows.filter(execution_id=Slot("execution_id"))
    return found.select_for_update() if lock else found


def held_in_time(rows: Any) -> Any:
    """The row of *key*, if the claim *token* holds it in time, and it was not asked to end."""
    return may_end(rows.filter(pk=Slot("key", models.BigIntegerField())))


def may_end(rows: Any) -> Any:
    """Those of *rows* that the claim *token* holds in time, and that were not asked to end."""
    in_time = Q(run_until=None) | Q(run_until__gt=DatabaseNow())
    held = rows.filter(in_time, claim_token=Slot("token"), ending_at=None)
    return held.filter(is_in_time())


def completed(output: Any) -> dict[str, Any]:
    """The values of an execution whose handler returned *output*."""
    done = {"state": WorkflowState.COMPLETED, "error": None, "traceback": ""}
    return {**ENDED, **done, "output_data": output}


def _completing(rows: Any) -> tuple[Any, dict[str, Any]]:
    return held_in_time(rows), completed(Slot("output", models.JSONField()))


FOR_A_RUN = (
    "id", "execution_id", "workflow_id", "handler_path", "input_data", "retry", "timeout",
    "claim_token", "attempts", "crashes", "runs", "missing_handler_runs",
    "interruptions", "queue", "priority", "chain", "has_signals", "ending", "slot_key", "depth",
    "awaited", "has_children",
)  # fmt: skip
"""The columns that a run needs."""
CLAIM: CompiledUpdate[Any] = CompiledUpdate(_claiming, fetched=FOR_A_RUN)
COMPLETE: CompiledUpdate[Any] = CompiledUpdate(_completing, fetched=("id", "awaited"))
SUSPEND: CompiledUpdate[Any] = CompiledUpdate(_suspending)
SUSPEND_UNANSWERED: CompiledUpdate[Any] = CompiledUpdate(_suspending_unanswered)
END_WAIT: CompiledUpdate[Any] = CompiledUpdate(_ending_wait)
END_DELAY: CompiledUpdate[Any] = CompiledUpdate(_ending_delay)
WITH_ID: CompiledSelect[Any] = CompiledSelect(_with_id)
