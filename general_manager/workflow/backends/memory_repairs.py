"""Repairs of executions in memory: continue, wake, time out."""

from dataclasses import replace

from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_answers import give_back
from general_manager.workflow.backends.memory_records import Record, family_of
from general_manager.workflow.backends.memory_signals import take_back
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.core.ids import new_id
from general_manager.workflow.durable.continuation import (
    CONTINUABLE,
    NEVER_RAN,
    NotContinuableError,
    Plan,
    Resolutions,
    RetryPreview,
    forgotten_in_words,
    fresh_ending,
    fresh_metadata,
    plan_or_refuse,
    preview,
)
from general_manager.workflow.durable.forgetting import (
    key_is_taken,
    resolution_in_words,
    was_continued,
)
from general_manager.workflow.durable.records import StepStatus, WaitSnapshot, wait_snapshot
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions.rules import (
    open_wait,
    refuse_to_continue,
    refuse_to_wake,
    why_not_woken,
)
from general_manager.workflow.history import HistoryKind


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
            raise refuse_to_continue(execution_id, old.state, why)
        try:
            plan = plan_or_refuse(
                list(old.steps.values()), resolved, before, repeat_once=repeat_once
            )
        except NotContinuableError as error:
            raise refuse_to_continue(execution_id, old.state, str(error)) from None
        new = Record(
            execution_id=new_id(),
            definition=old.definition,
            input_data=copy_encoded(old.input_data),
            correlation_id=old.correlation_id,
            metadata=fresh_metadata(copy_encoded(old.metadata), old.execution_id, plan),
            steps={step.name: step for step in plan.kept},
            position=old.position,
            subject=old.subject,
            caused_by=old.caused_by,
            attributes=dict(old.attributes),
            **family_of(old),
            line=old.line,
        )
        _keep_children(old, new, plan)
        new.deadline = old.definition.deadline_from(memory.clock())
        ending = fresh_ending(old.ending, old.state, plan)
        if ending is not None:
            new.to_end(ending)
        memory.add_successor(new, old)
        take_back(memory, new, plan.returned, plan.withdrawn)
        give_back(memory, new, plan.events(is_own=False))
        memory.note(old, HistoryKind.CONTINUED, new.execution_id)
        memory.note(new, HistoryKind.CONTINUES, old.execution_id)
        forgotten = forgotten_in_words(plan)
        if forgotten:
            memory.note(new, HistoryKind.FORGOTTEN, forgotten)
        for kind, names in plan.notes.items():
            memory.note(new, kind, names)
        for name in resolved:
            memory.note(new, HistoryKind.RESOLVED, resolution_in_words(name, resolved), step=name)
        return new


def _keep_children(old: Record, new: Record, plan: Plan) -> None:
    """All children of a gather that is kept; those that completed of one that is not undone."""
    kept = {one.name for one in plan.kept}
    for name, slots in old.slots.items():
        keeps = plan.keeps_children and name not in plan.undone
        done = {
            place: replace(one, is_stopped=False)
            for place, one in slots.items()
            if name in kept or (keeps and one.outcome is not None and not one.outcome.is_bad)
        }
        if done:
            new.slots[name] = done


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


def wake(memory: ExecutionMemory, execution_id: str) -> Record:
    """End an execution's sleep, or its delay before the next attempt, now."""
    with memory.lock:
        record = memory.get(execution_id)
        detail = why_not_woken(
            record.state,
            record.waiting_for,
            is_delayed=record.wake_at is not None,
            children=record.gathering is not None,
        )
        if detail:
            raise refuse_to_wake(execution_id, record.state, detail)
        now = memory.clock()
        record.wake_at = now
        for name, step in record.steps.items():
            if step.status in (StepStatus.OPEN, StepStatus.RETRYING) and not step.answerable:
                record.steps[name] = replace(step, until=now)
        memory.note(record, HistoryKind.WOKEN)
        return record


def time_out(memory: ExecutionMemory, execution_id: str, wait: str | None) -> Record:
    """Time the open wait out now."""
    with memory.lock:
        record = memory.get(execution_id)
        name = open_wait(execution_id, "time out", record.state, record.waiting_for, wait)
        memory.end_wait(record, name, StepStatus.TIMED_OUT, HistoryKind.WAIT_ENDED)
        return record


def find_wait(memory: ExecutionMemory, execution_id: str, name: str) -> WaitSnapshot | None:
    """The wait *name* as it is now; `None` if the execution has not reached it."""
    with memory.lock:
        record = memory.get(execution_id)
        step = record.steps.get(name)
        if step is None or not step.answerable:
            return None
        is_asked = record.is_active and record.waiting_for == name
        return wait_snapshot(
            step,
            execution_id=record.execution_id,
            is_asked=is_asked,
            subject=record.subject or "",
        )
