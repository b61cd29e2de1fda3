"""The record of a step, a wait or a sleep, and the store that keeps such records."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from json import dumps, loads
from typing import Any, Final, Literal, NamedTuple, Protocol

from general_manager.conf import get_workflow_settings, is_configured
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.durable.children.store import ChildStore
from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.exceptions import EncodingError

ASK_SUFFIX: Final = ": ask"
"""Added to a wait's name, it names the step that asks the wait's question."""


class StepStatus(StrEnum):
    STARTED = "started"
    """A `once=True` step was about to run."""
    OPEN = "open"
    """A wait without an outcome."""
    DONE = "done"
    """Finished: a step's result, or a wait's answer."""
    TIMED_OUT = "timed_out"
    """A wait that ended without an answer."""
    RUNNING = "running"
    """An attempt with a time limit was about to run."""
    RETRYING = "retrying"
    """An attempt failed, and another one follows."""
    FAILED = "failed"
    """The step's final failure: every run raises it."""
    CLOSED = "closed"
    """A wait that was open when its saga began to be undone."""
    GATHERING = "gathering"
    """Children without an outcome that the execution waits for."""
    SAGA = "saga"
    """A saga whose block has not been left."""
    UNDOING = "undoing"
    """A saga: its failure is recorded, and its undos run."""
    UNDONE = "undone"
    """A saga: every undo has run."""
    INCOMPLETE = "incomplete"
    """A saga: some undos have failed for good."""


OPEN_WAITS: Final = (StepStatus.OPEN, StepStatus.GATHERING)
"""Statuses of waits, sleeps and gathers without an outcome."""
UNFINISHED: Final = (*OPEN_WAITS, StepStatus.RUNNING, StepStatus.RETRYING)
"""Statuses without an outcome, in which nothing is in doubt."""
OPEN_SAGA: Final = (StepStatus.SAGA, StepStatus.UNDOING)
"""Statuses of sagas that are undone before their execution ends, unless it completes."""
UNDO_BEGUN: Final = (StepStatus.UNDOING, StepStatus.UNDONE, StepStatus.INCOMPLETE)
"""Statuses of sagas whose failure is recorded, for good."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The stored record of one name: a step, a wait or a sleep."""

    name: str
    status: StepStatus
    result: Any = None
    until: datetime | None = None
    position: int = 0
    """Its place in the order in which the execution's outcomes were written.

    For a `once=True` step that started and did not finish: its place when it started.
    """
    once: bool = False
    answerable: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    label: str = ""
    """The text of the button that gave the answer."""
    signal: str | None = None
    """The name of the signals that answer it, if it is a wait."""
    answered_by: int | None = None
    """The number of the signal that answered it, in the order of signals."""
    encoded: str | None = None
    """Its result as JSON, if the store has not decoded it: a replay decodes what it reaches."""
    attempts: int = 0
    """Failed attempts, of a step with its own budget."""
    failure: dict[str, Any] | None = None
    """What is stored of the exception of the last failed attempt, or of a saga that is undone."""
    saga: str | None = None
    """The saga that it undoes; of a saga its own name; otherwise `None`."""
    sources: Sequence[Mapping[str, Any]] = ()
    """What can answer it, stored as `Source.to_json` writes it, if `wait_for` did not open it."""
    branch: str | None = None
    """The source that answered it; `None` if it was `resume`."""
    event: str | None = None
    """The id of the event that answered it."""

    def own_result(self) -> Any:
        """The result, as objects of the caller's own."""
        return copy_encoded(self.result) if self.encoded is None else loads(self.encoded)

    @property
    def is_saga(self) -> bool:
        return self.saga == self.name

    @property
    def is_undo(self) -> bool:
        return self.saga is not None and not self.is_saga

    @property
    def is_wait(self) -> bool:
        return self.answerable

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_WAITS

    @property
    def is_finished(self) -> bool:
        return self.status in (StepStatus.DONE, StepStatus.TIMED_OUT, StepStatus.FAILED)


@dataclass(frozen=True, slots=True)
class WaitSnapshot:
    """One `wait_for` of an execution, as it was at one moment."""

    name: str
    outcome: Literal["open", "answered", "timed_out"]
    is_asked: bool
    """Whether `resume` accepts an answer to it now."""
    opened_at: datetime | None = None
    until: datetime | None = None
    ended_at: datetime | None = None
    answer: Any = None
    label: str = ""
    """The text of the button that gave the answer."""
    subject: str = ""
    """The business object of the event that started the execution, such as ``Invoice 7``."""
    execution_id: str = ""
    """The execution that waits: the newest one, if the one that was asked for continued as new."""


def wait_snapshot(
    step: StepRecord, *, execution_id: str, is_asked: bool, subject: str = ""
) -> WaitSnapshot:
    is_answered = step.status is StepStatus.DONE
    return WaitSnapshot(
        name=step.name,
        outcome="answered" if is_answered else "timed_out" if step.is_finished else "open",
        is_asked=is_asked and not step.is_finished,
        opened_at=step.started_at,
        until=step.until,
        ended_at=step.finished_at,
        answer=step.result if is_answered else None,
        label=step.label,
        subject=subject,
        execution_id=execution_id,
    )


