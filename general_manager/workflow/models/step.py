"""Steps and waits of executions: what is finished, what is open, what came back."""

from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import Exists, OuterRef
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.columns import DatabaseNow, IdField, Utf8CharField, in_
from general_manager.workflow.models.execution import WorkflowExecutionRecord
from general_manager.workflow.models.inserts import insert_while
from general_manager.workflow.steps import StepRecord, StepStatus


class StepQuerySet(models.QuerySet["WorkflowStep"]):
    """Every write asks whether the run still holds its execution, in the same statement."""

    def add(
        self,
        execution: WorkflowExecutionRecord,
        name: str,
        status: str,
        *,
        result: Any = None,
        answerable: bool = False,
        began: datetime | None = None,
    ) -> bool:
        """A new row, if the run still holds the execution; false otherwise.

        The execution's row is locked until the caller's transaction ends: a step's writes, its
        checkpoint and the question of ownership are settled by one commit. *began* is now, if
        nothing else is said.
        """
        now = timezone.now()
        return insert_while(
            self.model,
            {
                "execution": execution.pk,
                "name": name,
                "status": status,
                "result": result,
                "answerable": answerable,
                "started_at": began or now,
                "finished_at": now if status == StepStatus.DONE else None,
            },
            WorkflowExecutionRecord,
            {
                "id": execution.pk,
                "claim_token": execution.claim_token,
                "state": WorkflowState.RUNNING,
            },
            self.db,
        )

    def finish(self, execution: WorkflowExecutionRecord, name: str, result: Any) -> bool:
        """A begun step, or an open sleep, to done; says whether the run still holds it."""
        held = WorkflowExecutionRecord.objects.using(self.db).filter(
            pk=OuterRef("execution_id"),
            claim_token=execution.claim_token,
            state=WorkflowState.RUNNING,
        )
        rows = self.filter(
            Exists(held), execution_id=execution.pk, name=name, status=StepStatus.BEGUN
        )
        return rows.update(status=StepStatus.DONE, result=result, finished_at=timezone.now()) == 1

    def open_wait(
        self, execution: WorkflowExecutionRecord, name: str, timeout: timedelta | None
    ) -> "WorkflowStep":
        """Give the new wait its deadline, on the database's clock, and return it."""
        row = self.filter(execution_id=execution.pk, name=name)
        if timeout is not None:
            row.update(until=in_(timeout))
        return row.get()

    def time_out(self, execution: WorkflowExecutionRecord, name: str) -> bool:
        """Open to timed out, if it is due: what is written once stands. Says whether it won."""
        due = self.filter(
            execution_id=execution.pk, name=name, status=StepStatus.OPEN, until__lte=DatabaseNow()
        )
        return due.update(status=StepStatus.TIMED_OUT, finished_at=timezone.now()) == 1

    def answer(self, execution: WorkflowExecutionRecord, name: str, signal: Any) -> bool:
        """Open to done with the answer; says whether it won."""
        rows = self.filter(
            execution_id=execution.pk, name=name, status=StepStatus.OPEN, answerable=True
        )
        return rows.update(status=StepStatus.DONE, result=signal, finished_at=timezone.now()) == 1


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
    answerable = models.BooleanField(db_default=False)
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
        return f"{self.name}: {self.status}"

    def as_record(self) -> StepRecord:
        return StepRecord(self.name, StepStatus(self.status), self.result, self.until)
