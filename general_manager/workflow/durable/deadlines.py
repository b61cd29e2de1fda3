"""The deadline of a whole execution."""

from datetime import timedelta

from general_manager.durations import in_words
from general_manager.workflow.exceptions import WorkflowError

__all__ = ["DeadlinePassed"]


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
