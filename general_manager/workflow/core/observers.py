"""Sends signals to observers; a failing receiver affects nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.dispatch import Signal

from general_manager.escaping import get_logger
from general_manager.workflow.core.isolation import called_aside
from general_manager.workflow.exceptions import ends_the_process
from general_manager.workflow.signals import execution_changed

logger = get_logger(__name__)


def notify(signal: Signal, sender: type, **details: Any) -> None:
    """Send *signal* to its receivers; an error in one is only logged."""
    if not signal.receivers:
        return
    try:
        with called_aside(f"A receiver of a signal from {sender.__qualname__}"):
            signal.send_robust(sender, **details)
    except BaseException as error:
        if ends_the_process(error):
            raise
        logger.exception("Receivers of a signal from %s could not be called", sender.__qualname__)


def notify_state(state: str, read: Callable[[], Any]) -> None:
    """Send `execution_changed`: an execution entered *state*. Used by every engine.

    *read* returns the current `WorkflowExecution`. It is called only if there are receivers; its
    errors are logged. Another worker may have changed the state since: receivers get *state*.
    """
    if not execution_changed.receivers:
        return
    try:
        with called_aside(f"A receiver of execution_changed ({state})"):
            execution = replace(read(), state=state)
            execution_changed.send_robust(type(execution), execution=execution)
    except BaseException as error:
        if ends_the_process(error):
            raise
        logger.exception("Receivers of execution_changed (%s) could not be called", state)
