"""Workflow definitions, execution snapshots and the engine protocol: plain types only."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from general_manager.workflow.core.ids import require_id, require_queue
from general_manager.workflow.core.limits import Limit, Rate, declare
from general_manager.workflow.core.spreading import spread
from general_manager.workflow.exceptions import (
    WorkflowCancelledError,
    WorkflowError,
    WorkflowExecutionNotFoundError,
    WorkflowInvalidStateError,
    WorkflowWaitMismatchError,
)

if TYPE_CHECKING:
    from general_manager.workflow.backends.base import WorkflowEngine

__all__ = [
    "ACTIVE_STATES",
    "TERMINAL_STATES",
    "ChildCount",
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

Output = Mapping[str, Any] | None
WorkflowHandler = Callable[[dict[str, Any]], Output | Awaitable[Output]]


LONGEST_DELAY: Final = timedelta(days=365)
"""The maximum delay of a retry."""
LONGEST_LIFETIME: Final = timedelta(days=36_500)
"""The maximum deadline: later dates are past the calendar's end."""

MAX_PRIORITY: Final = 100
"""The highest priority of a workflow."""


class WorkflowState(StrEnum):
    """The states of an execution; the last three are terminal."""

    PENDING = "pending"
    """To run: now, or after the delay before its next attempt."""
    RUNNING = "running"
    """A worker is calling its handler."""
    WAITING = "waiting"
    """Suspended by `wait_for` or `sleep`."""
    COMPLETED = "completed"
    """Its handler returned."""
    FAILED = "failed"
    """Its handler raised, and is not retried."""
    CANCELLED = "cancelled"
    """Stopped by `cancel`."""


