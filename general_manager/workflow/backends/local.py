"""The engine that needs nothing: executions run in the caller's thread and live in memory."""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from general_manager.workflow.aside import tell
from general_manager.workflow.backends.memory import (
    Clock,
    ExecutionMemory,
    Record,
    utc_now,
)
from general_manager.workflow.backends.memory_repairs import continue_failed, wake_early
from general_manager.workflow.backends.memory_steps import MemoryRunStore
from general_manager.workflow.encoding import (
    copy_encoded,
    encode,
    encode_mapping,
    error_text,
    traceback_text,
)
from general_manager.workflow.engine import (
    LONGEST_REST,
    HistoryEntry,
    HistoryKind,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowHandler,
    WorkflowState,
    check_start,
)
from general_manager.workflow.exceptions import (
    ExecutionOverdue,
    PermanentFailure,
    RetryAfter,
    StepInDoubt,
)
from general_manager.workflow.handler_modules import resolve_handler
from general_manager.workflow.ids import new_id
from general_manager.workflow.runs import Run, Suspended
from general_manager.workflow.signals import execution_changed

__all__ = ["LocalWorkflowEngine"]

logger = logging.getLogger(__name__)


class LocalWorkflowEngine:
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
        )
        kept = self._memory.add_once(record)
        if kept is record:
            self._tell(record)
            self._run(record)
        else:
            self._fire(kept)
        return self._snapshot(kept)

    def resume(
        self, execution_id: str, signal: Any = None, *, wait: str | None = None
    ) -> WorkflowExecution:
        """Answer the open wait and run on, here and now.

        While `ask` is still sending the question, the answer is kept and the run finds it.
        """
        answer = encode(signal, root="signal")
        record = self._memory.get(execution_id)
        asked = record.waiting_for
        self._fire(record)
        # What timed out just now must not have its answer taken for that to the next question.
        record = self._memory.answer(execution_id, answer, asked if wait is None else wait)
        if record.wake_at is None:
            self._run(record)
        return self._snapshot(record)

    def cancel(self, execution_id: str, *, reason: str | None = None) -> WorkflowExecution:
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"reason must be text, not {reason!r}")
        record = self._memory.cancel(execution_id, encode(reason, root="reason"))
        self._tell(record)
        return self._snapshot(record)

    def status(self, execution_id: str) -> WorkflowExecution:
        record = self._memory.get(execution_id)
        self._fire(record)
        return self._snapshot(record)

    def retry_from_checkpoint(self, execution_id: str) -> WorkflowExecution:
        """Continue a failed execution as a fresh one, which has its finished steps.

        The failed one stays as it is. Raises `WorkflowInvalidStateError` if it is not failed, was
        continued before, has a step in doubt, or if its correlation id is taken by now.
        """
        return self._continued(continue_failed(self._memory, execution_id, {}))

    def resolve_step(
        self, execution_id: str, step: str, *, happened: bool, result: Any = None
    ) -> WorkflowExecution:
        """Say what became of a `once=True` step in doubt, and continue like
        `retry_from_checkpoint`: with *result* for its result if it *happened*, else it runs again.
        """
        verdict = (bool(happened), encode(result, root="result"))
        return self._continued(continue_failed(self._memory, execution_id, {step: verdict}))

    def wake(self, execution_id: str) -> WorkflowExecution:
        """End the rest between two attempts, or a sleep, now."""
        record = wake_early(self._memory, execution_id)
        self._fire(record)
        return self._snapshot(record)

    def history(self, execution_id: str) -> list[HistoryEntry]:
        """What happened to the execution out of the ordinary, in order."""
        record = self._memory.get(execution_id)
        with self._memory.lock:
            return list(record.history)

    def _continued(self, record: Record) -> WorkflowExecution:
        self._tell(record)
        self._run(record)
        return self._snapshot(record)

    def executions(self) -> list[WorkflowExecution]:
        """Every execution in memory, oldest first. Timers do not fire."""
        return self._memory.snapshots()

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

    def _fire(self, record: Record) -> bool:
        if not self._memory.wake(record):
            return False
        self._run(record)
        return True

    def _run(self, record: Record) -> None:
        while (run_number := self._memory.begin(record)) is not None:
            try:
                self._tell(record)
                self._run_once(record, run_number)
            except BaseException as error:
                # SystemExit and the like are the process's business; the execution has failed.
                self._fail(record, run_number, error)
                raise
            finally:
                self._tell(record)

    def _run_once(self, record: Record, run_number: int) -> None:
        store = MemoryRunStore(self._memory, record, run_number)
        run = Run(record.execution_id, store)
        began = self._memory.clock()
        try:
            with store.all_or_nothing():
                handler = _handler_of(record)
                output = {}
                if handler is not None:
                    output = run.call(handler, copy_encoded(record.input_data))
                self._require_in_time(record, began)
        except Exception as error:  # noqa: BLE001 - kept: it becomes the execution's failure
            self._settle_failure(record, run_number, error)
            return
        if isinstance(run.stopped, Suspended):
            self._memory.suspend(record, run_number, run.stopped)
        elif run.stopped is None:
            self._memory.end(
                record, WorkflowState.COMPLETED, run_number=run_number, output_data=output
            )

    def _require_in_time(self, record: Record, began: datetime) -> None:
        """Nothing interrupts a handler in the caller's own thread: it is late when it ends."""
        timeout = record.definition.timeout
        if timeout is not None and self._memory.clock() - began > timeout:
            self._memory.note(record, HistoryKind.OVERDUE)
            raise ExecutionOverdue(record.execution_id, timeout)

    def _settle_failure(self, record: Record, run_number: int, error: Exception) -> None:
        delay = self._rest(record, error)
        why = error_text(error)
        if delay is None or not self._memory.postpone(record, run_number, delay, why):
            self._fail(record, run_number, error)
            return
        logger.warning(
            "Workflow %s (%s) failed; attempt %d follows in %s",
            record.definition.workflow_id, record.execution_id, record.attempts + 1, delay,
            exc_info=error,
        )  # fmt: skip

    def _rest(self, record: Record, error: Exception) -> timedelta | None:
        """How long until the next attempt, or `None` if there is none."""
        retry = record.definition.retry
        record.attempts += 1
        if retry is None or record.attempts >= retry.max_attempts:
            return None
        if isinstance(error, (PermanentFailure, StepInDoubt, *retry.stop_on)):
            return None
        if isinstance(error, RetryAfter):
            return timedelta(seconds=min(error.seconds, LONGEST_REST.total_seconds()))
        return retry.delay(record.attempts)

    def _fail(self, record: Record, run_number: int, error: BaseException) -> None:
        if self._memory.end(
            record,
            WorkflowState.FAILED,
            run_number=run_number,
            error=error_text(error),
            metadata={"traceback": traceback_text(error)},
        ):
            logger.error(
                "Workflow %s (%s) failed",
                record.definition.workflow_id, record.execution_id, exc_info=error,
            )  # fmt: skip

    def _snapshot(self, record: Record) -> WorkflowExecution:
        with self._memory.lock:
            return record.snapshot()

    def _tell(self, record: Record) -> None:
        tell(execution_changed, type(self), execution=self._snapshot(record))


def _handler_of(record: Record) -> WorkflowHandler | None:
    if record.definition.handler is not None:
        return record.definition.handler
    path = record.definition.metadata.get("handler_path")
    if path is None:
        return None
    handler = resolve_handler(str(path))
    if not callable(handler):
        raise PermanentFailure(f'metadata["handler_path"] names {path!r}, which is not callable')
    return cast(WorkflowHandler, handler)
