"""What a handler sees of steps that fail, and of its end; and what becomes of a saga."""

from collections.abc import Sequence

from general_manager.workflow.exceptions import WorkflowError

__all__ = [
    "ChildCycle",
    "ChildFailed",
    "CompensationIncomplete",
    "StepFailed",
    "StepTimeout",
    "WorkflowCancelRequested",
]


class StepFailed(WorkflowError):
    """Raised by `step`: the last attempt of a step with ``retry=`` or ``timeout=`` has failed, or
    the step raised an exception that cannot be rebuilt in a later run.

    *error* is the text of the exception and *kind* the dotted path of its class. ``__cause__`` is
    the exception; in later runs it is rebuilt from the record, or `None` if that is impossible.
    """

    def __init__(self, name: str, error: str, kind: str, attempts: int = 1) -> None:
        super().__init__(name, error, kind, attempts)
        self.name = name
        self.error = error
        self.kind = kind
        self.attempts = attempts

    def __str__(self) -> str:
        after = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"Step {self.name!r} failed{after}: {self.error}"


class StepTimeout(WorkflowError):
    """An attempt of a step took longer than the step's ``timeout`` allows."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"An attempt of step {self.name!r} took longer than its timeout. "
            "Its later writes were discarded."
        )


class WorkflowCancelRequested(BaseException):
    """Raised by every further step, wait and sleep of an execution that is to undo and to end.

    It leaves the handler's sagas, which undo what was done. ``except Exception`` does not catch it,
    and a handler that catches it changes nothing.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        because = f": {self.reason}" if self.reason else ""
        return f"The execution undoes what it did, and ends{because}"


class CompensationIncomplete(WorkflowError):
    """An execution has ended, and *left* was not undone; *why* says why it was to be undone."""

    def __init__(self, left: Sequence[str], why: str) -> None:
        super().__init__(list(left), why)
        self.left = tuple(left)
        self.why = why

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.left))
        return f"compensation incomplete: not undone: {names}. It was undone because of: {self.why}"


class ChildFailed(WorkflowError):
    """Raised by `gather` and `child_result`: a child failed or was cancelled.

    *key* is the child's key in the gather *name*; *state* is ``failed`` or ``cancelled``; *error*
    is the text of the failure, or the reason of the cancellation.
    """

    def __init__(  # noqa: PLR0917 - it is rebuilt from its record by position
        self, name: str, key: str, workflow_id: str, execution_id: str, state: str, error: str
    ) -> None:
        super().__init__(name, key, workflow_id, execution_id, state, error)
        self.name = name
        self.key = key
        self.workflow_id = workflow_id
        self.execution_id = execution_id
        self.state = state
        self.error = error

    def __str__(self) -> str:
        why = f": {self.error}" if self.error else ""
        return (
            f"Child {self.key!r} of {self.name!r} is {self.state} "
            f"(workflow {self.workflow_id}, execution {self.execution_id}){why}"
        )


class ChildCycle(ChildFailed):
    """Raised by `gather` and `child_result`: the child that was joined through its correlation id
    waits for this execution, so neither could ever continue.
    """
