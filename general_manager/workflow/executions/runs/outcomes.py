"""Writes what a run came to, under its claim."""

from collections.abc import Callable, Sequence
from typing import Any

from general_manager.workflow.durable.run import Run
from general_manager.workflow.durable.stops import (
    Ended,
    Interrupted,
    Retrying,
    RunAgain,
    Suspended,
    WaitsForChildren,
)
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions.commits import persist_for
from general_manager.workflow.executions.settling import (
    complete,
    end_now,
    leave_interrupted,
    to_end_soon,
)
from general_manager.workflow.executions.store import DatabaseRunStore
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.children.look import suspend
from general_manager.workflow.models.execution import Executions


def settle(
    record: WorkflowExecutionRecord,
    executions: Executions,
    run: Run,
    store: DatabaseRunStore,
    output: dict[str, Any],
) -> WorkflowState | None:
    """The new state, or `None` if it was written or lost already, or is written with its batch."""
    using, stopped = executions.db, run.stopped
    state = None
    if isinstance(stopped, Interrupted):
        is_ready = leave_interrupted(record, using, stopped.error, store.uncalled)
        state = WorkflowState.PENDING if is_ready else None
    elif isinstance(stopped, WaitsForChildren):
        state = persist_for(record, using, lambda: suspend(executions, record, stopped.name))
    elif isinstance(stopped, Retrying):
        state = WorkflowState.PENDING
    elif isinstance(stopped, RunAgain):
        state = to_end_soon(record, using)
    elif isinstance(stopped, Ended):
        state = end_now(record, using, stopped.ending)
    elif isinstance(stopped, Suspended):
        state = persist_for(
            record, using, lambda: executions.suspend(record, stopped, store.opening)
        )
        state = state or executions.state_after(record)
    elif stopped is None and not _completes_with_its_batch(record, run, output):
        state = settle_completed(record, using, output, run.closings)
    return state


def settle_completed(
    record: WorkflowExecutionRecord,
    using: str,
    output: dict[str, Any],
    closings: Sequence[Callable[[], None]] = (),
) -> WorkflowState | None:
    """Completed; or pending, if it was asked to end meanwhile; `None` if the run is lost."""
    executions = WorkflowExecutionRecord.objects.using(using)
    is_done = persist_for(record, using, lambda: complete(record, using, output, closings))
    if is_done:
        return WorkflowState.COMPLETED
    state = executions.state_after(record)
    record.leaves_duty |= state is WorkflowState.COMPLETED  # the answer was lost that says so
    return state or to_end_soon(record, using)


def _completes_with_its_batch(
    record: WorkflowExecutionRecord, run: Run, output: dict[str, Any]
) -> bool:
    return record.batch is not None and not run.closings and record.batch.take_end(record, output)
