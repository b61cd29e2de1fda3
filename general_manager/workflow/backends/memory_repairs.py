"""What may be done to executions in memory besides the four verbs of every engine."""

from dataclasses import replace
from itertools import islice

from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import Record
from general_manager.workflow.checkpoints import (
    CONTINUABLE,
    NEVER_RAN,
    NotContinuableError,
    Resolutions,
    RetryPreview,
    Wanted,
    forgotten_in_words,
    fresh_metadata,
    key_is_taken,
    plan_or_refuse,
    preview,
    verdict_on,
    wait_snapshot,
    was_continued,
    why_not_woken,
)
from general_manager.workflow.encoding import copy_encoded
from general_manager.workflow.engine import (
    HistoryKind,
    WorkflowExecution,
    WorkflowState,
)
from general_manager.workflow.events import subjects_in
from general_manager.workflow.exceptions import (
    WorkflowCancelledError,
    WorkflowInvalidStateError,
    WorkflowWaitMismatchError,
)
from general_manager.workflow.ids import new_id
from general_manager.workflow.rules import refusal
from general_manager.workflow.steps import StepStatus, WaitSnapshot


def continue_as_fresh(
    memory: ExecutionMemory,
    execution_id: str,
    resolved: Resolutions,
    *,
    before: str | None = None,
    repeat_once: bool = False,
) -> Record:
    """A fresh execution with the finished steps of one that failed or was cancelled."""
    with memory.lock:
        old = memory.get(execution_id)
        why = _why_not_continued(memory, old)
        if why:
            raise _refusal(old, why)
        try:
            plan = plan_or_refuse(
                list(old.steps.values()), resolved, before, repeat_once=repeat_once
            )
        except NotContinuableError as error:
            raise _refusal(old, str(error)) from None
        new = Record(
            execution_id=new_id(),
            definition=old.definition,
            input_data=copy_encoded(old.input_data),
            correlation_id=old.correlation_id,
            metadata=fresh_metadata(copy_encoded(old.metadata), old.execution_id, plan),
            steps={step.name: step for step in plan.kept},
            position=old.position,
            subject=old.subject,
        )
        memory.add_once(new)
        memory.note(old, HistoryKind.CONTINUED, new.execution_id)
        memory.note(new, HistoryKind.CONTINUES, old.execution_id)
        forgotten = forgotten_in_words(plan)
        if forgotten:
            memory.note(new, HistoryKind.FORGOTTEN, forgotten)
        for name in resolved:
            memory.note(new, HistoryKind.RESOLVED, verdict_on(name, resolved), step=name)
        return new


def _why_not_continued(memory: ExecutionMemory, old: Record) -> str:
    if old.state not in CONTINUABLE:
        return f"It is {old.state}."
    if old.state is WorkflowState.FAILED and not old.run_number:
        return NEVER_RAN
    for entry in old.history:
        if entry.kind is HistoryKind.CONTINUED:
            return was_continued(entry.detail)
    holder = memory.holder_of(old)
    return "" if holder is None else key_is_taken(holder.execution_id, holder.state)


def preview_retry(
    memory: ExecutionMemory, execution_id: str, before: str | None, *, repeat_once: bool
) -> RetryPreview:
    with memory.lock:
        old = memory.get(execution_id)
        return preview(
            execution_id,
            list(old.steps.values()),
            before,
            repeat_once=repeat_once,
            refusal=_why_not_continued(memory, old),
        )


def _refusal(old: Record, detail: str) -> WorkflowInvalidStateError:
    if old.state not in CONTINUABLE:
        detail = ""
    return refusal(old.execution_id, "continue", old.state, CONTINUABLE, detail)


def wake_early(memory: ExecutionMemory, execution_id: str) -> Record:
    """End the rest or the sleep of an execution now."""
    with memory.lock:
        record = memory.get(execution_id)
        detail = why_not_woken(record.state, record.waiting_for, rests=record.wake_at is not None)
        if detail:
            resting = (WorkflowState.PENDING, WorkflowState.WAITING)
            raise refusal(execution_id, "wake", record.state, resting, detail)
        now = memory.clock()
        record.wake_at = now
        for name, step in record.steps.items():
            if step.status is StepStatus.OPEN and not step.answerable:
                record.steps[name] = replace(step, until=now)
        memory.note(record, HistoryKind.WOKEN)
        return record


def time_out_early(memory: ExecutionMemory, execution_id: str, wait: str | None) -> Record:
    """Time the open wait out now."""
    with memory.lock:
        record = memory.get(execution_id)
        name = record.waiting_for
        if name is None or not record.is_active:
            is_cancelled = record.state is WorkflowState.CANCELLED
            kind = WorkflowCancelledError if is_cancelled else WorkflowInvalidStateError
            is_waiting = record.state is WorkflowState.WAITING
            detail = "It is sleeping; no wait is open." if is_waiting else "No wait is open."
            allowed = (WorkflowState.WAITING,)
            raise kind(execution_id, "time out", record.state, allowed, detail)
        if wait is not None and wait != name:
            raise WorkflowWaitMismatchError(
                execution_id, "time out", record.state, (record.state,),
                f"It waits for {name!r}, not for {wait!r}.",
            )  # fmt: skip
        memory.end_wait(record, name, StepStatus.TIMED_OUT, HistoryKind.WAIT_ENDED)
        return record


def find_wait(memory: ExecutionMemory, execution_id: str, name: str) -> WaitSnapshot | None:
    """One wait as it stands; `None` if the execution has not come to it, or never will."""
    with memory.lock:
        record = memory.get(execution_id)
        step = record.steps.get(name)
        if step is None or not step.answerable:
            return None
        is_asked = record.is_active and record.waiting_for == name
        return wait_snapshot(step, is_asked=is_asked, subject=record.subject or "")


def find_executions(memory: ExecutionMemory, wanted: Wanted, limit: int) -> list[WorkflowExecution]:
    """The latest executions that are *wanted*."""
    subjects = None if wanted.subject is None else subjects_in(wanted.subject)
    with memory.lock:
        found = (
            record
            for record in memory.latest()
            if wanted.workflow_id in (None, record.definition.workflow_id)
            and wanted.correlation_id in (None, record.correlation_id)
            and (subjects is None or record.subject in subjects)
        )
        return [record.snapshot() for record in islice(found, limit)]
