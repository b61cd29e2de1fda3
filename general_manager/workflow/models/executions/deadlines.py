"""The deadlines of executions: ends those that did not end in time, whatever they are doing."""

from datetime import timedelta
from typing import Any

from django.db import transaction

from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.executions.ending import open_sagas, undo
from general_manager.workflow.models.executions.values import is_past_deadline


def find_expired(executions: Any, limit: int) -> list[tuple[int, str, timedelta, str | None]]:
    """Keys, ids, lifetimes and limits' keys of those whose deadline has passed; one statement."""
    late = executions.filter(is_past_deadline()).order_by("deadline")
    return list(late.values_list("pk", "execution_id", "lifetime", "slot_key")[:limit])


def end_expired(executions: Any, key: int, error: str, traceback: str) -> bool:
    """Active to failed, if the deadline has passed; returns whether it won.

    A run in progress loses its claim with that. A row that is locked at the moment is skipped, and
    so is an execution with an open saga: see `undo_expired`.
    """
    late = executions.filter(is_past_deadline(), pk=key)
    with transaction.atomic(using=executions.db):
        record = late.select_for_update(skip_locked=True).only("pk").first()
        if record is None or open_sagas(executions, record):
            return False
        if not late.end(WorkflowState.FAILED, error=error, traceback=traceback, by_its_run=False):
            return False
        executions.note(HistoryKind.DEADLINE_PASSED, [key])
        return True


def undo_expired(executions: Any, key: int, ending: Ending) -> bool:
    """Active to ready, to undo its open sagas, if the deadline has passed; whether it won.

    A run in progress loses its claim with that. A row that is locked at the moment is skipped.
    """
    late = executions.filter(is_past_deadline(), pk=key)
    if not open_sagas(executions, executions.model(pk=key)):
        return False
    with transaction.atomic(using=executions.db):
        record = late.select_for_update(skip_locked=True).only("pk", "priority").first()
        if record is None or not open_sagas(executions, record):
            return False
        if not undo(executions, executions.filter(pk=key), record, ending):
            return False
        executions.note(HistoryKind.DEADLINE_PASSED, [key])
        return True
