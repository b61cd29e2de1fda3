"""Signals in memory: sent, taken in order by waits, given back by repairs."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_answers import settle
from general_manager.workflow.backends.memory_records import Record
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.durable.signals import SignalSnapshot, SignalStatus
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.event_registry.mailbox import next_mark
from general_manager.workflow.executions.rules import refusal


@dataclass(slots=True, eq=False)
class MemorySignal:
    """One signal. Read and write it under the memory's lock only."""

    number: int
    sent_to: str
    name: str
    value: Any
    sent_at: datetime
    sent_by: str
    mark: int
    """In one order with events, with which it is compared."""
    status: SignalStatus = SignalStatus.KEPT
    taken_by: str | None = None
    wait: str | None = None
    taken_at: datetime | None = None


def require_active(memory: ExecutionMemory, named: Record) -> Record:
    """The newest execution of the chain; raises `WorkflowInvalidStateError` if it is over."""
    with memory.lock:
        record = memory.newest_of(named)
        if not record.is_active:
            raise refusal(record.execution_id, "signal", record.state, ACTIVE_STATES)
        return record


def send(
    memory: ExecutionMemory, named: Record, name: str, value: Any, sent_by: str
) -> Record | None:
    """Keep a signal for the chain of *named*; returns the execution whose open wait takes it."""
    with memory.lock:
        memory.signals_sent += 1
        signal = MemorySignal(
            memory.signals_sent,
            named.execution_id,
            name,
            value,
            memory.clock(),
            sent_by,
            next_mark(),
        )
        memory.signals.setdefault(named.chain, []).append(signal)
        record = memory.newest_of(named)
        return record if settle(memory, record) else None


def take_back(
    memory: ExecutionMemory, record: Record, returned: Collection[int], withdrawn: Collection[int]
) -> None:
    """The signals with these numbers are kept again, or withdrawn: their waits are forgotten."""
    for signal in memory.signals.get(record.chain, []):
        if signal.number in returned:
            signal.status = SignalStatus.KEPT
            signal.taken_by = signal.wait = signal.taken_at = None
        elif signal.number in withdrawn:
            signal.status = SignalStatus.WITHDRAWN


def signals_of(memory: ExecutionMemory, named: Record) -> list[SignalSnapshot]:
    """Every signal of the chain of *named*, in order."""
    with memory.lock:
        is_over = not memory.newest_of(named).is_active
        return [_snapshot(one, is_over=is_over) for one in memory.signals.get(named.chain, [])]


def _snapshot(signal: MemorySignal, *, is_over: bool) -> SignalSnapshot:
    is_unread = is_over and signal.status is SignalStatus.KEPT
    return SignalSnapshot(
        name=signal.name,
        value=copy_encoded(signal.value),
        status=SignalStatus.UNREAD if is_unread else signal.status,
        sent_to=signal.sent_to,
        sent_at=signal.sent_at,
        sent_by=signal.sent_by,
        taken_by=signal.taken_by,
        wait=signal.wait,
        taken_at=signal.taken_at,
    )
