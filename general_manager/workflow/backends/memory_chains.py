"""Chains of executions in memory: the next one, and the newest under a business key."""

from collections.abc import Callable, Sequence
from typing import Any

from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import Record, family_of
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.core.ids import new_id
from general_manager.workflow.durable.renewal import RENEWED_AS, renewed_metadata
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind


def renew(
    memory: ExecutionMemory,
    record: Record,
    run_number: int,
    input_data: dict[str, Any],
    closings: Sequence[Callable[[], None]],
) -> Record | None:
    """Running to completed, and a new execution in its place; `None` if the run lost it."""
    with memory.lock:
        if not memory.is_running(record, run_number):
            return None
        for close in closings:
            close()
        new = Record(
            execution_id=new_id(),
            definition=record.definition,
            input_data=input_data,
            correlation_id=record.correlation_id,
            metadata=renewed_metadata(copy_encoded(record.metadata), record.execution_id),
            subject=record.subject,
            attributes=record.attributes,
            caused_by=record.caused_by,
            deadline=record.deadline,
            **family_of(record),
        )
        if not memory.end(
            record,
            WorkflowState.COMPLETED,
            run_number=run_number,
            output_data={},
            metadata={RENEWED_AS: new.execution_id},
        ):
            return None
        memory.limits.pass_on(record, new)
        memory.pass_key_on(record)
        memory.add_successor(new, record)
        record.renewal = new
        memory.note(record, HistoryKind.CONTINUED_AS_NEW, new.execution_id)
        memory.note(new, HistoryKind.CONTINUES, record.execution_id)
        return new
