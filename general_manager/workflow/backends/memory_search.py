"""Look-ups of executions in memory."""

from itertools import islice

from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import Record
from general_manager.workflow.engine import WorkflowExecution
from general_manager.workflow.executions.query import ExecutionFilter, same_values


class RememberedExecutions:
    """The executions in memory that match a filter, newest first, for `ExecutionQuery`."""

    def __init__(self, memory: ExecutionMemory, wanted: ExecutionFilter) -> None:
        self._memory = memory
        self._wanted = wanted

    def page(self, before: int | None, skip: int, size: int) -> list[tuple[int, WorkflowExecution]]:
        with self._memory.lock:
            found = (
                record
                for record in self._memory.latest()
                if (before is None or record.number < before) and _matches(record, self._wanted)
            )
            return [(one.number, one.snapshot()) for one in islice(found, skip, skip + size)]

    def count(self, skip: int, most: int | None) -> int:
        with self._memory.lock:
            found = sum(_matches(record, self._wanted) for record in self._memory.latest())
        left = max(0, found - skip)
        return left if most is None else min(left, most)


def _matches(record: Record, wanted: ExecutionFilter) -> bool:
    first, end = wanted.first_id, wanted.end_id
    return (
        wanted.workflow_id in (None, record.definition.workflow_id)
        and wanted.correlation_id in (None, record.correlation_id)
        and (not wanted.states or record.state in wanted.states)
        and (not wanted.subjects or record.subject in wanted.subjects)
        and same_values(record.attributes, wanted.attributes)
        and (first is None or record.execution_id >= first)
        and (end is None or record.execution_id < end)
    )
