"""Sending a signal in memory: by the commit of a caller's transaction, or at once."""

from typing import Any

from django.db import transaction

from general_manager.conf import is_configured
from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import Record
from general_manager.workflow.backends.memory_runs import MemoryRuns
from general_manager.workflow.backends.memory_signals import require_active, send
from general_manager.workflow.backends.memory_steps import home
from general_manager.workflow.core.actors import current_actor
from general_manager.workflow.core.observers import notify
from general_manager.workflow.core.transactions import is_in_transaction
from general_manager.workflow.engine import WorkflowExecution
from general_manager.workflow.signals import execution_signalled


def send_signal(
    memory: ExecutionMemory, runs: MemoryRuns, record: Record, name: str, value: Any
) -> None:
    """Keep the encoded *value* for the chain of *record*, and continue the execution that waits.

    Raises `WorkflowInvalidStateError` if the chain is over.
    """
    about, by = require_active(memory, record), current_actor()
    notify(
        execution_signalled,
        WorkflowExecution,
        execution_id=about.execution_id,
        workflow_id=about.definition.workflow_id,
        name=name,
    )

    def deliver() -> None:
        taker = send(memory, record, name, value, by)
        if taker is not None and taker.wake_at is None:
            runs.run(taker)

    if is_configured() and is_in_transaction(home()):
        transaction.on_commit(deliver, using=home(), robust=True)
    else:
        deliver()
