"""Executions as durable records, and the only code that changes their state.

``wake_at`` does all timing: when a lost message counts as lost, a retry is due, a lease ends or a
wait times out. It is NULL when nothing is to happen by itself.
"""

from collections.abc import Mapping
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import uuid4

from django.db import connections, models, transaction
from django.db.models import F, Q, Value
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.actors import MAX_ACTOR_LENGTH, whereabouts
from general_manager.workflow.connections import persist
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    HistoryKind,
    WorkflowExecution,
    WorkflowExecutionNotFoundError,
    WorkflowState,
    waiting_values,
)
from general_manager.workflow.models.columns import (
    DatabaseNow,
    IdField,
    OwedIndex,
    Utf8CharField,
    Utf8TextField,
    in_,
)
from general_manager.workflow.models.compiled import can_fetch
from general_manager.workflow.models.execution_values import CLAIM, COMPLETE, OVER, is_overdue
from general_manager.workflow.models.inserts import insert_new
from general_manager.workflow.models.pruning import PruningExecutions
from general_manager.workflow.models.texts import write_texts
from general_manager.workflow.models.timing import MESSAGE_GRACE, Stop
from general_manager.workflow.rules import EXECUTION_ID_LENGTH, require_execution_id
from general_manager.workflow.steps import StepStatus

START_FIELDS = (
    "execution_id", "workflow_id", "version", "handler_path", "input_data", "metadata",
    "correlation_id", "dedup_key", "caused_by", "retry", "timeout", "state", "wake_at",
)  # fmt: skip
OVER_FIELDS = ("error", "output_data", "started_at", "ended_at")
"""What an execution has besides that is over as soon as it is started."""
MAX_PATH_LENGTH = 500
_MESSAGE_LOST = in_(MESSAGE_GRACE)


