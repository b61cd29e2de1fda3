"""The values that the transitions of executions write, and their compiled statements."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce

from general_manager.workflow.core.limits import Line
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now, not_indexed
from general_manager.workflow.models.sql.compiled import Slot
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

SUSPENDED = (WorkflowState.PENDING, WorkflowState.WAITING)
"""The states in which an execution may be due to run."""

NEEDS_SLOT = Q(slot_key__isnull=False, holds_slot__isnull=True)
"""An execution that must not run before a look has given it a slot."""


PRIORITY_STEP = timedelta(seconds=60)
"""How much earlier work counts as due for each step of its priority."""


@cache
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


def values_at_start(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an execution that is started with *values* has in its columns, without the NULLs."""
    is_over, is_child = values["state"] not in ACTIVE_STATES, values.get("parent") is not None
    fields: tuple[str, ...] = (*START_FIELDS, *(ENDED_FIELDS if is_over else ()))
    due: dict[str, Any] = {"wake_at": due_now(values.get("priority", 0))}
    if (later := values.get("starts_at")) is not None:
        fields, due = (*fields, "ready"), {"wake_at": later, "ready": False}
    if is_child:
        fields, due = (*fields, *CHILD_FIELDS), {"wake_at": None, "ready": False}
    elif not is_over:
        due["deadline"] = deadline_after(values.get("lifetime"), later)
    if not is_over and values.get("slot_key") is not None:
        fields = (*fields, *LIMIT_FIELDS)
        if later is None and values.get("holds_slot") is None and not is_child:
            due |= {"wake_at": None, "waits_slot": values["slot_key"]}
    if is_over:
        due = dict.fromkeys(("started_at", "ended_at"), DatabaseNow())
    given = {"queue": "", "priority": 0, "ready": True, **values, **due}
    return {name: given[name] for name in fields if given.get(name) is not None}


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


def is_runnable() -> Q:
    """`ExecutionQuerySet.runnable`, of executions that are found by their keys."""
    return Q(not_indexed("state", *SUSPENDED), wake_at__lte=DatabaseNow())


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


def after_death() -> dict[str, Any]:
    """What the end of a lease leaves: a crash, or if others shared the worker, a run alone.

    Write it before the state: MariaDB's later assignments see earlier ones.
    """
    died = Q(state=WorkflowState.RUNNING) & ~is_step_overdue()
    crashed, shared = When(died & Q(in_batch=False), then=F("crashes") + 1), died & Q(in_batch=True)
    return {
        "crashes": Case(crashed, default=F("crashes"), output_field=models.PositiveIntegerField()),
        "run_alone": Case(When(shared, then=True), default=F("run_alone")),
    }


def running(lease: timedelta, *, in_batch: bool = False) -> dict[str, Any]:
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
        "in_batch": in_batch,
        "run_alone": False,
    }
