"""Steps, waits and sleeps of executions, with their results and answers."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from django.db import models
from django.db.models import Exists, ExpressionWrapper, F, OuterRef
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.durable.records import OPEN_WAITS, StepRecord, StepStatus
from general_manager.workflow.models.execution import WorkflowExecutionRecord
from general_manager.workflow.models.executions.taking import chain_of
from general_manager.workflow.models.signal import WorkflowSignal
from general_manager.workflow.models.sql.columns import (
    Ago,
    DatabaseNow,
    IdField,
    Utf8CharField,
)
from general_manager.workflow.models.sql.compiled import (
    CompiledSelect,
    CompiledUpdate,
    Slot,
    Statement,
)
from general_manager.workflow.models.sql.guarded import insert_while

MAX_LABEL_LENGTH: Final = 255
ENDED_STATUSES: Final = (StepStatus.DONE, StepStatus.FAILED)
ENDED_BY_WAKING: Final = (StepStatus.OPEN, StepStatus.RETRYING)
"""Statuses of a sleep, and of a step before its next attempt, which an operator may end early."""
BEGUN_STATUSES: Final = (StepStatus.STARTED, StepStatus.RUNNING, StepStatus.RETRYING)
"""Of a step that was called, or was about to be, and has no outcome."""


def _replayed(rows: Any) -> Any:
    text = ExpressionWrapper(F("result"), output_field=models.TextField())
    found = rows.filter(execution_id=_KEY).annotate(encoded=text)
    return found.values_list(
        "name", "status", "position", "until", "answerable", "encoded", "attempts", "failure",
        "saga", "sources", "branch",
    )  # fmt: skip


def _ending_open(
    rows: Any, status: StepStatus, names: tuple[str, ...]
) -> tuple[Any, dict[str, Any]]:
    is_open = rows.filter(status=StepStatus.OPEN, answerable=True)
    values = {one: Slot(one, rows.model._meta.get_field(one)) for one in names}
    mine = is_open.filter(execution_id=_KEY, name=Slot("wait"))
    return mine, {"status": status, "finished_at": DatabaseNow(), **values}


def _ending_delays(rows: Any) -> tuple[Any, dict[str, Any]]:
    ended = rows.filter(status__in=ENDED_BY_WAKING, answerable=False)
    return ended.filter(execution_id=_KEY), {"until": DatabaseNow()}


_KEY: Final = Slot("key", models.BigIntegerField())
REPLAYED: CompiledSelect[Any] = CompiledSelect(_replayed)
END_OPEN: CompiledUpdate[Any] = CompiledUpdate(_ending_open)
END_DELAYS: CompiledUpdate[Any] = CompiledUpdate(_ending_delays)


class StepQuerySet(models.QuerySet["WorkflowStep"]):
    """Every write by a run checks the execution's claim in the same statement."""

    def replayed(self, execution: WorkflowExecutionRecord) -> list[StepRecord]:
        """What a run needs of the recorded steps; their results are not decoded yet."""
        found = REPLAYED.rows(self, key=execution.pk)
        return [
            StepRecord(
                name=name,
                status=StepStatus(status),
                position=position,
                until=until,
                answerable=answerable,
                encoded=encoded,
                attempts=attempts,
                failure=failure,
                saga=saga,
                sources=sources or (),
                branch=branch,
            )
            for (
                name,
                status,
                position,
                until,
                answerable,
                encoded,
                attempts,
                failure,
                saga,
                sources,
                branch,
            ) in found
        ]

    def are_open(self, execution: WorkflowExecutionRecord) -> bool:
        """Whether a wait, a sleep or a gather of the execution has no outcome yet."""
        return self.filter(execution=execution, status__in=OPEN_WAITS).exists()

    def add(
        self,
        execution: WorkflowExecutionRecord,
        name: str,
        status: str,
        *,
        position: int,
        result: Any = None,
        answerable: bool = False,
        signal: str | None = None,
        once: bool = False,
        took: timedelta = timedelta(0),
        timeout: timedelta | None = None,
        may_end: bool = True,
        is_waited: bool = True,
        is_last: bool = False,
        **more: Any,
    ) -> bool:
        """Insert a row if the run still holds the execution; false otherwise.

        The execution's row is locked until the caller's transaction ends, so a step's writes, its
        checkpoint and the check of the claim are one commit. The step started as long ago as it
        *took*, and a wait times out after *timeout*, both on the database's clock. *more* are
        values of columns that few steps have. Unless it *may_end*, a step that started after its
        execution was asked to end is refused. Unless it *is_waited*, the commit does not wait for
        the disk. *is_last*: nothing follows in the transaction.
        """
        return insert_while(
            self.model,
            {
                "execution": execution.pk,
                "name": name,
                "status": status,
                "position": position,
                "result": result,
                "answerable": answerable,
                "signal": signal,
                "once": once,
                "started_at": Ago(took),
                "finished_at": Ago() if status in ENDED_STATUSES else None,
                "until": None if timeout is None else Ago(-timeout),
                **more,
            },
            WorkflowExecutionRecord,
            {"id": execution.pk, "claim_token": execution.claim_token},
            self.db,
            before=None if may_end else ("ending_at", Ago(took)),
            is_waited=is_waited,
            is_last=is_last,
        )

    def finish(
        self, execution: WorkflowExecutionRecord, name: str, result: Any, position: int
    ) -> bool:
        """Begun to done; returns whether the run still holds the execution."""
        values = {"result": result, "failure": None, "until": None}
        return self._end(execution, name, StepStatus.DONE, position, **values)

    def fail(
        self,
        execution: WorkflowExecutionRecord,
        name: str,
        failure: Mapping[str, Any],
        *,
        position: int,
        attempts: int,
        saga: str | None,
    ) -> bool:
        """New or begun to failed; returns whether the run still holds the execution."""
        values: dict[str, Any] = {"failure": failure, "attempts": attempts, "saga": saga}
        added = self.add(execution, name, StepStatus.FAILED, position=position, **values)
        return added or self._end(
            execution, name, StepStatus.FAILED, position, until=None, **values
        )

    def _end(
        self,
        execution: WorkflowExecutionRecord,
        name: str,
        status: StepStatus,
        position: int,
        **values: Any,
    ) -> bool:
        held = WorkflowExecutionRecord.objects.using(self.db).filter(
            pk=OuterRef("execution_id"), claim_token=execution.claim_token
        )
        begun = self.filter(
            Exists(held), execution_id=execution.pk, name=name, status__in=BEGUN_STATUSES
        )
        values |= {"position": position, "finished_at": DatabaseNow()}
        return begun.update(status=status, **values) == 1

    def put(self, execution: WorkflowExecutionRecord, name: str, **values: Any) -> None:
        """Write a step without an outcome. Lock the execution before."""
        if not self.filter(execution_id=execution.pk, name=name).update(**values):
            self.create(execution_id=execution.pk, name=name, **values)

    def time_out(self, execution: WorkflowExecutionRecord, name: str, position: int) -> bool:
        """Open to timed out, if it is due and no signal is kept for it; returns whether it won."""
        signals = WorkflowSignal.objects.kept(chain_of(execution))
        due = self.filter(
            ~Exists(signals.filter(name=OuterRef("signal"))),
            execution_id=execution.pk,
            name=name,
            status=StepStatus.OPEN,
            until__lte=DatabaseNow(),
        )
        values = {"position": position, "finished_at": DatabaseNow()}
        return due.update(status=StepStatus.TIMED_OUT, **values) == 1

    def answering(
        self,
        execution: WorkflowExecutionRecord,
        name: str,
        signal: Any,
        *,
        label: str = "",
        **by: Any,
    ) -> Statement:
        """Open to done, with the answer, for `wait_ended`.

        *by*: the columns that say which signal or event it comes from, if it does.
        """
        values = {"result": signal, "label": label[:MAX_LABEL_LENGTH], **by}
        return self._ending(execution, name, StepStatus.DONE, **values)

    def ending_delays(self, execution: WorkflowExecutionRecord) -> Statement:
        """Its sleep, and the delay before an attempt, are over now; for `wake_now`."""
        return END_DELAYS.statement(self, key=execution.pk)

    def timing_out_now(self, execution: WorkflowExecutionRecord, name: str) -> Statement:
        """Open to timed out, due or not, for `wait_ended`."""
        return self._ending(execution, name, StepStatus.TIMED_OUT)

    def _ending(
        self, execution: WorkflowExecutionRecord, name: str, status: StepStatus, **values: Any
    ) -> Statement:
        slots = {"key": execution.pk, "wait": name, **values}
        return END_OPEN.statement(self, status, tuple(values), **slots)


