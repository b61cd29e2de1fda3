"""Executions as durable records, and the only code that changes their state.

``wake_at`` does all timing: when a lost message counts as lost, a retry is due, a lease ends or a
wait times out. It is NULL when nothing is to happen by itself.
"""

from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

from django.db import models, transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce

from general_manager.workflow.engine import (
    ACTIVE_STATES,
    WorkflowExecution,
    WorkflowExecutionNotFoundError,
    WorkflowState,
)
from general_manager.workflow.models.columns import DatabaseNow, IdField, OwedIndex, in_
from general_manager.workflow.models.compiled import CompiledUpdate, Slot, can_fetch
from general_manager.workflow.models.inserts import insert_new
from general_manager.workflow.models.timing import MESSAGE_GRACE, RESEND_GRACE, Stop

START_FIELDS = (
    "execution_id", "workflow_id", "version", "handler_path", "input_data", "metadata",
    "correlation_id", "dedup_key", "retry", "state", "error", "output_data", "started_at",
    "ended_at", "wake_at",
)  # fmt: skip
MAX_PATH_LENGTH = 500
_MESSAGE_LOST = in_(MESSAGE_GRACE)


def dedup_key(workflow_id: str, correlation_id: str | None) -> str | None:
    """What is unique among active and completed executions; `None` is unlike any other."""
    if not correlation_id:
        return None
    return sha256(f"{workflow_id}\\0{correlation_id}".encode()).hexdigest()


