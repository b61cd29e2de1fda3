"""What a workflow is and what an engine must be able to do: plain types, no machinery."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from inspect import iscoroutinefunction
from random import uniform
from typing import Any, Final, Protocol, runtime_checkable

from general_manager.workflow.exceptions import (
    WorkflowCancelledError,
    WorkflowError,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    WorkflowWaitMismatchError,
)
from general_manager.workflow.ids import require_id

__all__ = [
    "ACTIVE_STATES",
    "TERMINAL_STATES",
    "HistoryEntry",
    "HistoryKind",
    "Retry",
    "WorkflowCancelledError",
    "WorkflowDefinition",
    "WorkflowEngine",
    "WorkflowError",
    "WorkflowExecution",
    "WorkflowExecutionNotFoundError",
    "WorkflowHandler",
    "WorkflowInvalidStateError",
    "WorkflowState",
    "WorkflowWaitMismatchError",
]

WorkflowHandler = Callable[[dict[str, Any]], Mapping[str, Any] | None]


LONGEST_REST: Final = timedelta(days=365)
"""No retry is put off for longer, whatever was asked for."""


class WorkflowState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class HistoryKind(StrEnum):
    """What can happen to an execution or a delivery out of the ordinary."""

    RECOVERED = "recovered"
    """Its worker died."""
    ATTEMPT_FAILED = "attempt_failed"
    OVERDUE = "overdue"
    """A run took longer than the workflow's timeout."""
    STRAYED = "strayed"
    """A process that lacks the handler left it to another."""
    INTERRUPTED = "interrupted"
    """The database was lost, or undid what a run did; another run goes on."""
    RESUMED = "resumed"
    WAIT_TIMED_OUT = "wait_timed_out"
    """Nobody answered in time."""
    WAIT_ENDED = "wait_ended"
    """Somebody timed a wait out before its time."""
    WOKEN = "woken"
    """A rest or a sleep was ended early."""
    CANCELLED = "cancelled"
    RESOLVED = "resolved"
    """Somebody said what became of a step in doubt."""
    CONTINUED = "continued"
    """Failed or cancelled, and continued by a fresh execution."""
    CONTINUES = "continues"
    """Fresh, and continues a failed or cancelled one."""
    FORGOTTEN = "forgotten"
    """Fresh, and without these steps and answers of the one that it continues."""
    REPLAYED = "replayed"
    """A dead delivery is owed again."""
    DISCARDED = "discarded"
    """A dead delivery was given up."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing out of the ordinary: *by* whom is empty where nobody said.

    A failed attempt has its *number*, and the *step* in which it failed unless it failed outside of
    one; an answer and the end of a wait have the wait's name as *step*.
    """

    kind: HistoryKind
    at: datetime
    by: str = ""
    detail: str = ""
    step: str = ""
    number: int | None = None


