"""The current engine: built once from `WORKFLOW_ENGINE`."""

from typing import Final

from general_manager.loading import BackendSlot
from general_manager.workflow.backends.base import WorkflowEngine

__all__ = [
    "configure_workflow_engine",
    "configure_workflow_engine_from_settings",
    "get_workflow_engine",
]

_slot: Final[BackendSlot[WorkflowEngine]] = BackendSlot(
    "WORKFLOW_ENGINE",
    lambda settings: settings.engine,
    methods=("start", "resume", "cancel", "status"),
)


def get_workflow_engine() -> WorkflowEngine:
    """Return the engine that the settings name; always the same instance.

    Raises `ImproperlyConfigured` if `WORKFLOW_ENGINE` is wrong.
    """
    return _slot.get()


def configure_workflow_engine(engine: WorkflowEngine | None) -> None:
    """Use *engine* from now on; `None` goes back to the setting. For tests and scripts."""
    _slot.configure(engine)


def configure_workflow_engine_from_settings(settings: object) -> WorkflowEngine:
    """Use the engine that *settings*, an object with settings as attributes, describes."""
    return _slot.configure_from(settings)