class ExecutionQuerySet(models.QuerySet["WorkflowExecutionRecord"]):
    def start_once(self, **values: Any) -> tuple["WorkflowExecutionRecord", bool]:
        """A new execution, or the active or completed one with its dedup key; and which.

        One statement for a new one. Holds under concurrent starts on every database.
        """
        while True:
            is_over = values["state"] not in ACTIVE_STATES
            wake_at = None if is_over else _MESSAGE_LOST
            row = [values.get(name) for name in START_FIELDS[:-1]] + [wake_at]
            new = insert_new(self.model, START_FIELDS, [row], self.db)
            if new:
                record = self.model(pk=new[0][0], **values)
                record._state.adding = False
                record._state.db = self.db
                return record, True
            known = self.filter(dedup_key=values["dedup_key"]).first()
            if known is not None:
                return known, False
            # It failed or was cancelled between the two statements: its key is free again.

    def by_id(self, execution_id: str) -> "WorkflowExecutionRecord":
        try:
            return self.get(execution_id=execution_id)
        except (self.model.DoesNotExist, ValueError, TypeError):
            raise WorkflowExecutionNotFoundError(execution_id) from None

    def runnable(self) -> "ExecutionQuerySet":
        """Ready, or due: a retry, the end of a sleep or wait, a run whose worker died."""
        is_ready = Q(state=WorkflowState.PENDING, ready=True)
        is_due = Q(state__in=ACTIVE_STATES, wake_at__lte=DatabaseNow())
        return self.filter(is_ready | is_due)

    def claim(self, execution_id: str, *, lease: timedelta) -> "WorkflowExecutionRecord | None":
        """Take the execution for a run, or nothing if it is not runnable or another has it.

        A run whose worker died is counted in ``crashes``, until a step completes.
        """
        slots = {"execution_id": execution_id, "token": uuid4().hex}
        if can_fetch(self.db):
            return _CLAIM.run_and_fetch(self.db, lease, **slots)
        count = _CLAIM.run(self.db, lease, **slots)
        # `first`: it may be cancelled between the two statements.
        mine = self.filter(execution_id=execution_id, claim_token=slots["token"])
        return mine.first() if count else None

    def held(self, token: str | Slot) -> "ExecutionQuerySet":
        return self.filter(claim_token=token, state=WorkflowState.RUNNING)

    def renew(self, token: str, *, lease: timedelta) -> int:
        """Push the end of the lease on; passes over a row that somebody has locked just now."""
        with transaction.atomic(using=self.db):
            rows = self.held(token).select_for_update(skip_locked=True)
            keys = list(rows.values_list("pk", flat=True))
            return self.held(token).filter(pk__in=keys).update(wake_at=in_(lease))

    def postpone(self, token: str, delay: timedelta) -> bool:
        """Running to pending, due after *delay*: the next attempt."""
        return self._rest(token, delay, "attempts")

    def put_back(self, token: str, delay: timedelta) -> bool:
        """Running to pending, no attempt: this process cannot run it, another can."""
        return self._rest(token, delay, "strays")

    def _rest(self, token: str, delay: timedelta, counter: str) -> bool:
        values = {counter: F(counter) + 1, "wake_at": in_(delay)}
        held = self.held(token)
        return (
            held.update(state=WorkflowState.PENDING, ready=False, claim_token=None, **values) == 1
        )

    def found_handler(self, record: "WorkflowExecutionRecord") -> None:
        """This process has the handler: what others lacked no longer counts."""
        if record.strays:
            self.filter(pk=record.pk).update(strays=0)
            record.strays = 0

    def end(
        self,
        state: WorkflowState,
        *,
        output_data: Mapping[str, Any] | None = None,
        error: str | None = None,
        traceback: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Active to the terminal *state*, from which nothing leads away; says whether it won.

        What did not complete gives its correlation id free.
        """
        values: dict[str, Any] = {"error": error, "traceback": traceback}
        if state is not WorkflowState.COMPLETED:
            values["dedup_key"] = None
        if metadata is not None:
            values["metadata"] = metadata
        if output_data is not None:
            values["output_data"] = Value(output_data, models.JSONField())
        active = self.filter(state__in=ACTIVE_STATES)
        return active.update(**{**_OVER, "state": state, **values}) == 1

    def complete(self, token: str, output_data: Mapping[str, Any]) -> bool:
        """Running, under the claim, to completed; says whether it won."""
        return _COMPLETE.run(self.db, token=token, output=output_data) == 1

    def attempts_of(self, record: "WorkflowExecutionRecord") -> int:
        """Failed attempts since the last step that completed."""
        return self.values_list("attempts", flat=True).get(pk=record.pk)

    def progressed(self, record: "WorkflowExecutionRecord") -> None:
        """A step completed: what failed or crashed before it is forgiven."""
        if record.attempts or record.crashes:
            self.filter(pk=record.pk).update(attempts=0, crashes=0)
            record.attempts = record.crashes = 0

    def answered(self, record: "WorkflowExecutionRecord", metadata: Mapping[str, Any]) -> None:
        """The open wait has its answer: waiting becomes ready. A run under way finds it itself."""
        row = self.filter(pk=record.pk)
        row.update(metadata=metadata, waiting_for=None, attempts=0, crashes=0)
        row.filter(state=WorkflowState.WAITING).update(
            state=WorkflowState.PENDING, ready=True, wake_at=in_(MESSAGE_GRACE)
        )

    def suspend(self, record: "WorkflowExecutionRecord", stop: Stop) -> bool:
        """Running to waiting; straight back to ready if the answer came meanwhile."""
        with transaction.atomic(using=self.db):
            held = self.held(record.claim_token or "").select_for_update()
            if not held.exists():
                return False
            steps = record.steps.using(self.db)
            is_open = steps.filter(name=stop.name, status="open").exists()
            asks = stop.name if stop.answerable else None
            values: dict[str, Any] = (
                {"state": WorkflowState.WAITING, "wake_at": stop.until, "waiting_for": asks}
                if is_open
                else {"state": WorkflowState.PENDING, "ready": True, "wake_at": DatabaseNow()}
            )
            return self.held(record.claim_token or "").update(claim_token=None, **values) == 1

    def wake_due(self, limit: int) -> list[str]:
        """Make up to *limit* executions ready whose time has come; returns their ids.

        What was running has lost its worker, which is counted.
        """
        with transaction.atomic(using=self.db):
            due = self.filter(wake_at__lte=DatabaseNow(), state__in=ACTIVE_STATES)
            ids = list(
                due.select_for_update(skip_locked=True)
                .order_by("wake_at")
                .values_list("execution_id", flat=True)[:limit]
            )
            if ids:
                due.filter(execution_id__in=ids).update(
                    crashes=_plus_one_if_running(),
                    state=WorkflowState.PENDING,
                    ready=True,
                    claim_token=None,
                    wake_at=in_(RESEND_GRACE),
                )
            return ids


def _plus_one_if_running() -> Case:
    died = When(state=WorkflowState.RUNNING, then=F("crashes") + 1)
    return Case(died, default=F("crashes"), output_field=models.PositiveIntegerField())


_OVER: dict[str, Any] = {
    "output_data": None,
    "ended_at": DatabaseNow(),
    "wake_at": None,
    "waiting_for": None,
    "claim_token": None,
}
"""What every terminal state has in common."""


def _claiming(using: str, lease: timedelta) -> tuple[ExecutionQuerySet, dict[str, Any]]:
    rows = WorkflowExecutionRecord.objects.using(using)
    return rows.filter(execution_id=Slot("execution_id")).runnable(), {
        "crashes": _plus_one_if_running(),
        "state": WorkflowState.RUNNING,
        "claim_token": Slot("token"),
        "wake_at": in_(lease),
        "started_at": Coalesce("started_at", DatabaseNow()),
        "runs": F("runs") + 1,
    }


def _completing(using: str) -> tuple[ExecutionQuerySet, dict[str, Any]]:
    held = WorkflowExecutionRecord.objects.using(using).held(Slot("token"))
    done = {"state": WorkflowState.COMPLETED, "error": None, "traceback": ""}
    return held, {**_OVER, **done, "output_data": Slot("output", models.JSONField())}


_CLAIM = CompiledUpdate(_claiming)
_COMPLETE = CompiledUpdate(_completing)


class WorkflowExecutionRecord(models.Model):
    """One execution of a workflow."""

    execution_id = IdField(max_length=36, unique=True)
    workflow_id = IdField()
    version = IdField(default="1")
    state = models.CharField(
        max_length=10,
        choices=[(state.value, state.value) for state in WorkflowState],
        default=WorkflowState.PENDING,
    )
    handler_path = models.CharField(max_length=MAX_PATH_LENGTH, null=True)
    input_data = models.JSONField(default=dict)
    output_data = models.JSONField(null=True)
    metadata = models.JSONField(default=dict)
    correlation_id = IdField(null=True)
    dedup_key = models.CharField(max_length=64, null=True, unique=True)
    retry = models.JSONField(null=True)
    wake_at = models.DateTimeField(null=True)
    ready = models.BooleanField(db_default=True)
    claim_token = models.CharField(max_length=32, null=True)
    waiting_for = IdField(null=True)
    attempts = models.PositiveIntegerField(db_default=0)
    crashes = models.PositiveIntegerField(db_default=0)
    runs = models.PositiveIntegerField(db_default=0)
    strays = models.PositiveIntegerField(db_default=0)
    error = models.TextField(null=True)
    traceback = models.TextField(db_default="")
    created_at = models.DateTimeField(db_default=DatabaseNow())
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    objects = ExecutionQuerySet.as_manager()

    class Meta:
        verbose_name = "execution"
        indexes = (
            OwedIndex(
                fields=["wake_at"], condition=Q(wake_at__isnull=False), name="gm_execution_owed"
            ),
        )

    def __str__(self) -> str:
        return f"{self.workflow_id} {self.execution_id}"

    def snapshot(self) -> WorkflowExecution:
        return WorkflowExecution(
            execution_id=self.execution_id,
            workflow_id=self.workflow_id,
            state=WorkflowState(self.state),
            input_data=self.input_data,
            output_data=self.output_data,
            correlation_id=self.correlation_id,
            started_at=self.started_at,
            ended_at=self.ended_at,
            error=self.error,
            metadata=self.metadata,
        )
