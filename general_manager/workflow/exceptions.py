"""What workflows, events and steps complain about, and the verdicts a handler may pass."""

from collections.abc import Collection, Iterator
from datetime import timedelta
from reprlib import Repr

from general_manager.exceptions import GeneralManagerError

__all__ = [
    "ActionAlreadyRegisteredError",
    "ActionNotFoundError",
    "EncodingError",
    "ExecutionOverdue",
    "HandlerNotAllowedError",
    "HandlerNotImportableError",
    "PermanentFailure",
    "RetryAfter",
    "StepInDoubt",
    "StepUsageError",
    "WaitTimeout",
    "WorkerDied",
    "WorkflowCancelledError",
    "WorkflowError",
    "WorkflowExecutionNotFoundError",
    "WorkflowInvalidStateError",
    "WorkflowWaitMismatchError",
]

LONGEST_REST_SECONDS = 365 * 24 * 3600.0
"""No retry is put off for more than a year: later dates leave the calendar of some databases."""


_shortened = Repr()
_shortened.maxstring = _shortened.maxother = 80


class WorkflowError(GeneralManagerError):
    """The root of the errors of `general_manager.workflow`."""


class EncodingError(WorkflowError, ValueError):
    """A value that JSON, or a database, cannot hold; *path* says where it sits."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class PermanentFailure(WorkflowError):
    """Raised by a handler: do not try this again, it cannot succeed."""


class RetryAfter(WorkflowError):
    """Raised by a handler: not now; try again in *seconds* (a number or a `timedelta`).

    It counts as an attempt like any other failure; it only says how long to wait.
    """

    def __init__(self, seconds: float | timedelta, reason: str = "") -> None:
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"RetryAfter takes seconds or a timedelta, not {seconds!r}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"RetryAfter takes a finite time from zero up, not {seconds!r}")
        super().__init__(seconds, reason)
        self.seconds = min(float(seconds), LONGEST_REST_SECONDS)
        self.reason = reason

    def __str__(self) -> str:
        because = f": {self.reason}" if self.reason else ""
        return f"try again in {self.seconds:g} s{because}"


def parts(error: BaseException) -> Iterator[BaseException]:
    """*error* itself; of an exception group, what is in it at any depth as well."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from parts(one)


def is_permanent(error: BaseException) -> bool:
    """Whether *error* is a `PermanentFailure`, or a group with one: that part cannot succeed."""
    return any(isinstance(one, PermanentFailure) for one in parts(error))


def wanted_delay(error: BaseException) -> timedelta | None:
    """What a `RetryAfter` asks for, the longest of those in a group; `None` if none is there."""
    asked = [one.seconds for one in parts(error) if isinstance(one, RetryAfter)]
    return timedelta(seconds=max(asked)) if asked else None


def ends_the_process(error: BaseException) -> bool:
    """Whether *error* is not a failure of the code that raised it: the process is to end.

    Everything else is one, `asyncio.CancelledError` and `GeneratorExit` included; a group is one
    unless it holds nothing else.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(ends_the_process(one) for one in error.exceptions)
    return isinstance(error, SystemExit | KeyboardInterrupt)


class WorkflowExecutionNotFoundError(WorkflowError, LookupError):
    """No execution has this id, or nothing could have it: *execution_id* is what was given."""

    def __init__(self, execution_id: object) -> None:
        super().__init__(execution_id)
        self.execution_id = execution_id

    def __str__(self) -> str:
        return f"There is no workflow execution {_shortened.repr(self.execution_id)}."


class WorkflowInvalidStateError(WorkflowError):
    """The execution is not in a state from which *verb* is possible."""

    def __init__(
        self,
        execution_id: str,
        verb: str,
        state: str,
        allowed: Collection[str],
        detail: str = "",
    ) -> None:
        super().__init__(execution_id, verb, state, allowed, detail)
        self.execution_id = execution_id
        self.verb = verb
        self.state = state
        self.allowed = tuple(allowed)
        self.detail = detail

    def __str__(self) -> str:
        if self.state in self.allowed:
            return f"Cannot {self.verb} workflow execution {self.execution_id} now. {self.detail}"
        sentence = (
            f"Cannot {self.verb} workflow execution {self.execution_id}: it is {self.state}, "
            f"and {self.verb} is for {' or '.join(self.allowed)} executions."
        )
        return f"{sentence} {self.detail}" if self.detail else sentence


class WorkflowCancelledError(WorkflowInvalidStateError):
    """The execution was cancelled, and a cancelled execution stays so."""


class WorkflowWaitMismatchError(WorkflowInvalidStateError):
    """An answer to a question that the execution is not asking."""


class ChangedMeanwhileError(WorkflowError):
    """What was confirmed is no longer so; nothing was done."""


class WaitTimeout(WorkflowError):
    """Raised inside a handler by `wait_for`: nobody answered in time."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"Nobody answered {self.name!r} in time."


