"""Decisions that are the same on every engine: what a verb refuses, and why. Pure functions."""

from collections.abc import Collection
from typing import Final

from general_manager.workflow.core.ids import require_id
from general_manager.workflow.durable.continuation import CONTINUABLE
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.exceptions import (
    WorkflowCancelledError,
    WorkflowInvalidStateError,
    WorkflowWaitMismatchError,
)


def check_resume(wait: object) -> None:
    """Raises `TypeError` unless *wait* is a name or `None`."""
    if wait is not None and not isinstance(wait, str):
        raise TypeError(f"wait must be the name of a wait or None, not {wait!r}")


def check_target(verb: str, execution_id: object, workflow: object, correlation_id: object) -> None:
    """Raises `TypeError` unless there is an id, or both *workflow* and *correlation_id*."""
    by_key = workflow is not None and correlation_id is not None
    if by_key == (execution_id is not None) or (workflow is None) != (correlation_id is None):
        raise TypeError(
            f"{verb}() takes an execution_id, or both workflow= and correlation_id=, "
            f"not {execution_id!r}, {workflow!r} and {correlation_id!r}"
        )
    if by_key:
        require_id("workflow", getattr(workflow, "workflow_id", workflow))
        require_id("correlation_id", correlation_id)


def check_cancel(reason: object, *, compensate: object) -> None:
    if not isinstance(compensate, bool):
        raise TypeError(f"compensate must be True or False, not {compensate!r}")
    if reason is not None and not isinstance(reason, str):
        raise TypeError(f"reason must be text or None, not {reason!r}")


def check_resolution(step: object, happened: object) -> None:
    if not isinstance(step, str):
        raise TypeError(f"step must be the name of a step, not {step!r}")
    if not isinstance(happened, bool):
        raise TypeError(f"happened must be True or False, not {happened!r}")


def refusal(
    execution_id: str, verb: str, state: str, allowed: Collection[str], detail: str = ""
) -> WorkflowInvalidStateError:
    """The error for a *verb* that the execution's *state* does not allow."""
    is_cancelled = state == WorkflowState.CANCELLED
    kind = WorkflowCancelledError if is_cancelled else WorkflowInvalidStateError
    return kind(execution_id, verb, state, tuple(allowed), detail)


SLEEPING: Final = "It is sleeping; no wait is open."
"""Why an answer is refused during a sleep."""
GATHERING: Final = "It is waiting for its children; no wait is open."
"""Why an answer is refused meanwhile."""


def open_wait(
    execution_id: str,
    verb: str,
    state: str,
    asked: str | None,
    wanted: str | None,
    *,
    children: bool = False,
) -> str:
    """The name of the open wait, for *verb*: an answer or a timeout. *children*: it waits for them.

    Raises `WorkflowInvalidStateError` if no wait is open (*asked* is `None`), and
    `WorkflowWaitMismatchError` if the caller *wanted* another one.
    """
    if asked is None or state not in ACTIVE_STATES:
        why = GATHERING if children else SLEEPING
        detail = why if state == WorkflowState.WAITING else ""
        raise refusal(execution_id, verb, state, (WorkflowState.WAITING,), detail)
    if wanted is not None and wanted != asked:
        detail = f"It is waiting for {asked!r}, not for {wanted!r}."
        raise WorkflowWaitMismatchError(execution_id, verb, state, (state,), detail)
    return asked


def too_late(execution_id: str, verb: str, state: str, name: str) -> WorkflowInvalidStateError:
    """The error for an answer or a timeout that comes after the wait's outcome."""
    return refusal(execution_id, verb, state, (state,), f"The wait for {name!r} has ended.")


def refuse_to_continue(execution_id: str, state: str, why: str) -> WorkflowInvalidStateError:
    """The error for `retry_from_checkpoint`, with *why* unless the state explains it."""
    detail = why if state in CONTINUABLE else ""
    return refusal(execution_id, "continue", state, CONTINUABLE, detail)


def refuse_to_wake(execution_id: str, state: str, why: str) -> WorkflowInvalidStateError:
    allowed = (WorkflowState.PENDING, WorkflowState.WAITING)
    return refusal(execution_id, "wake", state, allowed, why)


NOT_DELAYED: Final = "It is not sleeping or waiting for a retry."


def why_not_woken(
    state: str, waiting_for: str | None, *, is_delayed: bool, children: bool = False
) -> str:
    """Why there is no delay or sleep to end, or empty.

    *is_delayed*: pending, and not ready before a time. *children*: it waits for children.
    """
    if state == WorkflowState.WAITING and children:
        return "It is waiting for its children: cancel those that should not go on."
    if state == WorkflowState.WAITING and waiting_for is not None:
        return f"It is waiting for {waiting_for!r}: answer that wait, or time it out."
    is_asleep = state == WorkflowState.WAITING
    return "" if is_asleep or (is_delayed and state == WorkflowState.PENDING) else NOT_DELAYED


def cancelled_because(reason: str, left: Collection[str]) -> str:
    """The error of a cancelled execution whose undoing was stopped, with what is *left* of it."""
    if not left:
        return reason
    names = ", ".join(map(repr, left))
    return f"{reason}\nNot undone: {names}." if reason else f"Not undone: {names}."
