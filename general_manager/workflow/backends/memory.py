"""The local engine's memory: executions and their steps, and every change of their state."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from threading import RLock
from typing import Any

from general_manager.workflow.actors import current_actor
from general_manager.workflow.encoding import copy_encoded
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    HistoryEntry,
    HistoryKind,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    WorkflowState,
    WorkflowWaitMismatchError,
)
from general_manager.workflow.runs import Suspended
from general_manager.workflow.steps import StepRecord, StepStatus

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class Record:
    """One execution, as the engine's memory holds it. Touch it under the memory's lock only."""

    execution_id: str
    definition: WorkflowDefinition
    input_data: dict[str, Any]
    correlation_id: str | None
    metadata: dict[str, Any]
    state: WorkflowState = WorkflowState.PENDING
    output_data: dict[str, Any] | None = None
    error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    wake_at: datetime | None = None
    waiting_for: str | None = None
    attempts: int = 0
    run_number: int = 0
    steps: dict[str, StepRecord] = field(default_factory=dict)
    history: list[HistoryEntry] = field(default_factory=list)

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES

    def snapshot(self) -> WorkflowExecution:
        return WorkflowExecution(
            execution_id=self.execution_id,
            workflow_id=self.definition.workflow_id,
            state=self.state,
            input_data=copy_encoded(self.input_data),
            output_data=copy_encoded(self.output_data),
            correlation_id=self.correlation_id,
            started_at=self.started_at,
            ended_at=self.ended_at,
            error=self.error,
            metadata=copy_encoded(self.metadata),
        )


class ExecutionMemory:
    """Executions by id and by correlation id; keeps the latest *limit* finished ones."""

    def __init__(self, *, limit: int, clock: Clock) -> None:
        self.lock = RLock()
        self.clock = clock
        self._limit = limit
        self._records: dict[str, Record] = {}
        self._by_correlation: dict[tuple[str, str], Record] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def add_once(self, record: Record) -> Record:
        """Keep *record*, or return the active or completed one with its correlation id."""
        with self.lock:
            if record.correlation_id:
                key = (record.definition.workflow_id, record.correlation_id)
                known = self._by_correlation.setdefault(key, record)
                if known is not record:
                    return known
            self._records[record.execution_id] = record
            return record

    def get(self, execution_id: str) -> Record:
        with self.lock:
            try:
                return self._records[execution_id]
            except (KeyError, TypeError):
                raise WorkflowExecutionNotFoundError(execution_id) from None

    def note(self, record: Record, kind: HistoryKind, detail: str = "") -> None:
        """Remember something out of the ordinary, done by whoever acts here."""
        with self.lock:
            record.history.append(HistoryEntry(kind, self.clock(), current_actor(), detail))

    def snapshots(self, *, latest: int | None = None) -> list[WorkflowExecution]:
        """All, oldest first; or only the *latest*, newest first."""
        with self.lock:
            records = iter(self._records.values())
            if latest is not None:
                records = islice(reversed(self._records.values()), latest)
            return [record.snapshot() for record in records]

    def due(self) -> list[Record]:
        """Executions whose time has come: a timeout, the end of a sleep, the next attempt."""
        now = self.clock()
        with self.lock:
            return [
                record
                for record in self._records.values()
                if record.wake_at is not None and record.wake_at <= now
            ]

    def begin(self, record: Record) -> int | None:
        """Pending to running: the number of the run, or `None` if another has it."""
        with self.lock:
            if record.state is not WorkflowState.PENDING or record.wake_at is not None:
                return None
            record.state = WorkflowState.RUNNING
            record.run_number += 1
            record.started_at = record.started_at or self.clock()
            return record.run_number

    def is_running(self, record: Record, run_number: int) -> bool:
        return record.state is WorkflowState.RUNNING and record.run_number == run_number

    def suspend(self, record: Record, run_number: int, stop: Suspended) -> bool:
        """Running to waiting; straight back to pending if the answer came meanwhile."""
        with self.lock:
            if not self.is_running(record, run_number):
                return False
            if record.steps[stop.name].status is StepStatus.OPEN:
                record.state = WorkflowState.WAITING
                record.wake_at = stop.until
                record.waiting_for = stop.name if stop.answerable else None
            else:
                record.state = WorkflowState.PENDING
            return True

    def postpone(self, record: Record, run_number: int, delay: timedelta, why: str) -> bool:
        """Running to pending, due after *delay*: the next attempt."""
        with self.lock:
            if not self.is_running(record, run_number):
                return False
            record.state = WorkflowState.PENDING
            record.wake_at = self.clock() + delay
            self.note(record, HistoryKind.ATTEMPT_FAILED, why)
            return True

    def answer(self, execution_id: str, signal: Any, wait: str | None) -> Record:
        """Write the encoded *signal* as the outcome of the open wait; waiting becomes pending.

        Raises what `WorkflowEngine.resume` raises, with nothing written.
        """
        with self.lock:
            record = self.get(execution_id)
            name = record.waiting_for
            if name is None or not record.is_active:
                raise _refusal(record, "resume", (WorkflowState.WAITING,))
            if wait is not None and wait != name:
                raise WorkflowWaitMismatchError(
                    execution_id, "resume", record.state, (WorkflowState.WAITING,),
                    f"It waits for {name!r}, and the answer is for {wait!r}.",
                )  # fmt: skip
            record.steps[name] = StepRecord(name, StepStatus.DONE, signal)
            record.metadata["resume_signal"] = copy_encoded(signal)
            record.waiting_for = None
            record.attempts = 0
            self.note(record, HistoryKind.RESUMED, name)
            if record.state is WorkflowState.WAITING:
                record.state = WorkflowState.PENDING
                record.wake_at = None
            return record

    def wake(self, record: Record) -> bool:
        """Waiting, or resting, to ready, because the time is up; one caller is told so."""
        with self.lock:
            if record.wake_at is None or record.wake_at > self.clock():
                return False
            record.state = WorkflowState.PENDING
            record.wake_at = None
            return True

    def cancel(self, execution_id: str, reason: str | None) -> Record:
        with self.lock:
            record = self.get(execution_id)
            details = {} if reason is None else {"cancel_reason": reason}
            if not self.end(record, WorkflowState.CANCELLED, metadata=details):
                raise _refusal(record, "cancel", ACTIVE_STATES)
            self.note(record, HistoryKind.CANCELLED, reason or "")
            return record

    def end(
        self,
        record: Record,
        state: WorkflowState,
        *,
        run_number: int | None = None,
        output_data: dict[str, Any] | None = None,
        error: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """To a terminal *state*, from which nothing leads away; false if it has one already.

        With *run_number*, only while that run is the one that is running.
        """
        with self.lock:
            if not record.is_active:
                return False
            if run_number is not None and not self.is_running(record, run_number):
                return False
            record.state = state
            record.output_data = output_data
            record.error = error
            record.metadata.update(metadata or {})
            record.ended_at = self.clock()
            record.wake_at = record.waiting_for = None
            if state is not WorkflowState.COMPLETED and record.correlation_id:
                key = (record.definition.workflow_id, record.correlation_id)
                del self._by_correlation[key]
            self._finished[record.execution_id] = None
            self._forget_oldest()
            return True

    def _forget_oldest(self) -> None:
        while len(self._finished) > self._limit:
            execution_id, _ = self._finished.popitem(last=False)
            record = self._records.pop(execution_id)
            if record.state is WorkflowState.COMPLETED and record.correlation_id:
                del self._by_correlation[(record.definition.workflow_id, record.correlation_id)]


def _refusal(
    record: Record, verb: str, allowed: tuple[WorkflowState, ...]
) -> WorkflowInvalidStateError:
    kind = WorkflowInvalidStateError
    detail = ""
    if record.state is WorkflowState.CANCELLED:
        kind = WorkflowCancelledError
    elif record.state is WorkflowState.WAITING:
        detail = f"It sleeps until {record.wake_at}, and asks nothing."
    return kind(record.execution_id, verb, record.state, allowed, detail)
