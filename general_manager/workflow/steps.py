"""What is known of one name in an execution: a step, a wait or a sleep."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

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
    position: int = 0
    """Where it stands in the order in which the execution's outcomes were written.

    For a `once=True` step that began and did not finish: where it began.
    """
    once: bool = False
    answerable: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    label: str = ""
    """What the button said that gave the answer."""

    @property
    def is_wait(self) -> bool:
        return self.answerable

    @property
    def is_sleep(self) -> bool:
        return self.until is not None and not self.answerable

    @property
    def is_finished(self) -> bool:
        return self.status in (StepStatus.DONE, StepStatus.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class WaitSnapshot:
    """One `wait_for` of an execution, as it was at one moment."""

    name: str
    outcome: Literal["open", "answered", "timed_out"]
    is_asked: bool
    """Whether `resume` takes an answer to it now."""
    opened_at: datetime | None = None
    until: datetime | None = None
    ended_at: datetime | None = None
    answer: Any = None
    label: str = ""
    """What the button said that gave the answer."""
    subject: str = ""
    """What the event was about that started the execution, such as ``Invoice 7``."""
