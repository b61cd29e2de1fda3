"""The local engine's memory: executions and their steps, and every change of their state."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from threading import RLock
from typing import Any

from general_manager.workflow.actors import current_actor
from general_manager.workflow.backends.memory_records import Clock, Record
from general_manager.workflow.encoding import copy_encoded
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    HistoryEntry,
    HistoryKind,
    WorkflowExecution,
    WorkflowExecutionNotFoundError,
    WorkflowState,
    WorkflowWaitMismatchError,
)
from general_manager.workflow.rules import (
    SLEEPS,
    not_this_wait,
    refusal,
    require_execution_id,
)
from general_manager.workflow.runs import Suspended
from general_manager.workflow.steps import StepStatus


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

    def holder_of(self, record: Record) -> Record | None:
        """The active or completed execution that has the correlation id of *record*."""
        return self._by_correlation.get(
            (record.definition.workflow_id, record.correlation_id or "")
        )

    def get(self, execution_id: str) -> Record:
        with self.lock:
            try:
                return self._records[require_execution_id(execution_id)]
            except KeyError:
                raise WorkflowExecutionNotFoundError(execution_id) from None

    def note(self, record: Record, kind: HistoryKind, detail: str = "", **about: Any) -> None:
        """Remember something out of the ordinary, done by whoever acts here."""
        with self.lock:
            entry = HistoryEntry(kind, self.clock(), current_actor(), detail, **about)
            record.history.append(entry)

    def snapshots(self, *, latest: int | None = None) -> list[WorkflowExecution]:
        """All, oldest first; or only the *latest*, newest first."""
        with self.lock:
            records = iter(self._records.values())
            if latest is not None:
                records = islice(reversed(self._records.values()), latest)
            return [record.snapshot() for record in records]

    def latest(self) -> list[Record]:
        """Every execution, the latest first."""
        with self.lock:
            return list(reversed(self._records.values()))

    def due(self) -> list[Record]:
        """Executions whose time has come: a timeout, the end of a sleep, the next attempt."""
        now = self.clock()
        with self.lock:
            return [
                record
                for record in self._records.values()
                if record.wake_at is not None and record.wake_at <= now
            ]

    def timers(self) -> list[timedelta]:
        now = self.clock()
        with self.lock:
            records = self._records.values()
            return [one.wake_at - now for one in records if one.wake_at is not None]

    def move_timers(self, by: timedelta) -> None:
        with self.lock:
            for record in self._records.values():
                if record.wake_at is not None:
                    record.wake_at -= by
                for name, step in record.steps.items():
                    if step.until is not None:
                        record.steps[name] = replace(step, until=step.until - by)

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

    def suspend(self, record: Record, run_number: int, stop: Suspended) -> WorkflowState | None:
        """Running to waiting; straight back to pending if the answer came meanwhile.

        Returns which, or `None` if it is not this run's any more.
        """
        with self.lock:
            if not self.is_running(record, run_number):
                return None
            step = record.steps[stop.name]
            if step.status is StepStatus.OPEN:
                record.state = WorkflowState.WAITING
                record.wake_at = stop.until
                record.waiting_for = stop.name if stop.answerable else None
                record.waiting_since = step.started_at
            else:
                record.state = WorkflowState.PENDING
            return record.state

    def postpone(
        self, record: Record, run_number: int, delay: timedelta, why: str, *, step: str = ""
    ) -> bool:
        """Running to pending, due after *delay*: the attempt failed, in *step*."""
        with self.lock:
            if not self.is_running(record, run_number):
                return False
            record.state = WorkflowState.PENDING
            record.wake_at = self.clock() + delay
            kind = HistoryKind.ATTEMPT_FAILED
            self.note(record, kind, why, step=step, number=record.attempts)
            return True

    def answer(self, execution_id: str, signal: Any, wait: str | None, label: str = "") -> Record:
        """Write the encoded *signal* as the outcome of the open wait; waiting becomes pending.

        Raises what `WorkflowEngine.resume` raises, with nothing written.
        """
        with self.lock:
            record = self.get(execution_id)
            name = record.waiting_for
            if name is None or not record.is_active:
                sleeps = record.state is WorkflowState.WAITING
                raise refusal(
                    execution_id, "resume", record.state, (WorkflowState.WAITING,),
                    SLEEPS if sleeps else "",
                )  # fmt: skip
            if wait is not None and wait != name:
                raise WorkflowWaitMismatchError(
                    execution_id, "resume", record.state, (record.state,),
                    not_this_wait(name, wait),
                )  # fmt: skip
            record.metadata["resume_signal"] = copy_encoded(signal)
            self.end_wait(
                record, name, StepStatus.DONE, HistoryKind.RESUMED, result=signal, label=label
            )
            return record

    def end_wait(
        self, record: Record, name: str, status: StepStatus, kind: HistoryKind, **values: Any
    ) -> None:
        """The open wait has its outcome; waiting becomes pending. A run under way finds it."""
        with self.lock:
            record.keep(name, status, self.clock(), **values)
            record.waiting_for = record.waiting_since = None
            record.attempts = 0
            self.note(record, kind, name, step=name)
            if record.state is WorkflowState.WAITING:
                record.state = WorkflowState.PENDING
                record.wake_at = None

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
            if not self.end(
                record, WorkflowState.CANCELLED, error=reason or None, metadata=details
            ):
                raise refusal(execution_id, "cancel", record.state, ACTIVE_STATES)
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
        traceback: str = "",
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
            record.traceback = traceback
            record.metadata.update(metadata or {})
            record.ended_at = self.clock()
            record.wake_at = record.waiting_for = record.waiting_since = None
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