class FailedAttempt(NamedTuple):
    """An attempt of a step with its own budget, after which another one follows."""

    name: str
    failure: dict[str, Any]
    number: int
    is_new: bool = True
    """False if it was noted already, when it was timed out."""


class RunStore(ChildStore[StepRecord], Protocol):
    """Where one run keeps its steps and waits.

    Every write raises `StopRun` if this run no longer holds the execution: it was cancelled, or
    another worker has claimed it.
    """

    using: str | None
    """The database that steps write to; `None` where there is none."""
    ending: Ending | None
    """How the execution was to end when the run began."""
    saga: str | None
    """The saga whose undo is being called: what is recorded meanwhile belongs to it."""

    def load(self) -> dict[str, StepRecord]:
        """The records of earlier runs of the execution, by name."""
        ...

    def check(self) -> None:
        """Raises `StopRun` if the run must not continue, as far as a cheap check shows.

        Raises `EndRequested` if the execution is to end, unless an undo is being called.
        """
        ...

    def transaction(self) -> AbstractContextManager[object]:
        """The transaction that a step's writes, its checkpoint and the check of the claim share."""
        ...

    def was_undone_by_the_database(self, error: BaseException) -> bool:
        """Whether *error*, raised by `transaction`, is a lost connection or a conflict."""
        ...

    def begin(self, name: str) -> None:
        """Record durably that a `once=True` step is about to run."""
        ...

    def begin_attempt(self, name: str, timeout: timedelta) -> None:
        """Record durably that an attempt is about to run, for *timeout* at most."""
        ...

    def finish(self, name: str, result: Any, *, asked_inside: bool = False) -> None:
        """Record that the step has finished, with its encoded *result*.

        *asked_inside*: the step has asked its own execution to end, so it began before that.
        Raises `StepTimeout` if its attempt has exceeded its time limit.
        """
        ...

    def fail(self, name: str, failure: dict[str, Any], attempts: int) -> None:
        """Record the step's final *failure*."""
        ...

    def postpone(self, attempt: FailedAttempt, delay: timedelta) -> None:
        """Record a failed attempt of a step, and give up the execution for *delay*."""
        ...

    def is_due(self, name: str) -> bool:
        """Whether the delay before the step's next attempt is over; else gives the execution up."""
        ...

    def has_next_attempt(self, error: BaseException) -> bool:
        """Whether the execution's own `Retry` allows another attempt after *error*."""
        ...

    def open_saga(self, name: str) -> None:
        """Record that the block of saga *name* is entered."""
        ...

    def close_saga(self, name: str) -> None:
        """Record that its block was left; raises `EndRequested` if the execution is to end."""
        ...

    def begin_undoing(self, name: str, failure: dict[str, Any], undos: Sequence[str]) -> None:
        """Record durably what left the saga, and which *undos* are about to run.

        Closes the wait that was opened in its block, if there is an open one.
        """
        ...

    def end_undoing(self, name: str, left: Sequence[str]) -> None:
        """Record that the undos have run, all but those that are *left*."""
        ...

    def open_wait(
        self,
        name: str,
        *,
        timeout: timedelta | None,
        answerable: bool,
        suspends: bool,
        signal: str | None = None,
        sources: Sequence[Any] = (),
    ) -> StepRecord:
        """Record that the execution waits; if it is not *answerable*, only time ends the wait.

        The oldest kept signal named *signal* answers it, at once if there is one; or the first of
        *sources* that has something. With *suspends* the run does nothing else before it suspends,
        so the store may leave the recording to the suspension: not with *sources*, which are found
        by a search, and must be committed before somebody looks.
        """
        ...

    def settle_wait(self, name: str) -> StepRecord:
        """The wait as it is now, timed out if it is due. A written outcome never changes."""
        ...

    def write_reports(self, values: Mapping[str, Any], *, at_end: bool) -> bool:
        """Add reported values, if the run still holds the execution. Raises nothing.

        False inside a transaction, unless the run is *at its end*: there they would be seen only
        after its commit, and the row would stay locked until then.
        """
        ...


def within_limit(result: Any, name: str) -> Any:
    """The encoded *result*; raises `EncodingError` if it is too large to be read in every run."""
    most = get_workflow_settings().step_result_max_bytes if is_configured() else None
    size = len(dumps(result, ensure_ascii=False).encode()) if most is not None else 0
    if most is not None and size > most:
        raise EncodingError(
            f"the result of step {name!r}",
            f"it is {size:,} bytes of JSON, and at most {most:,} are kept "
            "(WORKFLOW_STEP_RESULT_MAX_BYTES): store it elsewhere and return its key",
        )
    return result