class ExecutionQuerySet(PruningExecutions["WorkflowExecutionRecord"]):
    def start_once(self, **values: Any) -> "WorkflowExecutionRecord | None":
        """Make a new execution, unless there is an active or completed one with its dedup key.

        Returns that one, and `None` if the new one was made. One statement for a new one. Holds
        under concurrent starts on every database.
        """
        rows: ExecutionQuerySet | None = None
        is_over = values["state"] not in ACTIVE_STATES
        fields = (*START_FIELDS, *OVER_FIELDS) if is_over else START_FIELDS
        now = dict.fromkeys(("started_at", "ended_at"), DatabaseNow())
        given = {**values, **(now if is_over else {"wake_at": _MESSAGE_LOST})}
        row = [given.get(name) for name in fields]
        while not insert_new(self.model, fields, [row], self.db, unless=("dedup_key",)):
            if rows is None:
                rows = self.filter(dedup_key=values["dedup_key"])
            elif connections[self.db].in_atomic_block:
                rows = rows.select_for_update()
            known = rows.first()
            if known is not None:
                return known
            # It failed or was cancelled meanwhile: its key is free. Or it was started after this
            # transaction began to see: a locking read sees it on MariaDB.
        return None

    def by_id(self, execution_id: str) -> "WorkflowExecutionRecord":
        try:
            return self.get(execution_id=require_execution_id(execution_id))
        except self.model.DoesNotExist:
            raise WorkflowExecutionNotFoundError(execution_id) from None

    def runnable(self) -> "ExecutionQuerySet":
        """Ready, or due: a retry, the end of a sleep or wait. What died is the sweep's to find."""
        is_ready = Q(state=WorkflowState.PENDING, ready=True)
        resting = (WorkflowState.PENDING, WorkflowState.WAITING)
        return self.filter(is_ready | Q(state__in=resting, wake_at__lte=DatabaseNow()))

    def claim(self, execution_id: str, *, lease: timedelta) -> "WorkflowExecutionRecord | None":
        """Take the execution for a run, or nothing if it is not runnable or another has it."""
        slots = {"execution_id": execution_id, "token": uuid4().hex, "by": whereabouts()}
        # `first`: it may be cancelled between the two statements.
        mine = self.filter(execution_id=execution_id, claim_token=slots["token"])
        tries = count()

        def take() -> "WorkflowExecutionRecord | None":
            if next(tries) and (found := mine.first()) is not None:
                return found  # claimed, and the answer was lost
            if can_fetch(self.db):
                return CLAIM.take(self, lease, **slots)
            return mine.first() if CLAIM.run(self, lease, **slots) else None

        return persist(self.db, take, patience=0)

    def postpone(
        self,
        record: "WorkflowExecutionRecord",
        delay: timedelta,
        why: str,
        *,
        step: str = "",
        number: int | None = None,
    ) -> bool:
        """Running to pending, due after *delay*: attempt *number* failed, in *step*."""
        kind = HistoryKind.ATTEMPT_FAILED
        return self._rest(record, delay, "attempts", kind, why, step=step, number=number)

    def put_back(self, record: "WorkflowExecutionRecord", delay: timedelta, why: str) -> bool:
        """Running to pending, no attempt: this process cannot run it, another can."""
        return self._rest(record, delay, "strays", HistoryKind.STRAYED, why)

    def leave_interrupted(
        self,
        record: "WorkflowExecutionRecord",
        delay: timedelta,
        why: str,
        uncalled: str | None = None,
    ) -> bool:
        """Running to pending, no attempt: the database undid or refused what the run wrote.

        The step *uncalled*, recorded as begun, was not: it may begin again.
        """
        with transaction.atomic(using=self.db):
            if not self._rest(record, delay, "interruptions", HistoryKind.INTERRUPTED, why):
                return False
            if uncalled is not None:
                steps = record.steps.using(self.db)
                steps.filter(name=uncalled, status=StepStatus.BEGUN).delete()
            return True

    def _rest(
        self,
        record: "WorkflowExecutionRecord",
        delay: timedelta,
        counter: str,
        kind: HistoryKind,
        why: str,
        **values_of_entry: Any,
    ) -> bool:
        values = {counter: F(counter) + 1, "wake_at": in_(delay), "claim_token": None}
        with transaction.atomic(using=self.db):
            if not self.held(record).update(state=WorkflowState.PENDING, ready=False, **values):
                return False
            self.note(kind, [record.pk], why, **values_of_entry)
            return True

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
        values: dict[str, Any] = {}
        if state is not WorkflowState.COMPLETED:
            values["dedup_key"] = None
        if metadata is not None:
            values["metadata"] = metadata
        if output_data is not None:
            values["output_data"] = Value(output_data, models.JSONField())
        active = self.filter(state__in=ACTIVE_STATES)

        def write(text: str, trace: str) -> int:
            texts = {"error": None if error is None else text, "traceback": trace}
            return active.update(**{**OVER, "state": state, **texts, **values})

        return write_texts(self.db, write, error or "", traceback) == 1

    def cancel(
        self, record: "WorkflowExecutionRecord", metadata: Mapping[str, Any], reason: str
    ) -> bool:
        """Active to cancelled, for *reason*; says whether it won."""
        ended = self.filter(pk=record.pk).end(
            WorkflowState.CANCELLED, error=reason or None, metadata=metadata
        )
        if ended:
            self.note(HistoryKind.CANCELLED, [record.pk], reason)
        return ended

    def complete(self, record: "WorkflowExecutionRecord", output_data: Mapping[str, Any]) -> bool:
        """Running, under the claim, to completed; says whether it won."""
        token = record.claim_token or ""
        return COMPLETE.run(self, key=record.pk, token=token, output=output_data) == 1

    def suspend(self, record: "WorkflowExecutionRecord", stop: Stop) -> WorkflowState | None:
        """Running to waiting; straight back to pending, and ready, if the answer came meanwhile.

        Returns which, or `None` if it is not this run's any more.
        """
        with transaction.atomic(using=self.db):
            if not self.held(record).exclude(is_overdue()).select_for_update().exists():
                return None
            steps = record.steps.using(self.db).filter(name=stop.name, status="open")
            since = steps.values_list("started_at", flat=True).first()
            asks = stop.name if stop.answerable else None
            values: dict[str, Any] = (
                {
                    "state": WorkflowState.WAITING,
                    "wake_at": stop.until,
                    "waiting_for": asks,
                    "waiting_since": since,
                }
                if since is not None
                else {"state": WorkflowState.PENDING, "ready": True, "wake_at": _MESSAGE_LOST}
            )
            self.held(record).update(claim_token=None, **values)
            return WorkflowState(values["state"])


