"""User code that is called on the side, and must not touch what surrounds it."""

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from django.dispatch import Signal

from general_manager.escaping import get_logger
from general_manager.workflow.engine import WorkflowExecution, WorkflowState
from general_manager.workflow.exceptions import ends_the_process
from general_manager.workflow.runs import enter_run, leave_run
from general_manager.workflow.signals import execution_changed
from general_manager.workflow.transactions import caller_savepoints

logger = get_logger(__name__)


class aside:  # noqa: N801 - used as a function is, and too often for a generator's cost
    """Steps taken inside belong to no running workflow.

    *atomic*: what raises inside undoes its own writes and leaves the caller's transaction usable.
    """

    __slots__ = ("_atomic", "_run", "_savepoints")

    def __init__(self, *, atomic: bool = True) -> None:
        self._atomic = atomic

    def __enter__(self) -> None:
        self._run = enter_run(None)
        self._savepoints = caller_savepoints() if self._atomic else None
        if self._savepoints is not None:
            self._savepoints.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._savepoints is not None:
                self._savepoints.__exit__(kind, error, trace)
        finally:
            leave_run(self._run)


def tell(signal: Signal, sender: type, **details: Any) -> None:
    """Send *signal* to observers, whose troubles are theirs alone."""
    if not signal.receivers:
        return
    try:
        with aside():
            signal.send_robust(sender, **details)
    except BaseException as error:
        if ends_the_process(error):
            raise
        logger.exception("Observers of %s could not be told", sender.__qualname__)


def tell_state(state: WorkflowState, read: Callable[[], WorkflowExecution]) -> None:
    """Tell observers that an execution entered *state*: every engine does it here.

    *read* returns the execution as it now is. Only called if anybody listens; what it raises is
    logged. By then another worker may have moved the execution on: observers get *state*.
    """
    if not execution_changed.receivers:
        return
    try:
        with aside():
            execution = replace(read(), state=state)
            execution_changed.send_robust(WorkflowExecution, execution=execution)
    except Exception:
        logger.exception("Observers could not be told that an execution is %s", state)