class StepUsageError(WorkflowError):
    """`step`, `wait_for` or `sleep` called in a way that could not be continued later."""


class TransactionLeftOpen(WorkflowError):
    """User code returned with a transaction open; what it wrote there was rolled back."""

    def __init__(self, what: str, databases: Collection[str]) -> None:
        super().__init__(what, databases)
        self.what = what
        self.databases = tuple(databases)

    def __str__(self) -> str:
        return (
            f"{self.what} returned with a transaction open on database "
            f"{', '.join(map(repr, self.databases))}, and what it had not committed there was "
            "rolled back. Use transaction.atomic(), or commit and set autocommit back."
        )


class HandlerNotAllowedError(WorkflowError, ImportError):
    """A dotted path that leads out of the project."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.handler_path = path

    def __str__(self) -> str:
        return (
            f"{self.handler_path!r} is not in the project's own modules, so it is not run as a "
            "workflow. Add its package to WORKFLOW_HANDLER_MODULES if it is meant."
        )


class HandlerNotImportableError(PermanentFailure):
    """The handler exists in the process that started it only, and could not be continued."""

    def __init__(self, workflow_id: str, handler: str) -> None:
        super().__init__(workflow_id, handler)
        self.workflow_id = workflow_id
        self.handler = handler

    def __str__(self) -> str:
        return (
            f"The handler {self.handler} of workflow {self.workflow_id!r} cannot be imported by a "
            "worker, or by a later run: use a function at the top level of a module."
        )


class StepInDoubt(WorkflowError):
    """A `once=True` step began and nobody recorded how it ended.

    It may or may not have had its effect; running it again could have it twice.
    """

    def __init__(self, execution_id: str, name: str) -> None:
        super().__init__(execution_id, name)
        self.execution_id = execution_id
        self.name = name

    def __str__(self) -> str:
        return (
            f"Step {self.name!r} of workflow execution {self.execution_id} began and did not "
            "finish, so its effect may have happened. It is marked once=True and is not run again."
        )


class ExecutionOverdue(WorkflowError):
    """A run took longer than the ``timeout`` of its workflow allows."""

    def __init__(self, execution_id: str, timeout: timedelta) -> None:
        super().__init__(execution_id, timeout)
        self.execution_id = execution_id
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"Workflow execution {self.execution_id} ran longer than its timeout of "
            f"{self.timeout.total_seconds():g} s. What it still did then was not written."
        )


class WorkerDied(WorkflowError):
    """What ran here took its worker process down with it, *crashes* times."""

    def __init__(self, what: str, crashes: int) -> None:
        super().__init__(what, crashes)
        self.what = what
        self.crashes = crashes

    def __str__(self) -> str:
        return (
            f"{self.what} was running when its worker died, {self.crashes} times; "
            "it is not tried again (WORKFLOW_MAX_CRASHES)."
        )


class ActionNotFoundError(WorkflowError, LookupError):
    def __init__(self, name: str, suggestion: str | None = None) -> None:
        super().__init__(name, suggestion)
        self.name = name
        self.suggestion = suggestion

    def __str__(self) -> str:
        hint = f" Did you mean {self.suggestion!r}?" if self.suggestion else ""
        return f"No action is registered as {self.name!r}.{hint}"


class ActionAlreadyRegisteredError(WorkflowError, ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"Another action is registered as {self.name!r}; pass replace=True to replace it."
