"""What may be done to executions in memory besides the four verbs of every engine."""

from general_manager.workflow.backends.memory import ExecutionMemory, Record
from general_manager.workflow.checkpoints import (
    NotContinuableError,
    Resolutions,
    kept_steps,
    verdict_on,
)
from general_manager.workflow.encoding import copy_encoded
from general_manager.workflow.engine import HistoryKind, WorkflowState
from general_manager.workflow.exceptions import WorkflowInvalidStateError
from general_manager.workflow.ids import new_id
from general_manager.workflow.rules import refusal
from general_manager.workflow.steps import StepRecord, StepStatus


def continue_failed(memory: ExecutionMemory, execution_id: str, resolved: Resolutions) -> Record:
    """A fresh execution with the finished steps of a failed one; which stays failed."""
    with memory.lock:
        old = memory.get(execution_id)
        if old.state is not WorkflowState.FAILED:
            raise _refusal(old, "")
        if not old.run_number:
            raise _refusal(old, "It never ran, because its handler cannot be imported.")
        for entry in old.history:
            if entry.kind is HistoryKind.CONTINUED:
                raise _refusal(old, f"It was continued as execution {entry.detail}.")
        try:
            steps = kept_steps(old.steps.values(), resolved)
        except NotContinuableError as error:
            raise _refusal(old, str(error)) from None
        new = Record(
            execution_id=new_id(),
            definition=old.definition,
            input_data=copy_encoded(old.input_data),
            correlation_id=old.correlation_id,
            metadata={**copy_encoded(old.metadata), "continues": old.execution_id},
            steps={step.name: step for step in steps},
        )
        kept = memory.add_once(new)
        if kept is not new:
            raise _refusal(
                old,
                f"Its correlation id is taken by execution {kept.execution_id}, "
                f"which is {kept.state}.",
            )
        memory.note(old, HistoryKind.CONTINUED, new.execution_id)
        memory.note(new, HistoryKind.CONTINUES, old.execution_id)
        for name in resolved:
            memory.note(new, HistoryKind.RESOLVED, verdict_on(name, resolved))
        return new


def _refusal(old: Record, detail: str) -> WorkflowInvalidStateError:
    allowed = (WorkflowState.FAILED,)
    return refusal(old.execution_id, "continue", old.state, allowed, detail)


def wake_early(memory: ExecutionMemory, execution_id: str) -> Record:
    """End the rest or the sleep of an execution now."""
    with memory.lock:
        record = memory.get(execution_id)
        detail = ""
        if record.state is WorkflowState.WAITING and record.waiting_for is not None:
            detail = f"It waits for {record.waiting_for!r}: answer that instead."
        elif record.wake_at is None:
            detail = "It neither rests nor sleeps."
        if detail:
            resting = (WorkflowState.PENDING, WorkflowState.WAITING)
            raise refusal(execution_id, "wake", record.state, resting, detail)
        now = memory.clock()
        record.wake_at = now
        for name, step in record.steps.items():
            if step.status is StepStatus.OPEN:
                record.steps[name] = StepRecord(name, StepStatus.OPEN, until=now)
        memory.note(record, HistoryKind.WOKEN)
        return record
