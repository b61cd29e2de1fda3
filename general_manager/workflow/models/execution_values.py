"""What the transitions of executions write, apart from who asks for them."""

from datetime import timedelta
from hashlib import sha256
from typing import Any

from django.db import models
from django.db.models import Case, F, Q, When
from django.db.models.functions import Coalesce

from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.columns import DatabaseNow, in_
from general_manager.workflow.models.compiled import CompiledUpdate, Slot

OVER: dict[str, Any] = {
    "output_data": None,
    "ended_at": DatabaseNow(),
    "wake_at": None,
    "waiting_for": None,
    "waiting_since": None,
    "claim_token": None,
}
"""What every terminal state has in common."""


def dedup_key(workflow_id: str, correlation_id: str | None) -> str | None:
    """What is unique among active and completed executions; `None` is unlike any other."""
    if not correlation_id:
        return None
    return sha256(f"{workflow_id}\0{correlation_id}".encode()).hexdigest()


def is_overdue() -> Q:
    """A run that took longer than its workflow may; the sweep alone ends it."""
    return Q(state=WorkflowState.RUNNING, deadline__lte=DatabaseNow())


def lease_end(lease: timedelta, limit: str) -> Case:
    """That long from now, and no later than the time in the column *limit*, if there is one."""
    is_sooner = When(**{f"{limit}__lt": in_(lease)}, then=F(limit))
    return Case(is_sooner, default=in_(lease), output_field=models.DateTimeField())


def plus_one_if_running() -> Case:
    died = When(state=WorkflowState.RUNNING, then=F("crashes") + 1)
    return Case(died, default=F("crashes"), output_field=models.PositiveIntegerField())


def _claiming(rows: Any, lease: timedelta) -> tuple[Any, dict[str, Any]]:
    time = models.DateTimeField()
    until = models.ExpressionWrapper(DatabaseNow() + F("timeout"), output_field=time)
    return rows.filter(execution_id=Slot("execution_id")).runnable(), {
        "state": WorkflowState.RUNNING,
        "claim_token": Slot("token"),
        "claimed_by": Slot("by"),
        "wake_at": Case(When(timeout__lt=lease, then=until), default=in_(lease), output_field=time),
        "deadline": Case(When(timeout__isnull=False, then=until), output_field=time),
        "started_at": Coalesce("started_at", DatabaseNow()),
        "runs": F("runs") + 1,
    }


def _completing(rows: Any) -> tuple[Any, dict[str, Any]]:
    done = {"state": WorkflowState.COMPLETED, "error": None, "traceback": ""}
    output = Slot("output", models.JSONField())
    key = Slot("key", models.BigIntegerField())
    held = rows.filter(pk=key, claim_token=Slot("token"), state=WorkflowState.RUNNING)
    held = held.filter(Q(deadline=None) | Q(deadline__gt=DatabaseNow()))  # else it is given up
    return held, {**OVER, **done, "output_data": output}


CLAIM: CompiledUpdate[Any] = CompiledUpdate(
    _claiming,
    fetched=(
        "id", "execution_id", "workflow_id", "handler_path", "input_data", "retry", "timeout",
        "claim_token", "attempts", "crashes", "runs", "strays",
        "interruptions",
    ),
)  # fmt: skip
"""It fetches what a run needs."""
COMPLETE: CompiledUpdate[Any] = CompiledUpdate(_completing)
