"""The engine that needs nothing: executions run in the caller's thread and live in memory."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from general_manager.escaping import get_logger
from general_manager.workflow.actors import current_subject
from general_manager.workflow.aside import tell_state
from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import Clock, Record, handler_of, utc_now
from general_manager.workflow.backends.memory_repairs import (
    continue_as_fresh,
    find_executions,
    find_wait,
    preview_retry,
    time_out_early,
    wake_early,
)
from general_manager.workflow.backends.memory_steps import MemoryRunStore
from general_manager.workflow.backends.verbs import OperatorVerbs
from general_manager.workflow.checkpoints import Resolutions, RetryPreview, Wanted
from general_manager.workflow.encoding import (
    copy_encoded,
    encode,
    encode_mapping,
    error_text,
    traceback_text,
)
from general_manager.workflow.engine import (
    HistoryEntry,
    HistoryKind,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowState,
    check_start,
)
from general_manager.workflow.exceptions import ExecutionOverdue, ends_the_process
from general_manager.workflow.ids import new_id
from general_manager.workflow.rules import (
    check_cancel,
    check_resume,
    next_attempt_in,
)
from general_manager.workflow.runs import Interrupted, Run, Suspended
from general_manager.workflow.steps import WaitSnapshot

__all__ = ["LocalWorkflowEngine"]

logger = get_logger(__name__)


class LocalWorkflowEngine(OperatorVerbs):
    """Runs each execution at once, in this process, and remembers it until the process ends.

    Of finished executions the latest *max_executions* are kept; with an older one goes its
    correlation id. Nothing happens in the background: timeouts, sleeps and retries that are due
    take effect when somebody asks (`status`, `resume`, `start`), or calls `run_due`.
    *clock* returns the time, aware; tests move it.
    """

    def __init__(self, *, max_executions: int = 10_000, clock: Clock = utc_now) -> None:
        if isinstance(max_executions, bool) or not isinstance(max_executions, int):
            raise TypeError(f"max_executions must be an integer, not {max_executions!r}")
        if max_executions < 1:
            raise ValueError(f"max_executions must be 1 or more, not {max_executions}")
        self._memory = ExecutionMemory(limit=max_executions, clock=clock)

    def start(
        self,
        workflow: WorkflowDefinition,
        input_data: Mapping[str, Any] | None = None,
        *,
        correlation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> WorkflowExecution:
        check_start(workflow, correlation_id)
        record = Record(
            execution_id=new_id(),
            definition=workflow,
            input_data=encode_mapping({} if input_data is None else input_data, root="input_data"),
            correlation_id=correlation_id or None,
            metadata=encode_mapping({} if metadata is None else metadata, root="metadata"),
            subject=current_subject(),
        )
        kept = self._memory.add_once(record)
        if kept is not record:
            self._fire(kept)
        elif not self._is_over_at_once(record):
            self._tell(WorkflowState.PENDING, record)
            self._run(record)
        return self._snapshot(kept)

    def _is_over_at_once(self, record: Record) -> bool:
        """Without a handler it is completed, with one that cannot be found failed; neither runs."""
        state, error = WorkflowState.COMPLETED, None
        try:
            if handler_of(record) is not None:
                return False
        except Exception as wrong:  # noqa: BLE001 - a module that is imported raises anything
            state, error = WorkflowState.FAILED, error_text(wrong)
            logger.error(
                "Workflow %s (%s) failed: %s",
                record.definition.workflow_id, record.execution_id, error,
            )  # fmt: skip
        record.started_at = self._memory.clock()
        self._memory.end(record, state, output_data=None if error else {}, error=error)
        self._tell(state, record)
        return True

    def resume(
        self, execution_id: str, signal: Any = None, *, wait: str | None = None, label: str = ""
    ) -> WorkflowExecution:
        """Answer the open wait and run on, here and now.

        While `ask` is still sending the question, the answer is kept and the run finds it. *label*
        is what the button said that gave the answer; the page behind a link shows it.
        """
        check_resume(wait)
        answer, label = encode(signal, root="signal"), encode(label, root="label")
        record = self._memory.get(execution_id)
        asked = record.waiting_for
        self._fire(record)
        # What timed out just now must not have its answer taken for that to the next question.
        wait = asked if wait is None else wait
        record = self._memory.answer(execution_id, answer, wait, label)
        if record.wake_at is None:
            self._run(record)
        return self._snapshot(record)

    def cancel(self, execution_id: str, *, reason: str | None = None) -> WorkflowExecution:
        check_cancel(reason)
        record = self._memory.cancel(execution_id, encode(reason, root="reason"))
        self._tell(WorkflowState.CANCELLED, record)
        return self._snapshot(record)

    def status(self, execution_id: str) -> WorkflowExecution:
        record = self._memory.get(execution_id)
        self._fire(record)
        return self._snapshot(record)

    def preview_retry(
        self, execution_id: str, *, before: str | None = None, repeat_once: bool = False
    ) -> RetryPreview:
        return preview_retry(self._memory, execution_id, before, repeat_once=repeat_once)

    def time_out(self, execution_id: str, *, wait: str | None = None) -> WorkflowExecution:
        record = time_out_early(self._memory, execution_id, wait)
        if record.wake_at is None:
            self._run(record)
        return self._snapshot(record)

    def find_wait(self, execution_id: str, name: str) -> WaitSnapshot | None:
        self._fire(self._memory.get(execution_id))
        return find_wait(self._memory, execution_id, name)

    def wake(self, execution_id: str) -> WorkflowExecution:
        """End the rest between two attempts, or a sleep, now."""
        record = wake_early(self._memory, execution_id)
        self._fire(record)
        return self._snapshot(record)

    def history(self, execution_id: str) -> list[HistoryEntry]:
        """What happened to the execution out of the ordinary, in order."""
        with self._memory.lock:
            return list(self._memory.get(execution_id).history)

    def _continue(
        self, execution_id: str, resolved: Resolutions, *, before: str | None, repeat_once: bool
    ) -> WorkflowExecution:
        record = continue_as_fresh(
            self._memory, execution_id, resolved, before=before, repeat_once=repeat_once
        )
        self._tell(WorkflowState.PENDING, record)
        self._run(record)
        return self._snapshot(record)

    def executions(self) -> list[WorkflowExecution]:
        """Every execution in memory, oldest first. Timers do not fire."""
        return self._memory.snapshots()

    def _find(self, wanted: Wanted, limit: int) -> list[WorkflowExecution]:
        return find_executions(self._memory, wanted, limit)

    def latest(self, count: int) -> list[WorkflowExecution]:
        """The *count* executions that were started last, newest first. Timers do not fire."""
        return self._memory.snapshots(latest=count)

    def question(self, execution_id: str) -> str | None:
        """The name of the wait that `resume` would answer, if there is one."""
        return self._memory.get(execution_id).waiting_for

    def wakes_at(self, execution_id: str) -> datetime | None:
        """When something happens by itself: a timeout, the end of a sleep, the next attempt."""
        return self._memory.get(execution_id).wake_at

    def run_due(self) -> int:
        """Fire every timer that is due; the number of executions that ran."""
        return sum(self._fire(record) for record in self._memory.due())

    def timers(self) -> list[timedelta]:
        """How long until each timeout, end of a sleep and next attempt; negative if it is due."""
        return self._memory.timers()

    def move_timers(self, by: timedelta) -> None:
        """Have everything that is to happen later happen *by* sooner, for tests."""
        self._memory.move_timers(by)

    def _fire(self, record: Record) -> bool:
        if not self._memory.wake(record):
            return False
        self._run(record)
        return True

    def _run(self, record: Record) -> None:
        while (run_number := self._memory.begin(record)) is not None:
            try:
                self._tell(WorkflowState.RUNNING, record)
                state = self._run_once(record, run_number)
            except BaseException as error:
                # SystemExit and the like are the process's business; the execution has failed.
                if self._fail(record, run_number, error):
                    self._tell(WorkflowState.FAILED, record)
                raise
            if state is not None:
                self._tell(state, record)

    def _run_once(self, record: Record, run_number: int) -> WorkflowState | None:
        """Returns the state that the run left the execution in, or `None` if another had it."""
        store = MemoryRunStore(self._memory, record, run_number)
        run = Run(record.execution_id, store)
        began = self._memory.clock()
        try:
            with store.all_or_nothing():
                handler = handler_of(record)
                output = {}
                if handler is not None:
                    output = run.call(handler, copy_encoded(record.input_data))
                self._require_in_time(record, began)
        except BaseException as error:
            if ends_the_process(error):
                raise
            return self._settle_failure(record, run_number, error, step=run.where(error))
        if isinstance(run.stopped, Interrupted):
            return self._settle_failure(record, run_number, run.stopped.error, step=run.failed_in)
        if isinstance(run.stopped, Suspended):
            return self._memory.suspend(record, run_number, run.stopped)
        if run.stopped is None and self._memory.end(
            record, WorkflowState.COMPLETED, run_number=run_number, output_data=output
        ):
            return WorkflowState.COMPLETED
        return None

    def _require_in_time(self, record: Record, began: datetime) -> None:
        """Nothing interrupts a handler in the caller's own thread: it is late when it ends."""
        timeout = record.definition.timeout
        if timeout is not None and self._memory.clock() - began > timeout:
            self._memory.note(record, HistoryKind.OVERDUE)
            raise ExecutionOverdue(record.execution_id, timeout)

    def _settle_failure(
        self, record: Record, run_number: int, error: BaseException, *, step: str
    ) -> WorkflowState | None:
        retry = record.definition.retry
        record.attempts += 1
        policy = None if retry is None else retry.to_json()
        delay = next_attempt_in(policy, record.attempts, error)
        why = error_text(error)
        if delay is None or not self._memory.postpone(record, run_number, delay, why, step=step):
            return WorkflowState.FAILED if self._fail(record, run_number, error) else None
        logger.warning(
            "Workflow %s (%s) failed; attempt %d follows in %s",
            record.definition.workflow_id, record.execution_id, record.attempts + 1, delay,
            exc_info=error,
        )  # fmt: skip
        return WorkflowState.PENDING

    def _fail(self, record: Record, run_number: int, error: BaseException) -> bool:
        if not self._memory.end(
            record,
            WorkflowState.FAILED,
            run_number=run_number,
            error=error_text(error),
            traceback=traceback_text(error),
        ):
            return False
        logger.error(
            "Workflow %s (%s) failed",
            record.definition.workflow_id, record.execution_id, exc_info=error,
        )  # fmt: skip
        return True

    def _snapshot(self, record: Record) -> WorkflowExecution:
        with self._memory.lock:
            return record.snapshot()

    def _tell(self, state: WorkflowState, record: Record) -> None:
        tell_state(state, lambda: self._snapshot(record))
