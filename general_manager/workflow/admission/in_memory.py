"""Pauses of workflows in memory, and the executions that they park."""

from dataclasses import replace
from typing import Any, ClassVar

from general_manager.workflow.admission.verbs import PauseVerbs
from general_manager.workflow.core.actors import current_actor
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.pauses import Pause, PauseKind


class Parking:
    """The pauses of one engine. Call it under the lock of its *memory*."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.pauses: dict[str, Pause] = {}
        """The paused workflows by id; see `MemoryPauses`."""

    def parks(self, record: Any) -> bool:
        """Park a ready execution if its workflow is paused; returns whether it is.

        Its deadline stands still. A wait whose time is over times out all the same.
        """
        if record.definition.workflow_id not in self.pauses:
            return False
        now, name = self._memory.clock(), record.waiting_for
        until = None if name is None else record.steps[name].until
        if name is not None and until is not None and until <= now:
            kind = HistoryKind.WAIT_TIMED_OUT
            self._memory.end_wait(record, name, StepStatus.TIMED_OUT, kind)
        if record.has_slot:  # left by the execution that it continues
            record.has_slot = False
            self._memory.limits.give_back(record)
        if record.parked_at is None:
            record.parked_at = now
            record.deadline_left = None if record.deadline is None else record.deadline - now
            record.deadline = None
        return True


class MemoryPauses(PauseVerbs):
    """`pause`, `unpause` and `pauses` of an engine with its executions in memory."""

    supports_pauses: ClassVar[bool] = True

    def _pause(self: Any, workflow_id: str, reason: str) -> Pause:
        return pause(self._memory, workflow_id, reason)

    def _unpause(self: Any, workflow_id: str) -> bool:
        """Runs what was parked at once, in the caller's thread."""
        released = unpause(self._memory, workflow_id)
        for record in released or ():
            self._runs.run(record)
        return released is not None

    def _pauses(self: Any) -> list[Pause]:
        with self._memory.lock:
            return [_counted(self._memory, one) for one in self._memory.parking.pauses.values()]


def pause(memory: Any, workflow_id: str, reason: str) -> Pause:
    """Begin no run of the workflow from now on; the first reason stays."""
    with memory.lock:
        if workflow_id not in memory.parking.pauses:
            memory.parking.pauses[workflow_id] = Pause(
                PauseKind.WORKFLOW, workflow_id, memory.clock(), current_actor(), reason
            )
        return _counted(memory, memory.parking.pauses[workflow_id])


def unpause(memory: Any, workflow_id: str) -> list[Any] | None:
    """End the pause; returns the executions that may run now, or `None` if it was not paused."""
    with memory.lock:
        if memory.parking.pauses.pop(workflow_id, None) is None:
            return None
        released = [one for one in _of(memory, workflow_id) if one.parked_at is not None]
        for record in released:
            if record.deadline_left is not None:
                record.deadline = memory.clock() + record.deadline_left
            record.parked_at = record.deadline_left = None
        return sorted(released, key=lambda one: one.number)


def _counted(memory: Any, known: Pause) -> Pause:
    records = _of(memory, known.name)
    return replace(
        known,
        parked=sum(one.parked_at is not None for one in records),
        running=sum(one.state is WorkflowState.RUNNING for one in records),
    )


def _of(memory: Any, workflow_id: str) -> list[Any]:
    return [one for one in memory.latest() if one.definition.workflow_id == workflow_id]