class WorkflowExecutionRecord(models.Model):
    """One execution of a workflow."""

    execution_id = IdField(max_length=EXECUTION_ID_LENGTH)
    workflow_id = IdField()
    version = IdField(default="1")
    state = Utf8CharField(
        max_length=10,
        choices=[(state.value, state.value) for state in WorkflowState],
        default=WorkflowState.PENDING,
    )
    handler_path = Utf8CharField(max_length=MAX_PATH_LENGTH, null=True)
    input_data = models.JSONField(default=dict)
    output_data = models.JSONField(null=True)
    metadata = models.JSONField(default=dict)
    correlation_id = IdField(null=True)
    dedup_key = Utf8CharField(max_length=64, null=True)
    retry = models.JSONField(null=True)
    timeout = models.DurationField(null=True)
    deadline = models.DateTimeField(null=True)
    caused_by = IdField(null=True)
    wake_at = models.DateTimeField(null=True)
    ready = models.BooleanField(db_default=True)
    claim_token = Utf8CharField(max_length=32, null=True)
    claimed_by = Utf8CharField(max_length=MAX_ACTOR_LENGTH, db_default="")
    #: The wait that `resume` would answer.
    waiting_for = IdField(null=True)
    #: When that wait, or the sleep, began; written with the state that says so.
    waiting_since = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(db_default=0)
    crashes = models.PositiveIntegerField(db_default=0)
    runs = models.PositiveIntegerField(db_default=0)
    strays = models.PositiveIntegerField(db_default=0)
    #: How often the database interrupted runs since a step was done: `leave_interrupted` counts.
    interruptions = models.PositiveIntegerField(db_default=0)
    error = Utf8TextField(null=True)
    traceback = Utf8TextField(db_default="")
    created_at = models.DateTimeField(db_default=DatabaseNow())
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    objects = ExecutionQuerySet.as_manager()

    class Meta:
        verbose_name = _("execution")
        verbose_name_plural = _("executions")
        default_permissions = ("view",)
        permissions = (
            ("resume_execution", _("Can answer what an execution waits for")),
            ("cancel_execution", _("Can cancel an execution")),
            ("retry_execution", _("Can continue failed executions, and wake what rests")),
            ("resolve_execution", _("Can say what became of a step in doubt")),
            ("time_out_execution", _("Can time out what an execution waits for")),
        )
        # As constraints, because `unique=True` makes a second index for LIKE on PostgreSQL.
        constraints = (
            models.UniqueConstraint(fields=["execution_id"], name="gm_execution_id"),
            models.UniqueConstraint(fields=["dedup_key"], name="gm_execution_dedup"),
        )
        indexes = (
            OwedIndex(
                fields=["wake_at"], condition=Q(wake_at__isnull=False), name="gm_execution_owed"
            ),
            models.Index(fields=["state", "ended_at"], name="gm_execution_state"),
            models.Index(fields=["workflow_id", "id"], name="gm_execution_workflow"),
            OwedIndex(
                fields=["correlation_id"],
                condition=Q(correlation_id__isnull=False),
                opclasses=["varchar_pattern_ops"],  # people search by how an id begins
                name="gm_execution_correlation",
            ),
            OwedIndex(
                fields=["caused_by"],
                condition=Q(caused_by__isnull=False),
                name="gm_execution_cause",
            ),
        )

    def __str__(self) -> str:
        return visible(f"{self.workflow_id} {self.execution_id}"[:MAX_TITLE])

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
            traceback=self.traceback,
            **waiting_values(self.state, self.waiting_for, self.waiting_since, self.wake_at),
        )
