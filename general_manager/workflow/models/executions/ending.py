"""Executions that undo before they end: who asks for it, and how they end then."""

from collections.abc import Mapping
from typing import Any

from django.db import models
from django.db.models import Q, Value

from general_manager.workflow.durable.ending import Ending, ending_of
from general_manager.workflow.durable.records import OPEN_SAGA, StepStatus
from general_manager.workflow.engine import ACTIVE_STATES, WorkflowState
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.executions.values import due_now, ready_now
from general_manager.workflow.models.sql.columns import DatabaseNow, not_indexed


def _ready(record: Any) -> dict[str, Any]:
    return {
        **ready_now(due_now(record.priority)),
        "state": WorkflowState.PENDING,
        "claim_token": None,
        "step_deadline": None,
    }


def _as(ending: Ending) -> dict[str, Any]:
    stored = Value(ending.to_json(), models.JSONField())
    return {
        "ending": stored,
        "ending_at": DatabaseNow(),
        "deadline": None,
        "deadline_left": None,
    }


def request_end(
    executions: Any, record: Any, ending: Ending, metadata: Mapping[str, Any] | None = None
) -> bool:
    """Ask an active execution to undo and to end; returns whether that makes it ready.

    Lock its row before. A run in progress keeps its claim and finds it; any other execution is
    ready at once. The first request counts. From then on its deadline does not: it would stop the
    undos.
    """
    row = executions.filter(not_indexed("state", *ACTIVE_STATES), pk=record.pk)
    values: dict[str, Any] = {} if metadata is None else {"metadata": metadata}
    if row.filter(ending_at=None).update(**_as(ending), **values):
        executions.note(HistoryKind.END_REQUESTED, [record.pk], ending.error)
    is_delayed = Q(not_indexed("state", WorkflowState.PENDING), ready=False)
    at_rest = Q(not_indexed("state", WorkflowState.WAITING)) | is_delayed
    return bool(row.filter(at_rest).update(**_ready(record), waiting_for=None, waiting_since=None))


def undo_instead(executions: Any, record: Any, ending: Ending) -> bool:
    """Running to ready, to undo before it ends so, with no crash counted; whether it won."""
    return undo(executions, executions.held(record), record, ending)


def undo(executions: Any, rows: Any, record: Any, ending: Ending) -> bool:
    """`undo_instead`, if *record* is among *rows*; a run in progress loses its claim."""
    won = rows.update(
        **_ready(record),
        **_as(ending),
        waiting_for=None,
        waiting_since=None,
        attempts=0,
        crashes=0,
        missing_handler_runs=0,
    )
    if won:
        executions.note(HistoryKind.END_REQUESTED, [record.pk], ending.error)
    return bool(won)


def release_to_end(executions: Any, record: Any) -> bool:
    """Running to ready, if it was asked to end; returns whether it was, and the run held it."""
    return bool(executions.held(record).exclude(ending_at=None).update(**_ready(record)))


def end_as(executions: Any, record: Any, ending: Ending) -> bool:
    """Running to the state that *ending* names; returns whether it won."""
    won: bool = executions.held(record).end(
        ending.state, error=ending.error or None, traceback=ending.traceback
    )
    if won and ending.state is WorkflowState.CANCELLED:
        executions.note(HistoryKind.CANCELLED, [record.pk], ending.error)
    return won


def asked_to_end(executions: Any, record: Any) -> Ending | None:
    """How the execution is to end, if the run still holds it."""
    return ending_of(executions.held(record).values_list("ending", flat=True).first())


def open_sagas(executions: Any, record: Any) -> list[str]:
    """Names of sagas that have begun, and are neither closed nor undone."""
    rows = record.steps.using(executions.db).filter(status__in=OPEN_SAGA)
    return list(rows.order_by("pk").values_list("name", flat=True))


def left_undone(executions: Any, record: Any) -> list[str]:
    """Undos that have not run, of sagas that are being undone."""
    steps = record.steps.using(executions.db)
    sagas = steps.filter(status=StepStatus.UNDOING).order_by("pk")
    names = [name for row in sagas for name in (row.result or {}).get("undos", ())]
    if not names:
        return []
    done = set(steps.filter(status=StepStatus.DONE, name__in=names).values_list("name", flat=True))
    return [name for name in reversed(names) if name not in done]
