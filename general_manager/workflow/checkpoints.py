"""What a fresh execution keeps of the failed one that it continues, whatever stores the steps."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from general_manager.workflow.steps import ASK_SUFFIX, StepRecord, StepStatus

Resolutions = Mapping[str, tuple[bool, Any]]
"""Steps in doubt by name: whether it happened, and its encoded result if it did."""


class NotContinuableError(Exception):
    """Says in a sentence why nothing can go on from these steps."""


def kept_steps(steps: Iterable[StepRecord], resolved: Resolutions) -> list[StepRecord]:
    """The finished ones. A step in doubt must be resolved; one that did not happen runs again.

    An open wait is asked again, because what was sent out names the failed execution.
    """
    steps = list(steps)
    doubtful = {step.name for step in steps if step.status is StepStatus.BEGUN}
    for name in sorted(resolved.keys() - doubtful):
        raise NotContinuableError(f"Step {name!r} is not in doubt.")
    for name in sorted(doubtful - resolved.keys()):
        raise NotContinuableError(
            f"Step {name!r} began and did not finish, so its effect may have happened: "
            "find out, and say so with resolve_step()."
        )
    asked_again = {f"{step.name}{ASK_SUFFIX}" for step in steps if step.status is StepStatus.OPEN}
    finished = (StepStatus.DONE, StepStatus.TIMED_OUT)
    kept = [step for step in steps if step.status in finished and step.name not in asked_again]
    kept += [
        replace(step, status=StepStatus.DONE, result=resolved[step.name][1])
        for step in steps
        if step.name in resolved and resolved[step.name][0]
    ]
    return kept


def verdict_on(name: str, resolved: Resolutions) -> str:
    """What an operator said of a step, as the history tells it."""
    return f"{name}: {'it happened' if resolved[name][0] else 'it did not happen'}"
