"""The options of a step, and the next attempt of what failed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from general_manager.workflow.engine import LONGEST_DELAY, Retry
from general_manager.workflow.exceptions import (
    PermanentFailure,
    StepInDoubt,
    StepUsageError,
    parts,
    wanted_delay,
)


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How a step is run; the arguments of `step`."""

    once: bool = False
    atomic: bool = True
    retry: Retry | None = None
    timeout: timedelta | None = None

    @property
    def has_budget(self) -> bool:
        """Whether the step counts its attempts itself, and its last failure is final."""
        return self.retry is not None or self.timeout is not None

    @property
    def policy(self) -> Mapping[str, Any] | None:
        return None if self.retry is None else self.retry.to_json()


PLAIN_STEP = StepOptions()


def checked(name: str, options: StepOptions) -> StepOptions:
    """*options*, if they are of the right types and go together.

    Raises `TypeError` or `ValueError`, and `StepUsageError` for ``once=True`` with a budget.
    """
    retry, timeout = options.retry, options.timeout
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(_meant_for_the_function(name, "retry", "a Retry", retry))
    if timeout is not None:
        if not isinstance(timeout, timedelta):
            raise TypeError(_meant_for_the_function(name, "timeout", "a timedelta", timeout))
        if not timedelta(0) < timeout <= LONGEST_DELAY:
            raise ValueError(
                f"timeout of step {name!r} must be longer than 0 and at most a year, "
                f"not {timeout!r}"
            )
    if options.once and options.has_budget:
        raise StepUsageError(
            f"Step {name!r} is marked once=True, so it has one attempt and no second one: "
            "leave out retry= and timeout=."
        )
    return options


def _meant_for_the_function(name: str, argument: str, kind: str, value: object) -> str:
    return (
        f"{argument} of step {name!r} must be {kind} or None, not {value!r}. To give the function "
        f"an argument of that name, use functools.partial: "
        f"step({name!r}, partial(function, {argument}=...))."
    )


def is_over_at_once(timeout: timedelta | None) -> bool:
    return timeout is not None and timeout <= timedelta(0)


def next_attempt_in(
    policy: Mapping[str, Any] | None, failed: int, error: BaseException
) -> timedelta | None:
    """How long until the next attempt, or `None` if there is none.

    *policy* comes from `Retry.to_json`; that of an execution is stored at its start, so a deploy
    does not change it for active executions. *failed* counts the attempts that failed, including
    this one: of a step with its own budget, or of the execution since its last completed step. In
    an exception group, each part may end the attempts, and the longest requested delay applies.
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
