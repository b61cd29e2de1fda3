"""Every state transition of executions; no other code changes their state.

``wake_at`` does all timing: when it may run, its lease expires or its wait times out. It is NULL if
nothing is planned.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Self, TypeVar
from uuid import uuid4

from django.db import connections, models, transaction
from django.db.models import Exists, F, OuterRef, Q, Value
from django.db.models.functions import Coalesce

from general_manager.workflow.core.actors import whereabouts
from general_manager.workflow.core.ids import require_execution_id
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    WorkflowExecutionNotFoundError,
    WorkflowState,
)
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.executions.lines import keep_slot
from general_manager.workflow.models.executions.looks import (
    end_delay,
    end_wait,
    find_by_id,
    forget_mailboxes,
    newest_renewal,
    open_and_suspend,
)
from general_manager.workflow.models.executions.parking import park_one
from general_manager.workflow.models.executions.statements import (
    CLAIM,
    COMPLETE,
    SUSPEND_UNANSWERED,
)
from general_manager.workflow.models.executions.values import (
    ENDED,
    STOPS_CHILDREN,
    SUSPENDED,
    Woken,
    counts_failures,
    due_now,
    is_overdue,
    is_step_overdue,
    lease_end,
    slot_kept,
    values_at_start,
)
from general_manager.workflow.models.executions.waking import wake_due
from general_manager.workflow.models.history import WorkflowHistory
from general_manager.workflow.models.pruning import FAILED, FINISHED, prune_alone, prune_referred
from general_manager.workflow.models.sql.claims import claim_surely
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now, not_indexed
from general_manager.workflow.models.sql.commits import bookkeeping
from general_manager.workflow.models.sql.compiled import Statement, can_fetch
from general_manager.workflow.models.sql.deletes import Family, references
from general_manager.workflow.models.sql.inserts import insert_new
from general_manager.workflow.models.texts import write_texts
from general_manager.workflow.models.timing import Opening, Stop

Row = TypeVar("Row", bound=models.Model)


class ExecutionQuerySet(models.QuerySet[Row]):
    """The state transitions of executions, and the queries that they need."""

    def start_once(self, **values: Any) -> Row | None:
        """Insert a new execution, unless there is an active or completed one with its dedup key.

        Returns the existing one, or `None` after an insert, in one statement. Concurrency-safe.
        """
        rows: models.QuerySet[Row] | None = None
        given = values_at_start(values)
        fields, row = tuple(given), list(given.values())
        while not insert_new(self.model, fields, [row], self.db, unless=("dedup_key",)):
            if rows is None:
                rows = self.filter(dedup_key=values["dedup_key"])
            elif connections[self.db].in_atomic_block:
                rows = rows.select_for_update()
            known = rows.first()
            if known is not None:
                return known
            # It failed or was cancelled meanwhile, so its key is free. Or it was started after this
            # transaction's snapshot: on MariaDB a locking read sees it.
        return None

    def by_id(self, execution_id: str) -> Row:
        """The execution with that id, or the newest one as which it continued as new."""
        found = find_by_id(self, require_execution_id(execution_id))
        if found is None:
            raise WorkflowExecutionNotFoundError(execution_id)
        newest: Row = newest_renewal(self, found)
        return newest

    def runnable(self) -> Self:
        """Due: to start, a retry, the end of a sleep or wait. Only the sweep recovers dead runs."""
        return self.filter(state__in=SUSPENDED, wake_at__lte=DatabaseNow())

    def claim(self, execution_id: str, *, lease: timedelta) -> Row | None:
        """Claim the execution for a run; `None` if it is not runnable or is claimed already.

        For a caller that runs this one; workers claim in batches, see `claims`.
        """
        slots = {"execution_id": execution_id, "token": uuid4().hex, "by": whereabouts()}

        def mine() -> Row | None:  # `first`: it may be cancelled between the two statements
            return self.filter(execution_id=execution_id, claim_token=slots["token"]).first()

        def take() -> Row | None:
            if can_fetch(self.db):
                return CLAIM.take(self, lease, **slots)
            return mine() if CLAIM.run(self, lease, **slots) else None

        return claim_surely(self.db, take, mine) or park_one(self, execution_id, lease)

    def end(
        self,
        state: WorkflowState,
        *,
        output_data: Mapping[str, Any] | None = None,
        error: str | None = None,
        traceback: str = "",
        metadata: Mapping[str, Any] | None = None,
        failed_attempts: int = 0,
        by_its_run: bool = True,
    ) -> bool:
        """Active to the terminal *state*, which never changes; returns whether it won. Of one row.

        Unless it completed, its correlation id is free. *failed_attempts* are added to the count.
        Ended *by_its_run* it gives up the slot of its limit; else that waits for the run.
        """
        values: dict[str, Any] = {"attempts": F("attempts") + failed_attempts}
        slot = {} if by_its_run else slot_kept()
        if state is not WorkflowState.COMPLETED:
            values |= {"dedup_key": None, **STOPS_CHILDREN}
        values |= {} if metadata is None else {"metadata": metadata}
        if output_data is not None:
            values["output_data"] = Value(output_data, models.JSONField())
        active = self.filter(not_indexed("state", *ACTIVE_STATES))

        def write(text: str, trace: str) -> int:
            texts = {"error": None if error is None else text, "traceback": trace}
            return active.update(**{**slot, **ENDED, **slot, "state": state, **texts, **values})

        return write_texts(self.db, write, error or "", traceback) == 1

    def cancel(self, record: Any, metadata: Mapping[str, Any], reason: str) -> bool:
        """Active to cancelled, for *reason*; returns whether it won."""
        ended = self.filter(pk=record.pk).end(
            WorkflowState.CANCELLED, error=reason or None, metadata=metadata, by_its_run=False
        )
        if ended:
            self.note(HistoryKind.CANCELLED, [record.pk], reason)
        return ended

    def complete(self, record: Any, output_data: Mapping[str, Any]) -> bool:
        """Running to completed, under the claim; returns whether it won."""
        slots = {"key": record.pk, "token": record.claim_token or "", "output": output_data}
        if not can_fetch(self.db):
            return COMPLETE.run(self, **slots) == 1
        done = COMPLETE.fetch(self, **slots)
        record.awaited = record.awaited if done is None else done.awaited
        return done is not None

    def suspend(
        self, record: Any, stop: Stop, opening: Opening | None = None
    ) -> WorkflowState | None:
        """Running to waiting; or to pending and ready, if its answer or timeout came meanwhile.

        *opening* is a wait to record in the same commit. Returns the new state, or `None` if the
        run no longer holds the execution.
        """
        if opening is not None:
            return open_and_suspend(self, record, opening)
        claim = {"key": record.pk, "token": record.claim_token or ""}
        if stop.answerable and SUSPEND_UNANSWERED.run(self, name=stop.name, **claim):
            return WorkflowState.WAITING
        with transaction.atomic(using=self.db):
            if not self.held(record).exclude(is_overdue()).select_for_update().exists():
                return None
            steps = record.steps.using(self.db).filter(name=stop.name, status=StepStatus.OPEN)
            left = steps.exclude(until__lte=DatabaseNow())  # the next run times out what is due
            found = (
                left.filter(execution__ending_at=None).values_list("started_at", "until").first()
            )
            asks = stop.name if stop.answerable else None
            values: dict[str, Any] = {"ready": True, "wake_at": due_now(record.priority)}
            state = WorkflowState.PENDING
            if found is not None:
                since, until = found
                state = WorkflowState.WAITING
                values = {"wake_at": until, "waiting_for": asks, "waiting_since": since}
                values["holds_slot"] = None
            self.held(record).update(claim_token=None, state=state, **values)
            return state

    def held(self, record: Any) -> Self:
        """The row of *record*, if the run that claimed it still holds it.

        Every end clears the claim, so the token implies the state. Selected by key: MariaDB waits
        for the lock of every row it reads, and an index on the state has many under load.
        """
        return self.filter(pk=record.pk, claim_token=record.claim_token or "")

    def renew(self, record: Any, *, lease: timedelta) -> int:
        """Extend the lease; skips a row that is locked at the moment."""
        with bookkeeping(self.db) as update:
            rows = self.held(record).select_for_update(skip_locked=True)
            if not rows.exclude(is_overdue() | is_step_overdue()).exists():
                return keep_slot(self, record, lease) if record.slot_key else 0
            limits = ("run_until", "step_deadline")
            return update(self.held(record), wake_at=lease_end(lease, *limits))

    def attempts_of(self, record: Any) -> int:
        """Failed attempts since the last step that completed."""
        return int(self.values_list("attempts", flat=True).get(pk=record.pk))

    def progressed(self, record: Any) -> None:
        """A step completed: earlier failures, crashes and interruptions no longer count."""
        if counts_failures(record):
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
        """Running to pending, due after *delay*, because attempt *number* failed in *step*."""
        kind = HistoryKind.ATTEMPT_FAILED
        return self._delay(record, delay, "attempts", kind, why, step=step, number=number)

    def put_back(self, record: Any, delay: timedelta, why: str) -> bool:
        """Running to pending, not counted as an attempt: this process does not have the handler."""
        return self._delay(record, delay, "missing_handler_runs", HistoryKind.HANDLER_MISSING, why)

    def leave_interrupted(
        self,
        record: Any,
        delay: timedelta,
        why: str,
        uncalled: str | None = None,
    ) -> bool:
        """Running to pending, not counted as an attempt: the database undid or refused a write.

        The step *uncalled* was recorded as started but not called, so its record is deleted.
        """
        with transaction.atomic(using=self.db):
            if not self._delay(record, delay, "interruptions", HistoryKind.INTERRUPTED, why):
                return False
            if uncalled is not None:
                steps = record.steps.using(self.db)
                steps.filter(name=uncalled, status=StepStatus.STARTED).delete()
            return True

    def _delay(
        self,
        record: Any,
        delay: timedelta,
        counter: str,
        kind: HistoryKind,
        why: str,
        **values_of_entry: Any,
    ) -> bool:
        values = {counter: F(counter) + 1, "wake_at": from_now(delay), "claim_token": None}
        values["holds_slot"] = None
        with transaction.atomic(using=self.db):
            if not self.held(record).update(state=WorkflowState.PENDING, ready=False, **values):
                return False
            self.note(kind, [record.pk], why, **values_of_entry)
            return True

    def found_handler(self, record: Any) -> None:
        """This process has the handler: earlier claims without it no longer count."""
        if record.missing_handler_runs:
            self.filter(pk=record.pk).update(missing_handler_runs=0)
            record.missing_handler_runs = 0

    def note(self, kind: HistoryKind, keys: Iterable[int], detail: str = "", **values: Any) -> None:
        owners = [{"execution_id": key, **values} for key in keys]
        WorkflowHistory.objects.using(self.db).note_each(kind, owners, detail=detail)

    def state_after(self, record: Any) -> WorkflowState | None:
        """The state that this run wrote, for use after a lost response; `None` if it wrote none.

        Until the next claim, which counts ``runs`` up, this run wrote the state. Except for a
        cancellation or an answer, which are notified by their own callers.
        """
        over = (WorkflowState.COMPLETED, WorkflowState.WAITING)
        mine = self.filter(not_indexed("state", *over), pk=record.pk, runs=record.runs)
        found = mine.values_list("state")
        states = [WorkflowState(state) for (state,) in found]
        return states[0] if states else None

    def seize_overdue(self, execution_id: str, *, lease: timedelta) -> Row | None:
        """Take the execution from an overdue run, whose writes are refused from now on."""
        token = uuid4().hex
        with transaction.atomic(using=self.db):
            late = self.filter(is_overdue(), execution_id=execution_id)
            if not late.update(
                claim_token=token, claimed_by=whereabouts(), wake_at=from_now(lease)
            ):
                return None
            record = self.get(execution_id=execution_id)
            self.note(HistoryKind.OVERDUE, [record.pk])
            return record

    def wake_due(self, limit: int) -> Woken:
        """Make up to *limit* due executions ready: see `waking`."""
        return wake_due(self, limit)

    def wait_ended(
        self,
        record: Any,
        kind: HistoryKind,
        answering: Statement,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """The open wait gets its outcome by *answering*: waiting becomes ready. A run in progress
        finds it. Returns whether it won; else nothing is written.
        """
        return end_wait(self, record, kind, answering, metadata)

    def stopped_asking(self, record: Any, name: str) -> None:
        """The wait *name* timed out in the run that holds the execution."""
        self.held(record).filter(waiting_for=name).update(waiting_for=None, waiting_since=None)

    def wake_now(self, record: Any) -> bool:
        """End a delay or a sleep now; returns whether there was one."""
        return end_delay(self, record)

    def prunable(self, older_than: timedelta, *, include_failed: bool = False) -> Self:
        """Executions that ended longer ago than that; failed ones only with *include_failed*.

        None that others still wait for: they copy its outcome first.
        """
        states = FINISHED + FAILED if include_failed else FINISHED
        counts = Q(rate_until__gt=DatabaseNow())  # for the rate of its workflow
        rows = self.filter(state__in=states, ended_at__lt=from_now(-older_than), wake_at=None)
        slots: Any = self.model._meta.get_field("slots").related_model
        named = slots.objects.filter(child=Coalesce(OuterRef("chain"), OuterRef("execution_id")))
        return rows.exclude(counts).exclude(Exists(named.filter(outcome=None)))

    def family(self) -> Family:
        steps: Any = self.model._meta.get_field("steps").related_model
        slots: Any = self.model._meta.get_field("slots").related_model
        waits: Any = self.model._meta.get_field("event_waits").related_model
        owned = dict.fromkeys((steps, slots, waits, WorkflowHistory), "execution")
        tables = {self.model: "pk", **owned}
        return Family(self.model, "pk", tables, partial(forget_mailboxes, self.model))

    def prune(self, limit: int) -> int:
        """Delete up to *limit* of these with their steps and history; returns how many.

        One short transaction. Skips rows that are locked at the moment, and rows that are kept
        by rows of the project.
        """
        family = self.family()
        if found := references(family, self.db):
            return prune_referred(self, limit, family, found)
        return prune_alone(self, limit, family)
