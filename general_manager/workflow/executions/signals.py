"""Send signals to stored executions, and look whether a wait takes them.

A sender writes, commits, then looks. Inside a caller's transaction `send` inserts a row and locks
nothing, so two atomic steps may signal each other's execution; its look follows the commit. If the
sender dies in between, the sweep looks.
"""

from collections.abc import Callable
from typing import Any, Final

from django.db import transaction

from general_manager.workflow.admission.lines import look_soon
from general_manager.workflow.core.observers import notify
from general_manager.workflow.core.transactions import is_in_transaction
from general_manager.workflow.durable.signals import SignalSnapshot
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowExecution
from general_manager.workflow.executions.rules import refusal
from general_manager.workflow.executions.runner import run_here
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowSignal
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.executions.looks import find_newest, look
from general_manager.workflow.models.executions.taking import chain_of
from general_manager.workflow.signals import execution_signalled

LOOKS_BATCH: Final = 200
"""Signals in one batch of the sweep."""


def signal(
    executions: Executions,
    named: WorkflowExecutionRecord,
    name: str,
    value: Any,
    run_soon: Callable[[str, str, str | None], object],
) -> str:
    """`send`, and look after the commit.

    *run_soon* gets the id, the queue and the limit's key of the execution that this makes ready.

    Returns the id of the execution that gets it.
    """
    record, key = send(executions, named, name, value)

    def look_and_run() -> None:
        ready = look(executions, chain_of(record), [key])
        if ready is not None:
            run_soon(ready.execution_id, ready.queue, ready.slot_key)

    if is_in_transaction(executions.db):
        transaction.on_commit(look_and_run, using=executions.db, robust=True)
    else:
        look_and_run()
    return str(record.execution_id)


def send(
    executions: Executions, named: WorkflowExecutionRecord, name: str, value: Any
) -> tuple[WorkflowExecutionRecord, int]:
    """Store a signal for the chain of *named*; returns its newest execution and the signal's key.

    Raises `WorkflowInvalidStateError` if the chain is over. If it ends at this moment, the signal
    is kept and stays unread: only a lock would exclude that.
    """
    chain = chain_of(named)
    record = named
    if record.state not in ACTIVE_STATES:  # a fresh execution may continue it
        record = find_newest(executions, chain) or named
    if record.state not in ACTIVE_STATES:
        raise refusal(record.execution_id, "signal", record.state, ACTIVE_STATES)
    signals = WorkflowSignal.objects.using(executions.db)
    key = signals.send(chain, named.execution_id, name, value)
    notify(
        execution_signalled,
        WorkflowExecution,
        execution_id=record.execution_id,
        workflow_id=record.workflow_id,
        name=name,
    )
    return record, key


def look_for_dead_senders(executions: Executions) -> int:
    """The looks whose senders died; returns how many executions they made ready."""
    found = WorkflowSignal.objects.using(executions.db).due(LOOKS_BATCH)
    answered = [look(executions, chain, keys) for chain, keys in found.items()]
    ready = [one for one in answered if one is not None]
    for one in ready:
        if one.slot_key is not None:
            look_soon(executions.db, one.slot_key, run_here)
    return len(ready)


def signals_of(executions: Executions, named: WorkflowExecutionRecord) -> list[SignalSnapshot]:
    """Every signal of the chain of *named*, in order."""
    chain = chain_of(named)
    newest = find_newest(executions, chain)
    is_over = newest is None or newest.state not in ACTIVE_STATES
    rows = WorkflowSignal.objects.using(executions.db).filter(chain=chain).order_by("pk")
    return [row.snapshot(is_over=is_over) for row in rows]
