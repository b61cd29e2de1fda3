"""How an execution is to end, once its sagas are undone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from general_manager.workflow.engine import WorkflowState


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
