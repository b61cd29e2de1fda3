"""Pauses in tests: lifted at the end of a block, also in the memory of local mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from general_manager.workflow.backend_registry import get_workflow_engine
from general_manager.workflow.engine import WorkflowDefinition
from general_manager.workflow.event_registry import Registration
from general_manager.workflow.pauses import Pause


@contextmanager
def paused(
    workflow: WorkflowDefinition | str | None = None,
    *,
    registration: Registration | str | None = None,
) -> Iterator[Pause]:
    """Pause a workflow or a registration in the block; call `drain` after it for what was parked.

    The arguments are those of the engine's `pause`.
    """
    engine = get_workflow_engine()
    pause = engine.pause(workflow, registration=registration, reason="a test")
    try:
        yield pause
    finally:
        engine.unpause(workflow, registration=registration)