ACTIVE_STATES: Final = (WorkflowState.PENDING, WorkflowState.RUNNING, WorkflowState.WAITING)
TERMINAL_STATES: Final = (
    WorkflowState.COMPLETED,
    WorkflowState.FAILED,
    WorkflowState.CANCELLED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a failing workflow is attempted, and the delay between attempts.

    The n-th delay is ``base * factor ** (n - 1)`` seconds, at most *maximum*, spread by ±*jitter*
    (a share from 0 to 1). Exceptions of the types in *stop_on* are not retried. The count resets
    whenever a step completes: an execution that makes progress is not poison.
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
                raise ValueError(
                    f"Retry.{name} must be a finite number of at least {lowest}, not {value!r}"
                )
        if self.jitter > 1:
            raise ValueError(f"Retry.jitter must be a share from 0 to 1, not {self.jitter!r}")
        if not isinstance(self.stop_on, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in self.stop_on
        ):
            raise TypeError(f"Retry.stop_on must be a tuple of exceptions, not {self.stop_on!r}")

    def to_json(self) -> dict[str, Any]:
        """The policy as stored with an execution, so that a deploy does not change it."""
        return {
            "max_attempts": self.max_attempts,
            "base": self.base,
            "factor": self.factor,
            "maximum": self.maximum,
            "jitter": self.jitter,
            "stop_on": [f"{kind.__module__}.{kind.__qualname__}" for kind in self.stop_on],
        }

    def delay(self, attempts: int) -> timedelta:
        """The delay after *attempts* consecutive failures."""
        try:
            seconds = min(self.maximum, self.base * self.factor ** (attempts - 1))
        except OverflowError:
            seconds = self.maximum
        seconds = min(seconds, LONGEST_DELAY.total_seconds())
        return timedelta(seconds=spread(seconds, 1 - self.jitter, 1 + self.jitter))


@dataclass(frozen=True, slots=True)
class WorkflowDefinition:
    """What to run, under which name.

    *handler*, which may be async, takes the input as one dict and returns a mapping or `None`.
    Without one, a dotted
    path in ``metadata["handler_path"]`` may name it; without either an execution completes at once.
    *retry* is `None` for one attempt. A run that takes longer than *timeout* counts as a failed
    attempt; waits and delays are not part of a run. An execution that does not end within
    *deadline* after its start fails, whatever it is doing. *queue* names the workers that run it,
    empty for the project's own routing. Each step of *priority* lets it overtake work that came up
    to a minute before it. Of its executions at most as many run at once as *limit* says, and start
    within a period as *rate* says; the others wait in line.
    """

    workflow_id: str
    version: str = "1"
    description: str | None = None
    handler: WorkflowHandler | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    retry: Retry | None = None
    timeout: timedelta | None = None
    deadline: timedelta | None = None
    queue: str = ""
    priority: int = 0
    limit: Limit | None = None
    rate: Rate | None = None

    def __post_init__(self) -> None:
        require_id("workflow_id", self.workflow_id)
        require_id("version", self.version)
        if self.handler is not None and not callable(self.handler):
            raise TypeError(
                f"The handler of workflow {self.workflow_id!r} must be callable, "
                f"not {self.handler!r}"
            )
        if not isinstance(self.metadata, Mapping):
            raise TypeError(f"metadata must be a mapping, not {self.metadata!r}")
        require_queue(self.queue)
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise TypeError(f"priority must be a whole number, not {self.priority!r}")
        if not 0 <= self.priority <= MAX_PRIORITY:
            raise ValueError(f"priority must be from 0 to {MAX_PRIORITY}, not {self.priority}")
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry must be a Retry or None, not {self.retry!r}")
        _check_limit("timeout", self.timeout, LONGEST_DELAY, "a year")
        _check_limit("deadline", self.deadline, LONGEST_LIFETIME, "a hundred years")
        for name, kind in (("limit", Limit), ("rate", Rate)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} must be a {kind.__name__} or None, not {value!r}")
        declare(self.workflow_id, self.limit, self.rate)

    def deadline_from(self, start: datetime) -> datetime | None:
        """When an execution that starts then must have ended; `None` without a deadline."""
        return None if self.deadline is None else start + self.deadline


def _check_limit(name: str, value: object, longest: timedelta, in_words: str) -> None:
    if value is None:
        return
    if not isinstance(value, timedelta):
        raise TypeError(f"{name} must be a timedelta or None, not {value!r}")
    if not timedelta(0) < value <= longest:
        raise ValueError(f"{name} must be longer than 0 and at most {in_words}, not {value!r}")


def check_start(workflow: object, correlation_id: object, at: object = None) -> None:
    """Validate the arguments of `start` for every engine. Raises `TypeError` or `ValueError`."""
    if not isinstance(workflow, WorkflowDefinition):
        raise TypeError(f"start() takes a WorkflowDefinition, not {workflow!r}")
    if correlation_id is not None and correlation_id != "":
        require_id("correlation_id", correlation_id)
    if at is not None:
        if not isinstance(at, datetime):
            raise TypeError(f"at must be a datetime or None, not {at!r}")
        if at.utcoffset() is None:
            raise ValueError(f"at must have a time zone: {at!r}")
        try:
            at.astimezone(UTC) + (workflow.deadline or timedelta(0))
        except OverflowError:
            raise ValueError(f"at is too late, with the workflow's deadline: {at!r}") from None


class ChildCount(NamedTuple):
    """The children of the gather *name* that an execution waits for: "3 of 10" are *over*."""

    name: str
    over: int
    total: int

    def __str__(self) -> str:
        return f"{self.over} of {self.total}"


@dataclass(frozen=True, slots=True)
class WorkflowExecution:
    """A snapshot of an execution; call the engine's `status` for a newer one.

    *error* is the text of the failure, or the reason of a cancellation; *traceback* belongs to the
    failure and is empty without one.
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
    """The name of the open `wait_for`, or `None`."""
    waiting_since: datetime | None = None
    """When that wait, or the sleep, began."""
    waiting_until: datetime | None = None
    """When it ends on its own."""
    starts_at: datetime | None = None
    """When it starts, if `start` was given a later time and it has not run yet."""
    deadline: datetime | None = None
    """When it fails unless it has ended; `None` without a deadline, and once it has ended."""
    subject: str | None = None
    """The business object that it is about, such as ``Invoice 7``, or `None`."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Values given to `start`, by which executions are looked up."""
    paused_since: datetime | None = None
    """Since when it is parked, although it could run, because its workflow is paused; or `None`."""
    parent_id: str | None = None
    """The execution that started it as its child, or `None`."""
    root_id: str | None = None
    """The first of its ancestors, or `None`."""
    depth: int = 0
    """How many ancestors it has."""
    children: ChildCount | None = None
    """How many children are over of those that it waits for; given by the engine's `status`."""
    in_line_for: str | None = None
    """The limit of which it waits for a slot, such as ``orders: customer_id=7``, or `None`."""


def waiting_values(
    state: str, waiting_for: str | None, since: datetime | None, until: datetime | None
) -> dict[str, Any]:
    """The snapshot's last three fields, if it waits, sleeps, or is sending its question."""
    is_suspended = state == WorkflowState.WAITING
    if not is_suspended and waiting_for is None:
        return {}
    return {
        "waiting_for": waiting_for,
        "waiting_since": since,
        "waiting_until": until if is_suspended else None,
    }


def __getattr__(name: str) -> Any:
    if name == "WorkflowEngine":  # the documented path; it imports the records of steps
        return import_module("general_manager.workflow.backends.base").WorkflowEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
