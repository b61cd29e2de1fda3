"""Pauses as people see them: what is paused, since when, by whom, and how much of it is parked."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from general_manager.workflow.exceptions import WorkflowError

__all__ = ["Pause", "PauseKind", "TooManyParkedError"]


class PauseKind(StrEnum):
    """What a pause holds back."""

    WORKFLOW = "workflow"
    """Executions of one workflow id."""
    REGISTRATION = "registration"
    """Deliveries to one registration."""


@dataclass(frozen=True, slots=True)
class Pause:
    """One pause that is in force; read `pauses` again for newer numbers."""

    kind: PauseKind
    name: str
    """The workflow id, or the id of the registration."""
    since: datetime
    by: str = ""
    """Who paused it; empty if unknown."""
    reason: str = ""
    parked: int = 0
    """How many executions or deliveries it has parked so far, counted up to 10,001."""
    running: int = 0
    """How many a worker had begun before, which run on; counted up to 10,001."""


class TooManyParkedError(WorkflowError):
    """A process in local mode keeps no more events for paused registrations."""

    def __init__(self, registration_id: str, most: int) -> None:
        super().__init__(registration_id, most)
        self.registration_id = registration_id
        self.most = most

    def __str__(self) -> str:
        return (
            f"Registration {self.registration_id} is paused, and this process keeps at most "
            f"{self.most} events for paused registrations. Unpause it, or use "
            "DatabaseEventRegistry, which stores them."
        )
