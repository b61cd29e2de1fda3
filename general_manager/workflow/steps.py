"""What is known of one name in an execution: a step, a wait or a sleep."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from json import dumps
from typing import Any, Final

from general_manager.conf import get_workflow_settings, is_configured
from general_manager.workflow.exceptions import EncodingError

ASK_SUFFIX: Final = ": ask"
"""What the step that asks a wait's question is called, behind the wait's name."""


class StepStatus(StrEnum):
    BEGUN = "begun"
    """A `once=True` step was about to run."""
    OPEN = "open"
    """A wait without an outcome."""
    DONE = "done"
    """Finished: a step's result, or a wait's answer."""
    TIMED_OUT = "timed_out"
    """A wait whose outcome is that nobody answered."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What the store knows of one name: a step, a wait or a sleep."""

    name: str
    status: StepStatus
    result: Any = None
    until: datetime | None = None


def within_limit(result: Any, name: str) -> Any:
    """The encoded *result*, if it is not too large to be read again with every run."""
    most = get_workflow_settings().step_result_max_bytes if is_configured() else None
    size = len(dumps(result, ensure_ascii=False).encode()) if most is not None else 0
    if most is not None and size > most:
        raise EncodingError(
            f"the result of step {name!r}",
            f"it is {size:,} bytes of JSON, and at most {most:,} are kept "
            "(WORKFLOW_STEP_RESULT_MAX_BYTES): store it elsewhere and return where it is",
        )
    return result
