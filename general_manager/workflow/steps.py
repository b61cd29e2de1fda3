"""What is known of one name in an execution: a step, a wait or a sleep."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from json import dumps
from typing import Any, Final, Literal, Protocol

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


class RunStore(Protocol):
    """Where one run keeps what it must not forget.

    Every write raises `StopRun` instead, if the execution is no longer this run's to write:
    cancelled, or taken over by another worker.
    """

    using: str | None
    """The database that steps write to; `None` where there is none."""

    def load(self) -> dict[str, StepRecord]:
        """All that earlier runs of the execution recorded, by name."""
        ...

    def check(self) -> None:
        """Nothing, while the run may go on, as far as is known here without great cost."""
        ...

    def transaction(self) -> AbstractContextManager[object]:
        """What a step's own writes and its checkpoint share, and the question of ownership."""
        ...

    def was_undone_by_the_database(self, error: BaseException) -> bool:
        """Whether *error*, which came out of `transaction`, is a lost connection or a conflict."""
        ...

    def begin(self, name: str) -> None:
        """Record, durably and before the step runs, that a `once=True` step will."""
        ...

    def finish(self, name: str, result: Any) -> None:
        """Record that the step, or the sleep, is over, with its encoded *result*."""
        ...

    def open_wait(self, name: str, *, timeout: timedelta | None, answerable: bool) -> StepRecord:
        """Record that the execution waits; a wait that is not *answerable* ends by time alone."""
        ...

    def settle_wait(self, name: str) -> StepRecord:
        """The wait as it stands now, timed out if it is due: what is written once stands."""
        ...


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
