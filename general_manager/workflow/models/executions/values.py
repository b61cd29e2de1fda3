"""The values that the transitions of executions write, and their compiled statements."""

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Case, Exists, F, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Coalesce

from general_manager.workflow.core.limits import Line
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.pause import is_workflow_paused
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now
from general_manager.workflow.models.sql.compiled import CompiledSelect, CompiledUpdate, Slot
from general_manager.workflow.models.timing import LOOK_GRACE

START_FIELDS = (
    "execution_id", "workflow_id", "version", "handler_path", "input_data", "metadata",
    "correlation_id", "dedup_key", "caused_by", "retry", "timeout", "lifetime", "state", "wake_at",
    "deadline", "queue", "priority", "subject", "attributes",
)  # fmt: skip
CHILD_FIELDS = ("parent", "root", "depth", "abandoned", "awaited", "ready")
"""Further columns of an execution that is started as a child. It is not ready: see `children`."""
OPENING_FIELDS = ("execution", "name", "status", "position", "answerable", "until", "signal")
ENDED_FIELDS = ("error", "output_data", "started_at", "ended_at")
"""Further columns of an execution that has ended as soon as it is started."""
LIMIT_FIELDS = (
    "slot_key", "waits_slot", "holds_slot", "rate_per", "rate_until", "limits",
)  # fmt: skip
"""Further columns of an execution of a workflow with a limit or a rate."""
ENDED: dict[str, Any] = {
    "output_data": None,
    "ended_at": DatabaseNow(),
    "wake_at": Case(When(awaited=True, then=from_now(LOOK_GRACE)), default=None),
    "deadline": None,
    "waiting_for": None,
    "waiting_since": None,
    "claim_token": None,
    "parked_at": None,
    "deadline_left": None,
    "waits_slot": None,
    "holds_slot": None,
    # Ended before it started, it does not count for the rate.
    "holds_rate": Case(When(rate_until__isnull=False, then=F("holds_rate"))),
}
"""The values that every terminal state sets. If an execution waits for this one, the end leaves a
`wake_at`, until that one has been notified."""
STOPS_CHILDREN: dict[str, Any] = {
    "wake_at": Case(
        When(Q(awaited=True) | Q(has_children=True), then=from_now(LOOK_GRACE)), default=None
    )
}
"""The `wake_at` that every other terminal state than ``completed`` leaves."""

NEEDS_SLOT = Q(slot_key__isnull=False, holds_slot__isnull=True)
"""An execution that must not run before a look has given it a slot."""


PRIORITY_STEP = timedelta(seconds=60)
"""How much earlier work counts as due for each step of its priority."""


def due_now(priority: int) -> models.Expression:
    """The due time of work that becomes ready now.

    Priority is age, so work with a low priority is never starved.
    """
    return from_now(-PRIORITY_STEP * priority)


def counts_failures(record: Any) -> bool:
    """Whether a step that completes has something to forget."""
    return bool(record.attempts or record.crashes or record.interruptions)


def ready_now(due: Any) -> dict[str, Any]:
    """The values of an execution that becomes ready, at the time *due*; or joins its line."""
    time = models.DateTimeField()
    no_time = Value(None, output_field=time)
    return {
        "ready": True,
        "wake_at": Case(When(NEEDS_SLOT, then=no_time), default=due, output_field=time),
        "waits_slot": Case(When(NEEDS_SLOT, then=F("slot_key"))),
    }


def limit_values(line: Line | None) -> dict[str, Any]:
    """The values that an execution keeps of its limit, from its start."""
    if line is None:
        return {}
    return {"slot_key": line.key, "rate_per": line.numbers.per, "limits": line.to_json()}


def slot_kept() -> dict[str, Any]:
    """The values of a slot whose execution is ended by others than its run.

    The run may go on until it notices that, or its lease ends. Write them before the state:
    MariaDB's later assignments see earlier ones.
    """
    runs = Q(state=WorkflowState.RUNNING, holds_slot__isnull=False)
    return {
        "slot_until": Case(When(runs, then=F("wake_at")), output_field=models.DateTimeField()),
        "holds_slot": Case(When(runs, then=F("holds_slot"))),
    }


class Woken(NamedTuple):
    """Executions whose time had come."""

    ready: int
    """How many of them may run now."""
    overdue: list[str]
    """Ids. Running for too long: to take from the run that hangs."""
    died: list[str]
    """Ids of those that may run now and were running when their worker died."""
    timed_out: list[str]
    """Ids of those that may run now and whose step exceeded its timeout."""
    lines: set[str]
    """Keys of the lines that some of them have joined."""


def dedup_key(workflow_id: str, correlation_id: str | None) -> str | None:
    """The value that is unique among active and completed executions; `None` if any may start."""
    if not correlation_id:
        return None
    return sha256(f"{workflow_id}\0{correlation_id}".encode()).hexdigest()


