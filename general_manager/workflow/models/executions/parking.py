"""Parked executions: due, and held back because their workflow is paused.

A parked row has no due time, so no claim, sweep or count of due work meets it. Its deadline stands
still. A claim parks; then, having committed, it looks once more: the pause may have been lifted,
and what was parked released, between its statement and its commit.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import Case, ExpressionWrapper, F, Q, When

from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.executions.looks import settle
from general_manager.workflow.models.executions.values import (
    due_now,
    is_in_time,
    is_runnable,
    ready_now,
)
from general_manager.workflow.models.pause import (
    RELEASE_BATCH,
    Released,
    WorkflowPause,
    is_workflow_paused,
)
from general_manager.workflow.models.sql.columns import DatabaseNow
from general_manager.workflow.pauses import PauseKind


def is_to_park() -> Q:
    """A due execution whose workflow is paused. One that is late for its deadline ends instead."""
    return Q(is_workflow_paused()) & is_in_time()


def park(rows: Any) -> int:
    """Due and unclaimed to parked, where the workflow is paused; nothing is counted.

    *rows* are found by their keys.
    """
    left = ExpressionWrapper(F("deadline") - DatabaseNow(), output_field=models.DurationField())
    parked: int = rows.filter(is_runnable(), is_to_park()).update(
        # First, because in MariaDB later assignments see earlier ones.
        deadline_left=Case(When(deadline__isnull=False, then=left)),
        deadline=None,
        parked_at=DatabaseNow(),
        claim_token=None,
        # A slot is for running code; what waits in line does so again when it is released.
        waits_slot=None,
        holds_slot=None,
        holds_rate=Case(When(rate_until__isnull=False, then=F("holds_rate"))),
        state=WorkflowState.PENDING,
        ready=True,
        wake_at=None,
    )
    return parked


def park_one(executions: Any, execution_id: str, lease: timedelta) -> Any:
    """Park an execution that could not be claimed, if its workflow is paused.

    Returns it claimed, if the pause was lifted meanwhile.
    """
    rows = executions.filter(execution_id=execution_id)
    if not park(rows):
        return None
    released = look_again(executions, list(rows.values_list("pk", flat=True)))
    return executions.claim(execution_id, lease=lease) if released.ids else None


def look_again(executions: Any, keys: Collection[int]) -> Released:
    """After the commit of what parked *keys*: release those whose pause was lifted meanwhile.

    Waits whose time is over time out, whatever is paused.
    """
    if not keys:
        return Released([], set())
    parked = executions.filter(pk__in=keys, parked_at__isnull=False)
    late = parked.filter(
        waiting_for__isnull=False,
        steps__name=F("waiting_for"),
        steps__status=StepStatus.OPEN,
        steps__until__lte=DatabaseNow(),
    )
    for key in list(late.values_list("pk", flat=True)):
        _time_out(executions, key)
    free = list(parked.exclude(is_workflow_paused()).values_list("pk", flat=True))
    return _release(executions, free) if free else Released([], set())


def release(executions: Any, workflow_id: str) -> Released:
    """Release a batch of what is parked of a workflow, unless it is paused again.

    They are due now, not as old as they are: a flood of old work would hold up what is new.
    """
    pauses = WorkflowPause.objects.using(executions.db)
    if pauses.of(PauseKind.WORKFLOW, workflow_id).on().exists():
        return Released([], set())
    parked = executions.filter(workflow_id=workflow_id, parked_at__isnull=False)
    keys = parked.order_by("parked_at").values_list("pk", flat=True)[:RELEASE_BATCH]
    return _release(executions, list(keys))


def _release(executions: Any, keys: Collection[int]) -> Released:
    deadline = ExpressionWrapper(
        DatabaseNow() + F("deadline_left"), output_field=models.DateTimeField()
    )
    with transaction.atomic(using=executions.db):
        rows = executions.filter(pk__in=keys, parked_at__isnull=False)
        found = list(
            rows.select_for_update(skip_locked=True)
            .order_by("pk")
            .values_list("pk", "execution_id", "queue", "priority", "slot_key")
        )
        for priority in {row[3] for row in found}:
            rows.filter(pk__in=[row[0] for row in found if row[3] == priority]).update(
                deadline=Case(When(deadline_left__isnull=False, then=deadline)),
                deadline_left=None,
                parked_at=None,
                **ready_now(due_now(priority)),
            )
    lines = frozenset(row[4] for row in found if row[4] is not None)
    return Released([row[1] for row in found], {row[2] for row in found}, lines)


def _time_out(executions: Any, key: int) -> None:
    """Write the outcome of the open wait of a parked execution whose time is over."""
    with transaction.atomic(using=executions.db):
        record = executions.select_for_update().filter(pk=key, parked_at__isnull=False).first()
        if record is None or record.waiting_for is None or settle(executions, record):
            return
        steps = record.steps.using(executions.db)
        timing_out = steps.timing_out_now(record, record.waiting_for)
        executions.wait_ended(record, HistoryKind.WAIT_TIMED_OUT, timing_out)
