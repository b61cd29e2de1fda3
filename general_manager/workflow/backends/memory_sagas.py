"""Sagas in memory: their records, and executions that undo before they end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import Record
from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.durable.options import next_attempt_in
from general_manager.workflow.durable.records import StepRecord, StepStatus
from general_manager.workflow.durable.stops import EndRequested, StopRun
from general_manager.workflow.durable.undos import notify_undone
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.executions.rules import cancelled_because, refusal
from general_manager.workflow.history import HistoryKind


class MemorySagas:
    """The part of a `RunStore` that concerns sagas, fenced by the number of the run."""

    def __init__(self, memory: ExecutionMemory, record: Record, run_number: int) -> None:
        self.ending: Ending | None = record.ending
        self.saga: str | None = None
        self._memory = memory
        self._record = record
        self._run_number = run_number
        self._is_inside = False
        """Whether the step that is being called has a transaction."""
        self._written: list[tuple[str, StepRecord | None]] = []
        """Steps that a rollback of this run would take back, with what they were before."""

    def has_next_attempt(self, error: BaseException) -> bool:
        retry = self._record.definition.retry
        policy = None if retry is None else retry.to_json()
        return next_attempt_in(policy, self._record.attempts + 1, error) is not None

    def open_saga(self, name: str) -> None:
        with self._fenced():
            about = {"opened": self._record.position + 1}
            self._keep(name, StepStatus.SAGA, saga=name, result=about)

    def close_saga(self, name: str) -> None:
        with self._fenced():
            self._require_not_ending()
            self._keep(name, StepStatus.DONE)

    def begin_undoing(self, name: str, failure: dict[str, Any], undos: Sequence[str]) -> None:
        with self._fenced():
            record = self._record
            opened = record.steps[name].result["opened"]
            about = {"opened": opened, "undos": list(undos)}
            for wait, one in list(record.steps.items()):
                if one.status is StepStatus.OPEN and one.position > opened:
                    self._keep(wait, StepStatus.CLOSED)
                    record.waiting_for = record.waiting_since = None
            self._keep(name, StepStatus.UNDOING, failure=failure, result=about)
            self._memory.note(record, HistoryKind.UNDOING, failure["text"], step=name)

    def end_undoing(self, name: str, left: Sequence[str]) -> None:
        with self._fenced():
            about = {**self._record.steps[name].result, "left": list(left)}
            status = StepStatus.INCOMPLETE if left else StepStatus.UNDONE
            self._keep(name, status, result=about)
        workflow_id = self._record.definition.workflow_id
        notify_undone(self._record.execution_id, workflow_id, name, left)

    def _keep(self, name: str, status: StepStatus, **values: Any) -> None:
        if self._is_inside:
            self._written.append((name, self._record.steps.get(name)))
        self._record.keep(name, status, self._memory.clock(), **values)

    def _require_not_ending(self) -> None:
        if self._record.ending is not None and self.saga is None:
            raise EndRequested(self._record.ending)

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        with self._memory.lock:
            if not self._memory.is_running(self._record, self._run_number):
                raise StopRun(f"execution {self._record.execution_id} is {self._record.state}")
            yield


def cancel(
    memory: ExecutionMemory, execution_id: str, reason: str | None, *, compensate: bool
) -> Record:
    """Cancel at once, or ask the execution to undo its sagas and to end."""
    with memory.lock:
        record = memory.get(execution_id)
        if not record.is_active:
            raise refusal(execution_id, "cancel", record.state, ACTIVE_STATES)
        details = {} if reason is None else {"cancel_reason": reason}
        is_running = record.state is WorkflowState.RUNNING
        if compensate and (is_running or record.slots or record.open_sagas):
            record.metadata.update(details)
            if record.ending is None:
                record.to_end(Ending(WorkflowState.CANCELLED, reason or ""))
                memory.note(record, HistoryKind.END_REQUESTED, reason or "")
            if not is_running:
                record.state, record.wake_at = WorkflowState.PENDING, None
                record.waiting_for = record.waiting_since = None
            return record
        why = cancelled_because(reason or "", record.left_undone)
        memory.end(record, WorkflowState.CANCELLED, error=why or None, metadata=details)
        memory.note(record, HistoryKind.CANCELLED, why)
        return record


def undo_instead(memory: ExecutionMemory, record: Record, run_number: int, ending: Ending) -> bool:
    """Running to pending, to undo before it ends so; whether the run held it."""
    with memory.lock:
        if not memory.is_running(record, run_number):
            return False
        _undo(memory, record, ending)
        return True


def undo_expired(memory: ExecutionMemory, record: Record, ending: Ending) -> bool:
    """Active to pending, to undo its open sagas, as its deadline has passed; whether it has any."""
    with memory.lock:
        if not record.open_sagas or not memory.is_expired(record):
            return False
        _undo(memory, record, ending)
        memory.note(record, HistoryKind.DEADLINE_PASSED)
        return True


def _undo(memory: ExecutionMemory, record: Record, ending: Ending) -> None:
    record.to_end(ending)
    record.state, record.attempts = WorkflowState.PENDING, 0
    record.wake_at = record.waiting_for = record.waiting_since = None
    memory.note(record, HistoryKind.END_REQUESTED, ending.error)


def release_to_end(memory: ExecutionMemory, record: Record, run_number: int) -> bool:
    """Running to pending, if it was asked to end; whether it was, and the run held it."""
    with memory.lock:
        if record.ending is None or not memory.is_running(record, run_number):
            return False
        record.state = WorkflowState.PENDING
        return True


def end_as(
    memory: ExecutionMemory, record: Record, run_number: int, ending: Ending
) -> WorkflowState | None:
    """Running to the state that *ending* names; `None` if the run no longer held it."""
    with memory.lock:
        if not memory.end(
            record,
            ending.state,
            run_number=run_number,
            error=ending.error or None,
            traceback=ending.traceback,
        ):
            return None
        if ending.state is WorkflowState.CANCELLED:
            memory.note(record, HistoryKind.CANCELLED, ending.error)
        return ending.state
