"""What takes a step back, how patiently, and for what."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from general_manager.workflow.durable.errors import WorkflowCancelRequested
from general_manager.workflow.durable.options import StepOptions
from general_manager.workflow.engine import Retry
from general_manager.workflow.exceptions import StepInDoubt, ends_the_process, parts

UNDO_RETRY: Final = Retry(max_attempts=32, base=10, factor=2, maximum=3600)
"""How an undo is retried by default: for about a day."""


class Undo(NamedTuple):
    """What takes a step back, by name."""

    name: str
    call: Callable[[], Any]
    options: StepOptions


def may_undo(error: BaseException | None) -> bool:
    """Not for the end of the process, nor for a step in doubt, which is resolved first."""
    if error is None or isinstance(error, WorkflowCancelRequested):
        return True
    if ends_the_process(error) or not isinstance(error, Exception):
        return False
    return not any(isinstance(one, StepInDoubt) for one in parts(error))
