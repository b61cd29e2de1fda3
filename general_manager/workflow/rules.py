"""What every engine decides alike: pure functions, whatever stores the executions."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Final

from general_manager.workflow.engine import Retry, WorkflowState
from general_manager.workflow.exceptions import (
    PermanentFailure,
    StepInDoubt,
    WorkflowCancelledError,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    parts,
    wanted_delay,
)

EXECUTION_ID_LENGTH: Final = 36
"""Characters of an execution's id, and of the column that holds it."""


def require_execution_id(execution_id: object) -> str:
    """Raises `WorkflowExecutionNotFoundError` for what cannot be an id, before any store is asked.

    A database would refuse some of these, or find ``5`` by the text of it.
    """
    if (
        isinstance(execution_id, str)
        and 0 < len(execution_id) <= EXECUTION_ID_LENGTH
        and execution_id.isascii()
        and execution_id.isprintable()
    ):
        return str(execution_id)
    raise WorkflowExecutionNotFoundError(execution_id)


def check_resume(wait: object) -> None:
    """Raises `TypeError` for a *wait* that names no wait."""
    if wait is not None and not isinstance(wait, str):
        raise TypeError(f"wait must be the name of a wait or None, not {wait!r}")


def check_cancel(reason: object) -> None:
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


def not_this_wait(asked: str, answered: str) -> str:
    """Why an answer to the wait *answered* is refused while *asked* is open."""
    return f"It waits for {asked!r}, and the answer is for {answered!r}."


SLEEPS: Final = "It is sleeping; no wait is open."
"""Why an answer is refused while nothing is asked."""


def next_attempt_in(
    policy: Mapping[str, Any] | None, failed: int, error: BaseException
) -> timedelta | None:
    """How long until the next attempt, or `None` if there is none.

    *policy* is what `Retry.to_json` made of the workflow's, so that a deploy does not change it for
    executions under way. *failed* counts the attempts that failed since the last step that
    completed, this one included. In an exception group, each part may end the attempts, and the
    longest wait that is asked for counts.
    """
    found = list(parts(error))
    if policy is None or any(isinstance(one, PermanentFailure | StepInDoubt) for one in found):
        return None
    classes = {kind for one in found for kind in type(one).__mro__}
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in classes}
    if kinds & set(policy["stop_on"]) or failed >= policy["max_attempts"]:
        return None
    asked = wanted_delay(error)
    if asked is not None:
        return asked
    return Retry(**{**policy, "stop_on": ()}).delay(failed)
