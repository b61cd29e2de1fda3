"""The verbs that pause workflows and registrations, for every engine."""

from typing import Any

from asgiref.sync import sync_to_async

from general_manager.escaping import is_storable
from general_manager.exceptions import unsupported
from general_manager.workflow.core.ids import require_id
from general_manager.workflow.engine import WorkflowDefinition
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.pauses import Pause

Workflow = WorkflowDefinition | str | None


class PauseVerbs:
    """`pause`, `unpause` and `pauses`; an engine answers for its workflows.

    Registrations belong to the event registry that is in force.
    """

    def pause(
        self,
        workflow: Workflow = None,
        *,
        registration: Registration | str | None = None,
        reason: str = "",
    ) -> Pause:
        """Start no run of *workflow*, or no delivery to *registration*, until it is unpaused.

        Name one of the two: a definition or its id, or what `register` returned or its id. What a
        worker has begun runs on: see `Pause.running`. What comes meanwhile is parked, and nothing
        is lost or counted as a failure. Waits time out as ever; the deadline of an execution stands
        still while it is parked. Pausing again changes nothing, and keeps the first reason.

        In a transaction it holds from the commit on.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a text, not {reason!r}")
        if not is_storable(reason):
            raise ValueError(f"reason must not contain NUL or an unpaired surrogate: {reason!r}")
        if (name := _registration_id(workflow, registration)) is not None:
            return get_event_registry().pause(name, reason=reason)
        return self._pause(_workflow_id(workflow), reason)

    def unpause(
        self, workflow: Workflow = None, *, registration: Registration | str | None = None
    ) -> bool:
        """End a pause; false if there is none. What was parked is due now, after newer work.

        In a transaction it follows the commit.
        """
        if (name := _registration_id(workflow, registration)) is not None:
            return get_event_registry().unpause(name)
        return self._unpause(_workflow_id(workflow))

    def pauses(self) -> list[Pause]:
        """Every pause that is in force, of workflows and registrations, the latest first."""
        found = [*self._pauses(), *get_event_registry().pauses()]
        return sorted(found, key=lambda one: one.since, reverse=True)

    async def apause(
        self,
        workflow: Workflow = None,
        *,
        registration: Registration | str | None = None,
        reason: str = "",
    ) -> Pause:
        """`pause`, from async code."""
        call = sync_to_async(self.pause, thread_sensitive=True)
        return await call(workflow, registration=registration, reason=reason)

    async def aunpause(
        self, workflow: Workflow = None, *, registration: Registration | str | None = None
    ) -> bool:
        """`unpause`, from async code."""
        call = sync_to_async(self.unpause, thread_sensitive=True)
        return await call(workflow, registration=registration)

    async def apauses(self) -> list[Pause]:
        """`pauses`, from async code."""
        return await sync_to_async(self.pauses, thread_sensitive=True)()

    def _pause(self, workflow_id: str, reason: str) -> Pause:
        del workflow_id, reason
        raise unsupported(self, "pause")

    def _unpause(self, workflow_id: str) -> bool:
        del workflow_id
        raise unsupported(self, "unpause")

    def _pauses(self) -> list[Pause]:
        return []  # it supports none


def _registration_id(workflow: Any, registration: Any) -> str | None:
    """The id of the registration, or `None` if *workflow* is given instead."""
    if (workflow is None) == (registration is None):
        raise TypeError("Name a workflow or, by registration=, a registration")
    if isinstance(registration, Registration):
        return registration.id
    if registration is not None:
        require_id("registration", registration)
        return str(registration)
    return None


def _workflow_id(workflow: Workflow) -> str:
    if isinstance(workflow, WorkflowDefinition):
        return workflow.workflow_id
    require_id("workflow", workflow)
    return str(workflow)