def is_overdue() -> Q:
    """A run that took longer than its workflow's timeout; only the sweep ends it."""
    return Q(state=WorkflowState.RUNNING, run_until__lte=DatabaseNow())


def is_past_deadline() -> Q:
    """An execution that did not end in time; only the sweep ends it."""
    return Q(deadline__lte=DatabaseNow())


def is_in_time() -> Q:
    return Q(deadline=None) | Q(deadline__gt=DatabaseNow())


def deadline_after(lifetime: timedelta | None, later: datetime | None) -> Any:
    """The value of the column `deadline` for an execution that starts now, or *later*."""
    if lifetime is None:
        return None
    return from_now(lifetime) if later is None else later + lifetime


def is_step_overdue() -> Q:
    """A run whose step exceeds its timeout; the sweep ends it, without counting a crash."""
    return Q(state=WorkflowState.RUNNING, step_deadline__lte=DatabaseNow())


def lease_end(lease: timedelta, *limits: str) -> models.Expression:
    """The end of a new lease, at most the times in the columns *limits*, if there are any."""
    end = from_now(lease)
    for limit in limits:
        is_sooner = When(**{f"{limit}__lt": end}, then=F(limit))
        end = Case(is_sooner, default=end, output_field=models.DateTimeField())
    return end


def plus_one_if_died() -> Case:
    died = When(Q(state=WorkflowState.RUNNING) & ~is_step_overdue(), then=F("crashes") + 1)
    return Case(died, default=F("crashes"), output_field=models.PositiveIntegerField())


def running(lease: timedelta) -> dict[str, Any]:
    """The values that a run's begin sets."""
    time = models.DateTimeField()
    until = models.ExpressionWrapper(DatabaseNow() + F("timeout"), output_field=time)
    return {
        "state": WorkflowState.RUNNING,
        "claim_token": Slot("token"),
        "claimed_by": Slot("by"),
        "wake_at": Case(
            When(timeout__lt=lease, ending_at__isnull=True, then=until),
            default=from_now(lease),
            output_field=time,
        ),
        # Undoing has no time limit.
        "run_until": Case(
            When(timeout__isnull=False, ending_at__isnull=True, then=until), output_field=time
        ),
        "step_deadline": None,
        "rate_until": Case(
            When(
                holds_rate__isnull=False,
                rate_until__isnull=True,
                then=models.ExpressionWrapper(DatabaseNow() + F("rate_per"), output_field=time),
            ),
            default=F("rate_until"),
            output_field=time,
        ),
        "started_at": Coalesce("started_at", DatabaseNow()),
        "runs": F("runs") + 1,
    }


def _claiming(rows: Any, lease: timedelta) -> tuple[Any, dict[str, Any]]:
    is_free = ~NEEDS_SLOT & ~Q(is_workflow_paused())
    mine = rows.filter(is_in_time(), is_free, execution_id=Slot("execution_id"))
    return mine.runnable(), running(lease)


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
    held = _held_in_time(rows)
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
    held = _held_in_time(rows).filter(waiting_for=Slot("name")).exclude(Exists(due))
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


def _with_id(rows: Any, lock: str) -> Any:
    found = rows.filter(execution_id=Slot("execution_id"))
    return found.select_for_update() if lock else found


def _held_in_time(rows: Any) -> Any:
    """The row of *key*, if the claim *token* holds it in time, and it was not asked to end."""
    held = rows.filter(pk=Slot("key", models.BigIntegerField()), claim_token=Slot("token"))
    in_time = Q(run_until=None) | Q(run_until__gt=DatabaseNow())
    return held.filter(in_time, ending_at=None).filter(is_in_time())


def _completing(rows: Any) -> tuple[Any, dict[str, Any]]:
    done = {"state": WorkflowState.COMPLETED, "error": None, "traceback": ""}
    output = Slot("output", models.JSONField())
    return _held_in_time(rows), {**ENDED, **done, "output_data": output}


FOR_A_RUN = (
    "id", "execution_id", "workflow_id", "handler_path", "input_data", "retry", "timeout",
    "claim_token", "attempts", "crashes", "runs", "missing_handler_runs", "interruptions", "queue",
    "priority", "chain", "has_signals", "ending", "slot_key", "depth", "awaited", "has_children",
)  # fmt: skip
"""The columns that a run needs."""
CLAIM: CompiledUpdate[Any] = CompiledUpdate(_claiming, fetched=FOR_A_RUN)
COMPLETE: CompiledUpdate[Any] = CompiledUpdate(_completing, fetched=("id", "awaited"))
SUSPEND: CompiledUpdate[Any] = CompiledUpdate(_suspending)
SUSPEND_UNANSWERED: CompiledUpdate[Any] = CompiledUpdate(_suspending_unanswered)
END_WAIT: CompiledUpdate[Any] = CompiledUpdate(_ending_wait)
WITH_ID: CompiledSelect[Any] = CompiledSelect(_with_id)
