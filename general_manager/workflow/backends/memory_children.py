"""Children in memory: started, looked at when they end, stopped with their parents."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import MemorySlot, Record
from general_manager.workflow.backends.memory_sagas import cancel
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.core.ids import new_id
from general_manager.workflow.core.limits import line_of
from general_manager.workflow.durable.children.specs import (
    CYCLE,
    RAISE,
    Child,
    ChildOutcome,
    GatherOptions,
    stored_failure,
)
from general_manager.workflow.durable.records import StepRecord, StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind


class MemoryFound(NamedTuple):
    """What follows from a look: executions that may run, and children to cancel."""

    ready: Sequence[Record] = ()
    stop: Sequence[Record] = ()


@dataclass(frozen=True, slots=True)
class Stopped:
    """A child that was cancelled, or asked to undo and to end."""

    record: Record
    is_over: bool


def start(
    memory: ExecutionMemory,
    parent: Record,
    name: str,
    children: Sequence[Child],
    options: GatherOptions,
) -> list[Record]:
    """Start the children that have no slot yet; returns those that may run."""
    slots = parent.slots.setdefault(name, {})
    running = _running(memory, slots.values())
    above = _above(memory, parent)
    ready: list[Record] = []
    for place, one in enumerate(children):
        if place in slots:
            continue
        new = _new(parent, one)
        kept = memory.add_once(new)
        slot = MemorySlot(place, one.key or str(place), kept.definition.workflow_id, kept.chain)
        slots[place] = slot
        memory.watchers.setdefault(kept.chain, []).append((parent, name))
        if kept is not new:
            slot.is_own = False
            if kept.chain in above:
                slot.outcome = _outcome(slot, kept, CYCLE)
            elif kept.is_active and not kept.is_held:
                running.add(kept.chain)
            continue
        memory.children.setdefault(parent.execution_id, []).append(new)
        new.is_held = options.at_once is not None and len(running) >= options.at_once
        slot.is_held = new.is_held
        if not new.is_held:
            running.add(kept.chain)
            _release(memory, new)
            ready.append(new)
    return ready


def _running(memory: ExecutionMemory, slots: Iterable[MemorySlot]) -> set[str]:
    """The chains of open slots whose child has begun, or may: not those that join a held one."""
    found = {one.child: memory.newest_in(one.child) for one in slots if one.outcome is None}
    return {chain for chain, child in found.items() if child is None or not child.is_held}


def _new(parent: Record, one: Child) -> Record:
    return Record(
        execution_id=new_id(),
        definition=one.definition,
        input_data=copy_encoded(one.input_data),
        correlation_id=one.correlation_id,
        metadata={},
        subject=parent.subject,
        caused_by=parent.caused_by,
        parent=parent.execution_id,
        root=parent.root or parent.execution_id,
        depth=parent.depth + 1,
        abandoned=one.abandon,
        line=line_of(
            one.definition.workflow_id, one.definition.limit, one.definition.rate, one.input_data
        ),
    )


def _release(memory: ExecutionMemory, record: Record) -> None:
    record.is_held = False
    record.deadline = record.definition.deadline_from(memory.clock())


def _above(memory: ExecutionMemory, record: Record) -> set[str]:
    """The chains of the execution and of all that wait for it."""
    found: set[str] = set()
    new = {record.chain}
    while new:
        found |= new
        new = {
            parent.chain
            for chain in new
            for parent, name in memory.watchers.get(chain, ())
            if _waits_for(parent, name, chain)
        } - found
    return found


def _waits_for(parent: Record, name: str, chain: str) -> bool:
    """It may also have given the child up: by a timeout, or because it is to end."""
    step = parent.steps.get(name)
    if not parent.is_active or step is None or step.status is not StepStatus.GATHERING:
        return False
    slots = parent.slots.get(name, {}).values()
    left = [one for one in slots if one.child == chain and one.outcome is None]
    return any(one.is_stopped or parent.ending is None for one in left)


def look(
    memory: ExecutionMemory, parent: Record, name: str, *, may_time_out: bool = False
) -> MemoryFound:
    """Copy the outcomes of children that are over, and say what follows."""
    with memory.lock:
        slots = list(parent.slots.get(name, {}).values())
        for slot in slots:
            newest = memory.newest_in(slot.child) if slot.outcome is None else None
            if newest is not None and not newest.is_active:
                slot.outcome = _outcome(slot, newest, newest.state)
        step = parent.steps.get(name)
        left = [one for one in slots if one.outcome is None]
        if step is None or step.status is not StepStatus.GATHERING or not parent.is_active:
            return MemoryFound(stop=_to_stop(memory, left) if parent.is_active else ())
        plan = step.result
        bad = [one for one in slots if one.outcome is not None and one.outcome.is_bad]
        fails = bool(bad) and plan["on_failure"] == RAISE
        if fails or plan.get("closes"):
            _mark_to_stop(memory, left)
        waits = [one for one in left if one.is_stopped] if plan.get("closes") else left
        if not waits:
            return MemoryFound(_settle(memory, parent, step, slots, bad))
        is_due = step.until is not None and step.until <= memory.clock()
        is_late = may_time_out and is_due
        if is_late:
            _mark_to_stop(memory, left)
            _end(memory, parent, name, StepStatus.TIMED_OUT, HistoryKind.WAIT_TIMED_OUT)
        if is_late or fails or plan.get("closes"):
            return MemoryFound(stop=_to_stop(memory, left))
        return MemoryFound(_to_release(memory, left, plan["at_once"]))


def _mark_to_stop(memory: ExecutionMemory, left: Sequence[MemorySlot]) -> None:
    """Not those with ``abandon=True``, unless they are held: nobody would release them."""
    for one in left:
        child = memory.newest_in(one.child)
        if one.is_own and (child is None or child.is_held or not child.abandoned):
            one.is_stopped = True


def _outcome(slot: MemorySlot, record: Record, state: str) -> ChildOutcome:
    output, error = copy_encoded(record.output_data), record.error or ""
    is_cycle = state == CYCLE
    return ChildOutcome(
        slot.place,
        slot.key,
        slot.workflow_id,
        record.execution_id,
        state,
        None if is_cycle else output,
        "" if is_cycle else error,
    )


def _to_stop(memory: ExecutionMemory, left: Sequence[MemorySlot]) -> list[Record]:
    found = (memory.newest_in(one.child) for one in left if one.is_stopped)
    return [one for one in found if one is not None]


def _to_release(
    memory: ExecutionMemory, left: Sequence[MemorySlot], at_once: int | None
) -> list[Record]:
    held = [one for one in left if one.is_held]
    free = len(held) if at_once is None else at_once - len(_running(memory, left))
    ready: list[Record] = []
    for slot in held[: max(0, free)]:
        slot.is_held = False
        child = memory.newest_in(slot.child)
        if child is not None:
            _release(memory, child)
            ready.append(child)
    return ready


def _settle(
    memory: ExecutionMemory,
    parent: Record,
    step: StepRecord,
    slots: Sequence[MemorySlot],
    bad: Sequence[MemorySlot],
) -> list[Record]:
    """All are over: write what the gather came to; the execution, if it may run now."""
    values: dict[str, Any] = {"result": {"children": len(slots), "failed": len(bad)}}
    status = StepStatus.DONE
    if step.result.get("closes"):
        status = StepStatus.CLOSED
    elif step.result["on_failure"] == RAISE and bad:
        status = StepStatus.FAILED
        first = min(bad, key=lambda one: (one.is_stopped, one.place))  # stopped ones come last
        if first.outcome is not None:
            values |= {"failure": stored_failure(step.name, first.outcome), "attempts": 1}
    return _end(memory, parent, step.name, status, HistoryKind.CHILDREN_ENDED, **values)


def _end(
    memory: ExecutionMemory,
    parent: Record,
    name: str,
    status: StepStatus,
    kind: HistoryKind,
    **values: Any,
) -> list[Record]:
    parent.keep(name, status, memory.clock(), **values)
    parent.attempts = 0
    memory.note(parent, kind, name, step=name)
    if parent.state is not WorkflowState.WAITING:
        return []  # a run in progress finds it
    parent.state, parent.wake_at, parent.waiting_since = WorkflowState.PENDING, None, None
    return [parent]


def suspend(
    memory: ExecutionMemory, record: Record, run_number: int, name: str
) -> WorkflowState | None:
    """Running to waiting; or to pending, if the gather has its outcome.

    Returns the new state, or `None` if this run no longer holds the execution.
    """
    with memory.lock:
        if not memory.is_running(record, run_number):
            return None
        step = record.steps[name]
        record.state = WorkflowState.PENDING
        closes = step.status is StepStatus.GATHERING and step.result.get("closes")
        if step.status is StepStatus.GATHERING and (closes or record.ending is None):
            record.state, record.waiting_since = WorkflowState.WAITING, step.started_at
            record.wake_at = None if closes else step.until
        return record.state


def looks_after(memory: ExecutionMemory, ended: Record) -> list[MemoryFound]:
    """The looks of all that wait for an execution that has ended."""
    with memory.lock:
        watchers = memory.watchers.pop(ended.chain, [])
        memory.watchers.update({ended.chain: watchers} if _goes_on(memory, ended) else {})
        return [look(memory, parent, name) for parent, name in watchers]


def _goes_on(memory: ExecutionMemory, ended: Record) -> bool:
    newest = memory.newest_in(ended.chain)
    return newest is not None and newest.is_active


def children_to_stop(memory: ExecutionMemory, ended: Record) -> list[Record]:
    """Children of an execution that failed or was cancelled, but those that go on without it."""
    if ended.state is WorkflowState.COMPLETED:
        return []
    with memory.lock:
        started = (
            memory.newest_in(one.chain) for one in memory.children.get(ended.execution_id, ())
        )
        active = [one for one in started if one is not None and one.is_active]
        return [one for one in active if one.is_held or not one.abandoned]


def stop(
    memory: ExecutionMemory, record: Record, reason: str, *, compensate: bool = True
) -> Stopped | None:
    """Cancel a child; `None` if it is over, or undoes already."""
    with memory.lock:
        if not record.is_active or (compensate and record.ending is not None):
            return None
        cancel(memory, record.execution_id, reason, compensate=compensate)
        return Stopped(record, not record.is_active)
