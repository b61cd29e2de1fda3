"""Steps and waits of executions: what is finished, what is open, what came back."""

from datetime import timedelta
from typing import Any, Final

from django.db import models
from django.db.models import Exists, Max, OuterRef
from django.utils.translation import gettext_lazy as _

from general_manager.escaping import MAX_TITLE, visible
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.columns import (
    Ago,
    DatabaseNow,
    IdField,
    Utf8CharField,
    in_,
)
from general_manager.workflow.models.execution import WorkflowExecutionRecord
from general_manager.workflow.models.inserts import insert_while
from general_manager.workflow.steps import StepRecord, StepStatus

MAX_LABEL_LENGTH: Final = 255


class StepQuerySet(models.QuerySet["WorkflowStep"]):
    """Every write asks whether the run still holds its execution, in the same statement."""

    def add(
        self,
        execution: WorkflowExecutionRecord,
        name: str,
        status: str,
        *,
        position: int,
        result: Any = None,
        answerable: bool = False,
        once: bool = False,
        took: timedelta = timedelta(0),
    ) -> bool:
        """A new row, if the run still holds the execution; false otherwise.

        The execution's row is locked until the caller's transaction ends: a step's writes, its
        checkpoint and the question of ownership are settled by one commit. It began as long
        before now as it *took*; both times are the database's.
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
                "once": once,
                "started_at": Ago(took),
                "finished_at": Ago() if status == StepStatus.DONE else None,
            },
            WorkflowExecutionRecord,
            {
                "id": execution.pk,
                "claim_token": execution.claim_token,
                "state": WorkflowState.RUNNING,
            },
            self.db,
        )

    def finish(
        self, execution: WorkflowExecutionRecord, name: str, result: Any, position: int
    ) -> bool:
        """A begun step to done; says whether the run still holds it."""
        held = WorkflowExecutionRecord.objects.using(self.db).filter(
            pk=OuterRef("execution_id"),
            claim_token=execution.claim_token,
            state=WorkflowState.RUNNING,
        )
        rows = self.filter(
            Exists(held), execution_id=execution.pk, name=name, status=StepStatus.BEGUN
        )
        values = {"result": result, "position": position, "finished_at": DatabaseNow()}
        return rows.update(status=StepStatus.DONE, **values) == 1

    def open_wait(
        self, execution: WorkflowExecutionRecord, name: str, timeout: timedelta | None
    ) -> "WorkflowStep":
        """Give the new wait its deadline, on the database's clock, and return it."""
        row = self.filter(execution_id=execution.pk, name=name)
        if timeout is not None:
            row.update(until=in_(timeout))
        return row.get()

    def time_out(self, execution: WorkflowExecutionRecord, name: str, position: int) -> bool:
        """Open to timed out, if it is due: what is written once stands. Says whether it won."""
        due = self.filter(
            execution_id=execution.pk, name=name, status=StepStatus.OPEN, until__lte=DatabaseNow()
        )
        values = {"position": position, "finished_at": DatabaseNow()}
        return due.update(status=StepStatus.TIMED_OUT, **values) == 1

    def answer(
        self, execution: WorkflowExecutionRecord, name: str, signal: Any, *, label: str = ""
    ) -> bool:
        """Open to done with the answer; says whether it won. The execution is locked."""
        values = {"result": signal, "label": label[:MAX_LABEL_LENGTH]}
        return self._end_wait(execution, name, StepStatus.DONE, **values)

    def time_out_now(self, execution: WorkflowExecutionRecord, name: str) -> bool:
        """Open to timed out, due or not; says whether it won. The execution is locked."""
        return self._end_wait(execution, name, StepStatus.TIMED_OUT)

    def _end_wait(
        self, execution: WorkflowExecutionRecord, name: str, status: StepStatus, **values: Any
    ) -> bool:
        rows = self.filter(execution_id=execution.pk)
        last = rows.aggregate(last=Max("position"))["last"] or 0
        is_open = rows.filter(name=name, status=StepStatus.OPEN, answerable=True)
        values = {**values, "position": last + 1, "finished_at": DatabaseNow()}
        return is_open.update(status=status, **values) == 1


class WorkflowStep(models.Model):
    """A step, a wait or a sleep of one execution, known by its name."""

    execution = models.ForeignKey(
        WorkflowExecutionRecord,
        on_delete=models.CASCADE,
        related_name="steps",
        db_index=False,  # the constraint's index begins with it
    )
    name = IdField()
    status = Utf8CharField(
        max_length=10,
        choices=[(one.value, one.value) for one in StepStatus],
    )
    result = models.JSONField(null=True)
    #: Its place in the order of outcomes, counted by the run that holds the execution, or, at
    #: the end of a wait, under the execution's lock. Equal places: neither was known to the other.
    position = models.PositiveIntegerField(db_default=0)
    #: Marked `once=True`: it never runs again unless an operator says so.
    once = models.BooleanField(db_default=False)
    answerable = models.BooleanField(db_default=False)
    #: What the button said that gave the answer, if it came by a link.
    label = Utf8CharField(max_length=MAX_LABEL_LENGTH, db_default="")
    until = models.DateTimeField(null=True)
    started_at = models.DateTimeField(db_default=DatabaseNow())
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
        )
