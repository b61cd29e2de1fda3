"""Leases of executions, and what ends them and their waits: time, an answer, an operator."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Self, TypeVar
from uuid import uuid4

from django.db import models, transaction
from django.db.models import Case, F, Q, When

from general_manager.workflow.actors import whereabouts
from general_manager.workflow.engine import HistoryKind, WorkflowState
from general_manager.workflow.models.columns import DatabaseNow, in_
from general_manager.workflow.models.execution_values import (
    is_overdue,
    lease_end,
    plus_one_if_running,
)
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.timing import MESSAGE_GRACE, RESEND_GRACE
from general_manager.workflow.steps import StepStatus

Row = TypeVar("Row", bound=models.Model)


class Woken(NamedTuple):
    """Ids of executions."""

    ready: list[str]
    """To be sent to workers."""
    suspect: list[str]
    """The same, one by one: their last worker died."""
    overdue: list[str]
    """To be taken from the run that hangs."""
    died: list[str]
    """Of the first two, those that were running."""


class RecoveringQuerySet(models.QuerySet[Row]):
    def held(self, record: Any) -> Self:
        """The row of *record*, if the run that claimed it as such still has it.

        Found by its key: MariaDB waits for the lock of every row that it looks at.
        """
        token = record.claim_token or ""
        return self.filter(pk=record.pk, claim_token=token, state=WorkflowState.RUNNING)

    def renew(self, record: Any, *, lease: timedelta) -> int:
        """Push the end of the lease on; passes over a row that somebody has locked just now."""
        with transaction.atomic(using=self.db):
            rows = self.held(record).select_for_update(skip_locked=True)
            if not rows.exclude(is_overdue()).exists():
                return 0
            return self.held(record).update(wake_at=lease_end(lease, "deadline"))

    def attempts_of(self, record: Any) -> int:
        """Failed attempts since the last step that completed."""
        attempts: int = self.values_list("attempts", flat=True).get(pk=record.pk)
        return attempts

    def progressed(self, record: Any) -> None:
        """A step completed: what failed or crashed before it is forgiven."""
        if record.attempts or record.crashes or record.interruptions:
            self.filter(pk=record.pk).update(attempts=0, crashes=0, interruptions=0)
            record.attempts = record.crashes = record.interruptions = 0

    def postpone(
        self,
        record: Any,
        delay: timedelta,
        why: str,
        *,
        step: str = "",
        number: int | None = None,
    ) -> bool:
        """Running to pending, due after *delay*: attempt *number* failed, in *step*."""
        kind = HistoryKind.ATTEMPT_FAILED
        return self._rest(record, delay, "attempts", kind, why, step=step, number=number)

    def put_back(self, record: Any, delay: timedelta, why: str) -> bool:
        """Running to pending, no attempt: this process cannot run it, another can."""
        return self._rest(record, delay, "strays", HistoryKind.STRAYED, why)

    def leave_interrupted(
        self,
        record: Any,
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
        record: Any,
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

    def found_handler(self, record: Any) -> None:
        """This process has the handler: what others lacked no longer counts."""
        if record.strays:
            self.filter(pk=record.pk).update(strays=0)
            record.strays = 0

    def note(self, kind: HistoryKind, keys: Iterable[int], detail: str = "", **values: Any) -> None:
        owners = [{"execution_id": key, **values} for key in keys]
        WorkflowHistory.objects.using(self.db).note_each(kind, owners, detail=detail)

    def state_after(self, record: Any) -> WorkflowState | None:
        """What this run has made of the execution, where the answer may have been lost; or `None`.

        The next claim counts a run: until then, what is written is this run's; but for others'
        cancellation, or an answer, which are not told again here.
        """
        over = (WorkflowState.COMPLETED, WorkflowState.WAITING)
        found = self.filter(pk=record.pk, runs=record.runs, state__in=over).values_list("state")
        states = [WorkflowState(state) for (state,) in found]
        return states[0] if states else None

    def seize_overdue(self, execution_id: str, *, lease: timedelta) -> Row | None:
        """Take the execution from a run that takes longer than it may: that run writes no more."""
        token = uuid4().hex
        with transaction.atomic(using=self.db):
            late = self.filter(is_overdue(), execution_id=execution_id)
            if not late.update(claim_token=token, claimed_by=whereabouts(), wake_at=in_(lease)):
                return None
            record = self.get(execution_id=execution_id)
            self.note(HistoryKind.OVERDUE, [record.pk])
            return record

    def wake_due(self, limit: int) -> "Woken":
        """Make up to *limit* executions ready whose time has come.

        What was running has lost its worker, which is counted in ``crashes`` until a step
        completes; or it is overdue: then it stays as it is, for `seize_overdue`.
        """
        with transaction.atomic(using=self.db):
            due = self.filter(wake_at__lte=DatabaseNow())  # only active ones have that
            rows = list(
                due.select_for_update(skip_locked=True)
                .order_by("wake_at")
                .annotate(is_overdue=Case(When(is_overdue(), then=True), default=False))
                .values_list("pk", "execution_id", "state", "is_overdue", "crashes")[:limit]
            )
            woken = [row for row in rows if not row[3]]
            overdue = [row for row in rows if row[3]]
            if woken:
                due.filter(pk__in=[row[0] for row in woken]).update(
                    crashes=plus_one_if_running(),
                    state=WorkflowState.PENDING,
                    ready=True,
                    claim_token=None,
                    wake_at=in_(RESEND_GRACE),
                )
            if overdue:  # whoever swept them may die: then they come again
                due.filter(pk__in=[row[0] for row in overdue]).update(wake_at=in_(RESEND_GRACE))
            died = [row for row in woken if row[2] == WorkflowState.RUNNING]
            if died:
                self.note(HistoryKind.RECOVERED, [row[0] for row in died])
            suspect = [row[1] for row in woken if row in died or row[4]]
            ready = [row[1] for row in woken if row[1] not in suspect]
            return Woken(ready, suspect, [row[1] for row in overdue], [row[1] for row in died])

    def wait_ended(
        self,
        record: Any,
        kind: HistoryKind,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """The open wait has its outcome: waiting becomes ready. A run under way finds it itself."""
        row = self.filter(pk=record.pk)
        kept = {} if metadata is None else {"metadata": metadata}
        row.update(waiting_for=None, waiting_since=None, attempts=0, crashes=0, **kept)
        name = record.waiting_for or ""
        self.note(kind, [record.pk], name, step=name)
        row.filter(state=WorkflowState.WAITING).update(
            state=WorkflowState.PENDING, ready=True, wake_at=in_(MESSAGE_GRACE)
        )

    def stopped_asking(self, record: Any, name: str) -> None:
        """The wait *name* timed out in the run that holds the execution."""
        asking = self.held(record).filter(waiting_for=name)
        asking.update(waiting_for=None, waiting_since=None)

    def wake_now(self, record: Any) -> bool:
        """A rest or a sleep ends now; says whether there was one."""
        row = self.filter(pk=record.pk)
        rests = Q(state=WorkflowState.PENDING, ready=False)
        sleeps = Q(state=WorkflowState.WAITING, waiting_for=None)
        if not row.filter(rests | sleeps).update(
            state=WorkflowState.PENDING, ready=True, wake_at=in_(MESSAGE_GRACE)
        ):
            return False
        steps = record.steps.using(self.db)
        steps.filter(status="open", answerable=False).update(until=DatabaseNow())
        self.note(HistoryKind.WOKEN, [record.pk])
        return True
