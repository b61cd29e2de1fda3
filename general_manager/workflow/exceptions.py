"""The errors of workflows, events and steps, and the verdicts that a handler may raise."""

from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from reprlib import Repr
from typing import Final

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

LONGEST_DELAY_SECONDS = 365 * 24 * 3600.0
"""The maximum delay of a retry, one year: some databases cannot store much later dates."""


_shortened = Repr()
_shortened.maxstring = _shortened.maxother = 80


class WorkflowError(GeneralManagerError):
    """The base class of the errors of `general_manager.workflow`."""


class EncodingError(WorkflowError, ValueError):
    """A value that JSON or a database cannot store; *path* says where it is."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class PermanentFailure(WorkflowError):
    """Raised by a handler that cannot succeed: do not retry."""


class RetryAfter(WorkflowError):
    """Raised by a handler to be retried after *seconds* (a number or a `timedelta`).

    It counts as an attempt like any other failure and only sets the delay.
    """

    def __init__(self, seconds: float | timedelta, reason: str = "") -> None:
        if isinstance(seconds, timedelta):
            seconds = seconds.total_seconds()
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"RetryAfter takes seconds or a timedelta, not {seconds!r}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"RetryAfter takes a finite time of at least 0, not {seconds!r}")
        super().__init__(seconds, reason)
        self.seconds = min(float(seconds), LONGEST_DELAY_SECONDS)
        self.reason = reason

    def __str__(self) -> str:
        because = f": {self.reason}" if self.reason else ""
        return f"try again in {self.seconds:g} s{because}"


def parts(error: BaseException) -> Iterator[BaseException]:
    """*error* itself and, for an exception group, its members at any depth."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from parts(one)


def is_permanent(error: BaseException) -> bool:
    """Whether *error* is a `PermanentFailure`, or a group that contains one."""
    return any(isinstance(one, PermanentFailure) for one in parts(error))


def wanted_delay(error: BaseException) -> timedelta | None:
    """The delay of a `RetryAfter`, the longest one in a group; `None` without any."""
    asked = [one.seconds for one in parts(error) if isinstance(one, RetryAfter)]
    return timedelta(seconds=max(asked)) if asked else None


def ends_the_process(error: BaseException) -> bool:
    """Whether *error* means that the process must end, rather than a failure of the code.

    Everything else is a failure, including `asyncio.CancelledError` and `GeneratorExit`; so is a
    group that contains any failure.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(ends_the_process(one) for one in error.exceptions)
    return isinstance(error, SystemExit | KeyboardInterrupt)


class WorkflowExecutionNotFoundError(WorkflowError, LookupError):
    """No execution has this id; *execution_id* is the value that was passed."""

    def __init__(self, execution_id: object) -> None:
        super().__init__(execution_id)
        self.execution_id = execution_id

    def __str__(self) -> str:
        return f"There is no workflow execution {_shortened.repr(self.execution_id)}."


_PARTICIPLES: Final = {
    "cancel": "cancelled", "continue": "continued", "resume": "resumed",
    "read the result of": "asked for it", "signal": "signalled",
    "time out": "timed out", "wake": "woken",
}  # fmt: skip


def _listed(states: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(states[:-1]), *states[-1:])))


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
        done = _PARTICIPLES.get(self.verb, self.verb)
        sentence = (
            f"Cannot {self.verb} workflow execution {self.execution_id}: it is {self.state}. "
            f"Only {_listed(self.allowed)} executions can be {done}."
        )
        return f"{sentence} {self.detail}" if self.detail else sentence


class WorkflowCancelledError(WorkflowInvalidStateError):
    """The execution is cancelled, which is final."""


class WorkflowWaitMismatchError(WorkflowInvalidStateError):
    """An answer to a wait that is not open."""


class ChangedMeanwhileError(WorkflowError):
    """The situation that was confirmed has changed; nothing was done."""


class WaitTimeout(WorkflowError):
    """Raised by `wait_for` inside a handler: the wait timed out."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"Wait {self.name!r} timed out without an answer."


class StepUsageError(WorkflowError):
    """`step`, `wait_for` or `sleep` was called in a way that cannot be continued later."""


class TransactionLeftOpen(WorkflowError):
    """User code returned with an open transaction; its writes there were rolled back."""

    def __init__(self, what: str, databases: Collection[str]) -> None:
        super().__init__(what, databases)
        self.what = what
        self.databases = tuple(databases)

    def __str__(self) -> str:
        return (
            f"{self.what} returned with an open transaction on database "
            f"{', '.join(map(repr, self.databases))}. Its uncommitted writes there were "
            "rolled back. Use transaction.atomic(), or commit and restore autocommit."
        )


class HandlerNotAllowedError(WorkflowError, ImportError):
    """A dotted path that leads outside the project."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.handler_path = path

    def __str__(self) -> str:
        return (
            f"{self.handler_path!r} is not in the project's own modules, so it is not run as a "
            "workflow. If it is intended, add its package to WORKFLOW_HANDLER_MODULES."
        )


class HandlerNotImportableError(PermanentFailure):
    """The handler exists only in the process that started it, so no other can continue it."""

    def __init__(self, workflow_id: str, handler: str, why: str = "") -> None:
        super().__init__(workflow_id, handler, why)
        self.workflow_id = workflow_id
        self.handler = handler
        self.why = why or "Use a function at the top level of a module."

    def __str__(self) -> str:
        return (
            f"The handler {self.handler} of workflow {self.workflow_id!r} cannot be imported by a "
            f"worker or by a later run. {self.why}"
        )


class StepInDoubt(WorkflowError):
    """A `once=True` step started, but its outcome was not recorded.

    It may have had its effect, and running it again could repeat that.
    """

    def __init__(self, execution_id: str, name: str) -> None:
        super().__init__(execution_id, name)
        self.execution_id = execution_id
        self.name = name

    def __str__(self) -> str:
        return (
            f"Step {self.name!r} of workflow execution {self.execution_id} started but did not "
            "finish, so its effect may have happened. It is marked once=True and is not run again: "
            "resolve it, by 'Resolve step in doubt' on its page in the admin or by resolve_step()."
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
            f"{self.timeout.total_seconds():g} s. Its later writes were discarded."
        )


class WorkerDied(WorkflowError):
    """This work has killed its worker process *crashes* times."""

    def __init__(self, what: str, crashes: int) -> None:
        super().__init__(what, crashes)
        self.what = what
        self.crashes = crashes

    def __str__(self) -> str:
        return (
            f"{self.what} was running when its worker died, {self.crashes} times. "
            "It is not retried (WORKFLOW_MAX_CRASHES)."
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
        return f"Another action is registered as {self.name!r}. Pass replace=True to replace it."
