"""Runs executions in memory, in the caller's thread, one after the other."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from general_manager.durations import in_words
from general_manager.escaping import get_logger
from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_answers import settle
from general_manager.workflow.backends.memory_chains import renew
from general_manager.workflow.backends.memory_children import suspend
from general_manager.workflow.backends.memory_family import attend, emit, follow, run_line, soon
from general_manager.workflow.backends.memory_records import Record, handler_of
from general_manager.workflow.backends.memory_sagas import (
    end_as,
    release_to_end,
    undo_expired,
    undo_instead,
)
from general_manager.workflow.backends.memory_steps import MemoryRunStore
from general_manager.workflow.core.encoding import copy_encoded, error_text, traceback_text
from general_manager.workflow.core.observers import notify_state
from general_manager.workflow.durable.ending import DeadlinePassed, Ending
from general_manager.workflow.durable.errors import CompensationIncomplete
from general_manager.workflow.durable.options import next_attempt_in
from general_manager.workflow.durable.renewal import ContinuedAsNew
from general_manager.workflow.durable.run import Run
from general_manager.workflow.durable.stops import (
    Ended,
    Interrupted,
    Retrying,
    RunAgain,
    Suspended,
    WaitsForChildren,
)
from general_manager.workflow.engine import TERMINAL_STATES, WorkflowExecution, WorkflowState
from general_manager.workflow.exceptions import (
    ExecutionOverdue,
    StepInDoubt,
    ends_the_process,
    parts,
)
from general_manager.workflow.history import HistoryKind

logger = get_logger(__name__)


class MemoryRuns:
    """Runs the executions in *memory*."""

    def __init__(self, memory: ExecutionMemory) -> None:
        self.memory = memory

    def run(self, record: Record) -> None:
        """Run the execution, those as which it continues, and then what this has caused."""
        run_line(lambda: self.run_with_renewals(record))

    def run_with_renewals(self, record: Record) -> None:
        """Run the execution, those as which it continues, and those that wait for its slot.

        What else this causes comes later.
        """
        following: Record | None = record
        while following is not None:
            self._run_on(following)
            following = following.renewal or self.memory.next_in_line(following)

    def look(self, record: Record) -> None:
        """Continue the execution if an event answers its open wait."""
        if settle(self.memory, record) and record.wake_at is None:
            self.run(record)

    def _run_on(self, record: Record) -> None:
        while True:
            self.expire(record)
            run_number = self.memory.begin(record)
            if run_number is None:
                break
            try:
                self.notify(WorkflowState.RUNNING, record)
                state = self._run_once(record, run_number)
            except BaseException as error:
                # SystemExit and the like end the process; the execution has failed.
                if self._fail(record, run_number, error):
                    self.notify(WorkflowState.FAILED, record)
                raise
            finally:
                self.memory.run_is_over(record)
            if state is not None:
                self.notify(state, record)

    def _run_once(self, record: Record, run_number: int) -> WorkflowState | None:
        """Returns the new state, or `None` if this run no longer holds the execution."""
        store = MemoryRunStore(self.memory, record, run_number, self.look)
        store.follow = partial(follow, self)
        run = Run(record.execution_id, store)
        began = self.memory.clock()
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
            outcomes = run.outcomes
            return self._settle_failure(
                record,
                run_number,
                outcomes.origin(error),
                step=outcomes.where(error),
                is_final=outcomes.is_final(error),
            )
        return self._settle(record, run_number, run, output)

    def _settle(
        self, record: Record, run_number: int, run: Run, output: dict[str, Any]
    ) -> WorkflowState | None:
        stopped = run.stopped
        state = None
        if isinstance(stopped, Interrupted):
            step = run.outcomes.failed_in
            state = self._settle_failure(record, run_number, stopped.error, step=step)
        elif isinstance(stopped, Retrying):
            state = WorkflowState.PENDING
        elif isinstance(stopped, Suspended):
            state = self.memory.suspend(record, run_number, stopped)
        elif isinstance(stopped, WaitsForChildren):
            state = suspend(self.memory, record, run_number, stopped.name)
        elif isinstance(stopped, Ended):
            state = end_as(self.memory, record, run_number, stopped.ending)
        elif isinstance(stopped, RunAgain) or (
            isinstance(stopped, ContinuedAsNew | None) and record.ending is not None
        ):
            is_ready = release_to_end(self.memory, record, run_number)
            state = WorkflowState.PENDING if is_ready else None
        elif isinstance(stopped, ContinuedAsNew):
            self._renew(record, run_number, stopped.input_data, run.closings)
        elif stopped is None and self._complete(record, run_number, output, run.closings):
            state = WorkflowState.COMPLETED
        return state

    def _complete(
        self,
        record: Record,
        run_number: int,
        output: dict[str, Any],
        closings: Sequence[Callable[[], None]],
    ) -> bool:
        with self.memory.lock:
            if not self.memory.is_running(record, run_number):
                return False
            for close in closings:
                close()
            return self.memory.end(
                record, WorkflowState.COMPLETED, run_number=run_number, output_data=output
            )

    def _renew(
        self,
        record: Record,
        run_number: int,
        input_data: dict[str, Any],
        closings: Sequence[Callable[[], None]],
    ) -> None:
        new = renew(self.memory, record, run_number, input_data, closings)
        if new is not None:
            # It is not over: no event says so.
            notify_state(WorkflowState.COMPLETED, lambda: self.snapshot(record))
            self.notify(WorkflowState.PENDING, new)

    def _require_in_time(self, record: Record, began: datetime) -> None:
        """Checked at the end: nothing can interrupt a handler in the caller's own thread."""
        timeout = record.definition.timeout
        if timeout is not None and self.memory.clock() - began > timeout:
            self.memory.note(record, HistoryKind.OVERDUE)
            raise ExecutionOverdue(record.execution_id, timeout)

    def _settle_failure(
        self,
        record: Record,
        run_number: int,
        error: BaseException,
        *,
        step: str,
        is_final: bool = False,
    ) -> WorkflowState | None:
        retry = record.definition.retry
        record.attempts += 1
        policy = None if retry is None or is_final else retry.to_json()
        delay = next_attempt_in(policy, record.attempts, error)
        why = error_text(error)
        if delay is None or not self.memory.postpone(record, run_number, delay, why, step=step):
            return self._undo_or_fail(record, run_number, error)
        logger.warning(
            "Workflow %s (%s) failed (attempt %d); retrying in %s",
            record.definition.workflow_id, record.execution_id, record.attempts, in_words(delay),
            exc_info=error,
        )  # fmt: skip
        return WorkflowState.PENDING

    def _undo_or_fail(
        self, record: Record, run_number: int, error: BaseException
    ) -> WorkflowState | None:
        """Pending, to undo open sagas before it fails; or failed. A step in doubt comes first."""
        ending, sagas = record.ending, record.open_sagas
        in_doubt = any(isinstance(one, StepInDoubt) for one in parts(error))
        if sagas and ending is None and not in_doubt:
            cause = Ending(WorkflowState.FAILED, error_text(error), traceback_text(error))
            is_ready = undo_instead(self.memory, record, run_number, cause)
            return WorkflowState.PENDING if is_ready else None
        if ending is not None and not in_doubt and not isinstance(error, CompensationIncomplete):
            if not sagas:
                return end_as(self.memory, record, run_number, ending)
            incomplete = CompensationIncomplete(record.left_undone or sagas, ending.error)
            incomplete.__cause__, error = error, incomplete
        return WorkflowState.FAILED if self._fail(record, run_number, error) else None

    def _fail(self, record: Record, run_number: int, error: BaseException) -> bool:
        if not self.memory.end(
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

    def expire(self, record: Record) -> bool:
        """Fail the execution if its deadline has passed, or have it undo its open sagas first.

        A run in progress is fenced from then.
        """
        lifetime = record.definition.deadline
        if lifetime is None or not self.memory.is_expired(record):
            return False
        error = DeadlinePassed(record.execution_id, lifetime)
        why, trace = error_text(error), traceback_text(error)
        cause = Ending(WorkflowState.FAILED, why, trace)
        if undo_expired(self.memory, record, cause):
            logger.error("%s It undoes what it did.", error)
            self.notify(WorkflowState.PENDING, record)
            return True
        if not self.memory.end(record, WorkflowState.FAILED, error=why, traceback=trace):
            return False
        self.memory.note(record, HistoryKind.DEADLINE_PASSED)
        logger.error("%s", error)
        self.notify(WorkflowState.FAILED, record)
        return True

    def fire(self, record: Record) -> bool:
        """Run the execution if its timer is due, or end it if its deadline has passed.

        Also if somebody in its line may run, because a rate lets another one start.
        """
        if self.expire(record):
            self.run(record)  # if it is to undo
            return True
        if not self.memory.wake(record) and self.memory.next_in_line(record) is None:
            return False
        self.run(record)
        return True

    def snapshot(self, record: Record) -> WorkflowExecution:
        with self.memory.lock:
            return record.snapshot()

    def latest(self, record: Record) -> WorkflowExecution:
        """The execution, or the newest one as which it continued meanwhile."""
        with self.memory.lock:
            renewed = record.renewal is not None
            newest = self.memory.newest_of(record) if renewed else record
            return newest.snapshot(with_children=True)

    def notify(self, state: WorkflowState, record: Record) -> None:
        """Report a new state to observers, and an end to those who registered for its event."""
        notify_state(state, lambda: self.snapshot(record))
        if state in TERMINAL_STATES:
            soon(partial(attend, self, record))
        emit(state, record, self.memory.clock())
