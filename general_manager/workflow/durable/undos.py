"""What takes a step back, how patiently, and for what."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from general_manager.workflow.core.observers import notify
from general_manager.workflow.durable.errors import WorkflowCancelRequested
from general_manager.workflow.durable.options import StepOptions
from general_manager.workflow.engine import Retry, WorkflowExecution
from general_manager.workflow.exceptions import StepInDoubt, StepUsageError, ends_the_process, parts
from general_manager.workflow.signals import saga_undone

UNDO_RETRY: Final = Retry(max_attempts=32, base=10, factor=2, maximum=3600)
"""How an undo is retried by default: for about a day."""


class Undo(NamedTuple):
    """What takes a step back, by name."""

    name: str
    call: Callable[[], Any]
    options: StepOptions


def registered_late(name: str, saga: str = "") -> StepUsageError:
    of = f" of saga {saga!r}" if saga else ""
    return StepUsageError(
        f"Undo {name!r} was registered when the block{of} had been left, so nothing would call it. "
        "Register it inside the block."
    )


def may_undo(error: BaseException | None) -> bool:
    """Not for the end of the process, nor for a step in doubt, which is resolved first."""
    if error is None or isinstance(error, WorkflowCancelRequested):
        return True
    if ends_the_process(error) or not isinstance(error, Exception):
        return False
    return not any(isinstance(one, StepInDoubt) for one in parts(error))


def notify_undone(execution_id: str, workflow_id: str, saga: str, left: Sequence[str]) -> None:
    """Send `saga_undone`, after its outcome is recorded."""
    notify(
        saga_undone,
        WorkflowExecution,
        execution_id=execution_id,
        workflow_id=workflow_id,
        saga=saga,
        left=tuple(left),
    )