class WorkflowStep(models.Model):
    """A step, a wait or a sleep of one execution."""

    #: The execution that it belongs to.
    execution = models.ForeignKey(
        WorkflowExecutionRecord,
        on_delete=models.CASCADE,
        related_name="steps",
        db_index=False,  # the constraint's index begins with it
    )
    #: Name given by the handler; unique for each execution.
    name = IdField()
    #: One of `StepStatus`; changed by the verbs of `StepQuerySet` only.
    status = Utf8CharField(
        max_length=10,
        choices=[(one.value, one.value) for one in StepStatus],
    )
    #: Encoded result of a step, or answer to a wait; NULL while there is none.
    result = models.JSONField(null=True)
    #: Position in the order of outcomes, counted by the run; an open wait has the position of its
    #: outcome to come. Equal positions: neither outcome depends on the other.
    position = models.PositiveIntegerField(db_default=0)
    #: Marked `once=True`: it never runs again, unless an operator allows it.
    once = models.BooleanField(db_default=False)
    #: Whether it is a `wait_for`, which `resume` can answer. False for steps and sleeps.
    answerable = models.BooleanField(db_default=False)
    #: Name of the signals that answer it; NULL for steps and sleeps.
    signal = IdField(null=True)
    #: Key of the signal that answered it; NULL for other answers. No foreign key: a fresh execution
    #: keeps it with the answer, and the signal may be pruned.
    answered_by = models.BigIntegerField(null=True)
    #: What can answer it, each as `Source.to_json` writes it; NULL unless events may.
    sources = models.JSONField(null=True)
    #: Name of the source that answered it; empty for an only one, NULL for other answers.
    branch = IdField(null=True)
    #: Id of the event that answered it; NULL for other answers. No foreign key, as above.
    event = IdField(null=True)
    #: The saga that it undoes; of a saga its own name; NULL for others.
    saga = IdField(null=True)
    #: Text of the button that gave the answer; empty for other answers.
    label = Utf8CharField(max_length=MAX_LABEL_LENGTH, db_default="")
    #: When a wait times out or a sleep ends, a running attempt exceeds its time, or the next one is
    #: due; NULL for a wait without timeout, and for other steps.
    until = models.DateTimeField(null=True)
    #: Failed attempts of a step with a budget of its own.
    attempts = models.PositiveIntegerField(db_default=0)
    #: `Failure` of the last failed attempt as JSON; NULL without one.
    failure = models.JSONField(null=True)
    #: When it started.
    started_at = models.DateTimeField(db_default=DatabaseNow())
    #: When its outcome was written; NULL while there is none.
    finished_at = models.DateTimeField(null=True)

    objects = StepQuerySet.as_manager()

    class Meta:
        verbose_name = _("step")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=["execution", "name"], name="gm_one_step_each"),
        )

    def __str__(self) -> str:
        return visible(f"{self.name}: {self.status}"[:MAX_TITLE])

    def as_record(self) -> StepRecord:
        return StepRecord(
            name=self.name,
            status=StepStatus(self.status),
            result=self.result,
            until=self.until,
            position=self.position,
            once=self.once,
            answerable=self.answerable,
            started_at=self.started_at,
            finished_at=self.finished_at,
            label=self.label,
            signal=self.signal,
            answered_by=self.answered_by,
            attempts=self.attempts,
            failure=self.failure,
            saga=self.saga,
            sources=self.sources or (),
            branch=self.branch,
            event=self.event,
        )