ACTIVE_STATES: Final = (WorkflowState.PENDING, WorkflowState.RUNNING, WorkflowState.WAITING)
TERMINAL_STATES: Final = (
    WorkflowState.COMPLETED,
    WorkflowState.FAILED,
    WorkflowState.CANCELLED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a failing workflow is tried, and how long it rests in between.

    The n-th rest is ``base * factor ** (n - 1)`` seconds, at most *maximum*, spread by ±*jitter*
    (a share from 0 to 1). Exceptions of the types in *stop_on* are not retried. The count starts
    anew whenever a step completes: an execution that makes progress is not poison.
    """

    max_attempts: int = 5
    base: float = 10
    factor: float = 2
    maximum: float = 3600
    jitter: float = 0.2
    stop_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int):
            raise TypeError(f"Retry.max_attempts must be an integer, not {self.max_attempts!r}")
        if self.max_attempts < 1:
            raise ValueError(f"Retry.max_attempts must be 1 or more, not {self.max_attempts}")
        for name, lowest in (("base", 0), ("factor", 1), ("maximum", 0), ("jitter", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"Retry.{name} must be a number, not {value!r}")
            if not lowest <= value < float("inf"):
                raise ValueError(f"Retry.{name} must be a finite number from {lowest} up")
        if self.jitter > 1:
            raise ValueError(f"Retry.jitter is a share from 0 to 1, not {self.jitter!r}")
        if not isinstance(self.stop_on, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in self.stop_on
        ):
            raise TypeError(f"Retry.stop_on must be a tuple of exceptions, not {self.stop_on!r}")

    def to_json(self) -> dict[str, Any]:
        """The policy as it is kept with an execution, so that a deploy does not change it."""
        return {
            "max_attempts": self.max_attempts,
            "base": self.base,
            "factor": self.factor,
            "maximum": self.maximum,
            "jitter": self.jitter,
            "stop_on": [f"{kind.__module__}.{kind.__qualname__}" for kind in self.stop_on],
        }

    def delay(self, attempts: int) -> timedelta:
        """How long to rest after *attempts* failures in a row."""
        try:
            seconds = min(self.maximum, self.base * self.factor ** (attempts - 1))
        except OverflowError:
            seconds = self.maximum
        seconds = min(seconds, LONGEST_REST.total_seconds())
        return timedelta(seconds=seconds * uniform(1 - self.jitter, 1 + self.jitter))  # noqa: S311 - spread, not secrecy


@dataclass(frozen=True, slots=True)
class WorkflowDefinition:
    """What to run, under which name.

    *handler* takes the input as one dict and returns a mapping or `None`. Without one, a dotted
    path in ``metadata["handler_path"]`` may name it; without either an execution completes at once.
    *retry* is `None` for one attempt. A run that takes longer than *timeout* is given up as a
    failed attempt; waiting and resting are no part of a run.
    """

    workflow_id: str
    version: str = "1"
    description: str | None = None
    handler: WorkflowHandler | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    retry: Retry | None = None
    timeout: timedelta | None = None

    def __post_init__(self) -> None:
        require_id("workflow_id", self.workflow_id)
        require_id("version", self.version)
        if self.handler is not None and not callable(self.handler):
            raise TypeError(
                f"The handler of workflow {self.workflow_id!r} must be callable, "
                f"not {self.handler!r}"
            )
        if iscoroutinefunction(self.handler):
            raise TypeError(
                f"The handler of workflow {self.workflow_id!r} is async, and nothing here would "
                "await it: wrap it in asgiref.sync.async_to_sync"
            )
        if not isinstance(self.metadata, Mapping):
            raise TypeError(f"metadata must be a mapping, not {self.metadata!r}")
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry must be a Retry or None, not {self.retry!r}")
        if self.timeout is not None:
            if not isinstance(self.timeout, timedelta):
                raise TypeError(f"timeout must be a timedelta or None, not {self.timeout!r}")
            if not timedelta(0) < self.timeout <= LONGEST_REST:
                raise ValueError(
                    f"timeout must be more than nothing and at most a year, not {self.timeout!r}"
                )


def check_start(workflow: object, correlation_id: object) -> None:
    """What every engine asks of `start`: raises `TypeError` or `ValueError`."""
    if not isinstance(workflow, WorkflowDefinition):
        raise TypeError(f"start() takes a WorkflowDefinition, not {workflow!r}")
    if correlation_id is not None and correlation_id != "":
        require_id("correlation_id", correlation_id)


@dataclass(frozen=True, slots=True)
class WorkflowExecution:
    """An execution as it was at one moment; ask the engine's `status` for the next.

    *error* is the text of the failure, or the reason of a cancellation; *traceback* is of the
    failure alone, and empty without one.
    """

    execution_id: str
    workflow_id: str
    state: WorkflowState
    input_data: dict[str, Any]
    output_data: dict[str, Any] | None = None
    correlation_id: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    traceback: str = field(default="", repr=False)
    waiting_for: str | None = None
    """The name of the open `wait_for`, if there is one."""
    waiting_since: datetime | None = None
    """When that wait, or the sleep, began."""
    waiting_until: datetime | None = None
    """When it ends by itself."""


def waiting_values(
    state: str, waiting_for: str | None, since: datetime | None, until: datetime | None
) -> dict[str, Any]:
    """The snapshot's last three fields, if it waits, sleeps, or is just sending its question."""
    is_suspended = state == WorkflowState.WAITING
    if not is_suspended and waiting_for is None:
        return {}
    return {
        "waiting_for": waiting_for,
        "waiting_since": since,
        "waiting_until": until if is_suspended else None,
    }


@runtime_checkable
class WorkflowEngine(Protocol):
    """What `WORKFLOW_ENGINE` must name. Each verb returns a snapshot."""

    def start(
        self,
        workflow: WorkflowDefinition,
        input_data: Mapping[str, Any] | None = None,
        *,
        correlation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> WorkflowExecution:
        """Ask for an execution.

        While one with the same workflow id and *correlation_id* is active or completed, that one
        is returned and nothing is started. An empty *correlation_id* never matches.
        """
        ...

    def resume(
        self, execution_id: str, signal: Any = None, *, wait: str | None = None
    ) -> WorkflowExecution:
        """Answer what the execution waits for; *wait* makes sure that it waits for that."""
        ...

    def cancel(self, execution_id: str, *, reason: str | None = None) -> WorkflowExecution:
        """Stop an active execution for good."""
        ...

    def status(self, execution_id: str) -> WorkflowExecution: ...
