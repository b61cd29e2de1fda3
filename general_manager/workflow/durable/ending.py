"""How an execution is to end, once its sagas are undone; and the end by its deadline."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from general_manager.durations import in_words
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.exceptions import WorkflowError


@dataclass(frozen=True, slots=True)
class Ending:
    """The terminal state to come, and its cause: the reason of a cancellation, or a failure."""

    state: WorkflowState
    error: str
    traceback: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "state": str(self.state)}


def ending_of(stored: Mapping[str, Any] | None) -> Ending | None:
    if stored is None:
        return None
    return Ending(WorkflowState(stored["state"]), stored["error"], stored["traceback"])


class DeadlinePassed(WorkflowError):
    """An execution did not end within the ``deadline`` of its workflow.

    Its handler cannot catch this: the execution has failed, and later writes are refused. Open
    sagas were undone before.
    """

    def __init__(self, execution_id: str, deadline: timedelta) -> None:
        super().__init__(execution_id, deadline)
        self.execution_id = execution_id
        self.deadline = deadline

    def __str__(self) -> str:
        return (
            f"Workflow execution {self.execution_id} did not end within its deadline of "
            f"{in_words(self.deadline)}. Later writes were discarded."
        )
