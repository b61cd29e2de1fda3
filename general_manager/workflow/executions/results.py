"""Wait for an execution's result in the caller's thread: polls with growing pauses."""

from collections.abc import Callable
from datetime import timedelta
from time import monotonic, sleep
from typing import Any, Final

from general_manager.workflow.engine import (
    TERMINAL_STATES,
    WorkflowExecution,
    WorkflowState,
)
from general_manager.workflow.exceptions import WorkflowError
from general_manager.workflow.executions.rules import refusal

__all__ = ["CannotWaitError", "ResultTimeout", "WorkflowFailedError"]

FIRST_PAUSE: Final = 0.01
HOLDS_A_WORKER: Final = (
    "a workflow's handler runs here, and would hold its worker. Register a handler for the end of "
    "the other execution, or wait_for() its answer."
)
IN_A_TRANSACTION: Final = (
    "a transaction is open here, and the execution may not run before its commit. Ask after it."
)
LONGEST_PAUSE: Final = 1.0
"""Seconds between two questions: the first answers come soon, and long waits cost little."""


class WorkflowFailedError(WorkflowError):
    """Raised by `result`: the execution failed; *error* is the text of its failure."""

    def __init__(self, execution_id: str, workflow_id: str, error: str) -> None:
        super().__init__(execution_id, workflow_id, error)
        self.execution_id = execution_id
        self.workflow_id = workflow_id
        self.error = error

    def __str__(self) -> str:
        return f"Workflow {self.workflow_id} ({self.execution_id}) failed: {self.error}"


class ResultTimeout(WorkflowError, TimeoutError):
    """Raised by `result`: the execution is not over after *timeout* seconds."""

    def __init__(self, execution_id: str, state: str, timeout: float) -> None:
        super().__init__(execution_id, state, timeout)
        self.execution_id = execution_id
        self.state = state
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"Workflow execution {self.execution_id} has no result after {self.timeout:g} s: "
            f"it is {self.state}."
        )


class CannotWaitError(WorkflowError):
    """Raised by `result` where waiting could not end, or would hold a worker; *reason* says why."""

    def __init__(self, execution_id: str, state: str, reason: str) -> None:
        super().__init__(execution_id, state, reason)
        self.execution_id = execution_id
        self.state = state
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"Cannot wait for the result of workflow execution {self.execution_id}, which is "
            f"{self.state}: {self.reason}"
        )


def seconds_of(timeout: object) -> float | None:
    """The *timeout* of `result` in seconds. Raises `TypeError` or `ValueError`."""
    if timeout is None:
        return None
    if isinstance(timeout, timedelta):
        timeout = timeout.total_seconds()
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a timedelta, seconds or None, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be 0 or more, not {timeout!r}")
    return float(timeout)


def result_of(execution: WorkflowExecution) -> dict[str, Any]:
    """The output of an execution that is over; raises the error that says how it ended."""
    if execution.state is WorkflowState.FAILED:
        raise WorkflowFailedError(
            execution.execution_id, execution.workflow_id, execution.error or ""
        )
    if execution.state is WorkflowState.CANCELLED:
        detail = f"Its reason: {execution.error}" if execution.error else ""
        done = (WorkflowState.COMPLETED,)
        raise refusal(execution.execution_id, "read the result of", execution.state, done, detail)
    return execution.output_data or {}


class Waiting:
    """One caller's wait for an execution: when to ask again, and when to give up."""

    def __init__(self, timeout: float | None) -> None:
        self.pause = 0.0
        """Seconds until the next question."""
        self._timeout = timeout
        self._began = monotonic()
        self._next = FIRST_PAUSE

    def look(
        self,
        execution_id: str,
        look: Callable[[str], WorkflowExecution],
        why_not: Callable[[], str],
    ) -> dict[str, Any] | None:
        """The output, or `None` to ask again after `pause`. Raises the errors of `result`.

        *why_not* says why waiting here could not end.
        """
        execution = look(execution_id)
        if execution.state in TERMINAL_STATES:
            return result_of(execution)
        timeout = self._timeout
        left = LONGEST_PAUSE if timeout is None else self._began + timeout - monotonic()
        if left <= 0 and timeout is not None:
            raise ResultTimeout(execution.execution_id, execution.state, timeout)
        if reason := why_not():
            raise CannotWaitError(execution.execution_id, execution.state, reason)
        self.pause = min(self._next, left)
        self._next = min(LONGEST_PAUSE, self._next * 1.5)
        return None


def wait_for_result(
    execution_id: str,
    look: Callable[[str], WorkflowExecution],
    *,
    timeout: float | None,
    why_not: Callable[[], str],
) -> dict[str, Any]:
    """Call *look* until the execution is over."""
    waiting = Waiting(timeout)
    while (output := waiting.look(execution_id, look, why_not)) is None:
        sleep(waiting.pause)
    return output
