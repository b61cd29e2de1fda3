"""Claims of ready executions: a worker takes several, then begins them one by one, or in `batches`.

What is taken stays ``pending`` under the worker's token, with a short lease: if the worker dies,
only the execution that it had begun is charged with it. Each begin checks the token. An execution
that has no slot of its limit, for example after a delay, is not taken: it joins its line. What is
paused is parked by the claim itself: the same statement reads the pauses, or the same transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from django.db import connections, models, transaction
from django.db.models import Case, Q, Value, When

from general_manager.cursors import cursor_on
from general_manager.workflow.core.actors import whereabouts
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.executions.parking import is_to_park, park
from general_manager.workflow.models.executions.statements import FOR_A_RUN
from general_manager.workflow.models.executions.values import (
    NEEDS_SLOT,
    due_now,
    is_in_time,
    ready_now,
    running,
)
from general_manager.workflow.models.pause import WorkflowPause
from general_manager.workflow.models.sql.claims import claim_surely
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now, not_indexed
from general_manager.workflow.models.sql.commits import update_without_waiting, without_waiting
from general_manager.workflow.models.sql.compiled import CompiledUpdate, Slot, can_fetch
from general_manager.workflow.models.sql.due import Share, due_rows, select_due
from general_manager.workflow.models.sql.low_water import low_water

TAKEN_LEASE: Final = timedelta(seconds=10)
"""A worker begins what it took, or gives it back, within a second; then others may take it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Keys of executions that a worker has taken, in the order in which they run."""

    token: str
    calm: tuple[int, ...] = ()
    suspect: tuple[int, ...] = ()
    """Their last worker died: to run when nothing else is taken that could share their fate."""
    lines: tuple[str, ...] = ()
    """Keys of the lines that others joined instead, one for each: they need a slot first."""

    parked: tuple[int, ...] = ()
    """Their workflow is paused, so this claim has parked them: look again, see `parking`."""
    freed: tuple[str, ...] = ()
    """Keys of the lines of what was parked, which may have held a slot: look there."""
    is_mixed: bool = False
    """Whether it begins with what is new in a backlog."""

    @property
    def size(self) -> int:
        return len(self.calm) + len(self.suspect) + len(self.lines) + len(self.parked)


def take_ready(rows: Any, limit: int, share: Share) -> Taken:
    """Take up to *limit* ready executions of the share's queue."""
    token = uuid4().hex
    take = _take_at_once if connections[rows.db].vendor == "postgresql" else _select_and_take
    return claim_surely(
        rows.db, lambda: take(rows, token, limit, share), lambda: _taken_by(rows, token)
    )


def begin(rows: Any, key: int, token: str, *, lease: timedelta) -> Any:
    """Taken to running; the row, or `None` if the worker holds it no longer."""
    slots = {"key": key, "token": token, "by": whereabouts()}

    def mine() -> Any:
        return rows.filter(pk=key, claim_token=token, state=WorkflowState.RUNNING).first()

    def write() -> Any:
        if can_fetch(rows.db):
            return _BEGIN.take(rows, lease, **slots)
        return mine() if _BEGIN.run(rows, lease, **slots) else None

    return claim_surely(rows.db, write, mine)


def give_back(rows: Any, token: str, keys: Sequence[int]) -> int:
    """Taken to ready, for any worker."""
    is_taken = not_indexed("state", WorkflowState.PENDING)
    return to_ready(rows.filter(is_taken, pk__in=keys, claim_token=token))


def to_ready(held: Any, **values: Any) -> int:
    """What a worker holds to ready, each due by its priority, with these *values*."""
    given = 0
    for priority in set(held.values_list("priority", flat=True)):
        given += update_without_waiting(
            held.filter(priority=priority), claim_token=None, wake_at=due_now(priority), **values
        )
    return given


def _take_at_once(rows: Any, token: str, limit: int, share: Share) -> Taken:
    """One statement, for PostgreSQL."""
    table = rows.model._meta.db_table
    hint = low_water(rows.db, f"{table} {share.queue}")
    began, mark = hint.now(), hint.mark()
    columns = "id, wake_at, workflow_id, deadline"
    locked, values = due_rows(
        columns, table, "wake_at", share, limit, since=mark, condition="state = 'pending'"
    )
    parameters: Any = (*values, token, TAKEN_LEASE)
    pauses = WorkflowPause._meta.db_table
    sql = _TAKE_SQL.format(table=table, rows=locked, needs_slot=_LACKS_SLOT, pauses=pauses)
    sql += without_waiting(rows.db)
    with cursor_on(connections[rows.db]) as cursor:
        cursor.execute(sql, parameters)
        found = sorted((row[:5] for row in cursor.fetchall()), key=lambda row: row[:2])
    hint.learn(began, mark, found[0][0] if found else None)
    first, others = share.in_turn([row[1:] for row in found], limit, [row[0] for row in found])
    return _taken(token, first + others, is_mixed=bool(first))


def _select_and_take(rows: Any, token: str, limit: int, share: Share) -> Taken:
    ready = rows.filter(state=WorkflowState.PENDING, queue=share.queue, wake_at__lte=DatabaseNow())
    with transaction.atomic(using=rows.db):
        columns = ("pk", "is_suspect", "slot_key", "holds_slot", "is_paused", "wake_at")
        asked = ready.annotate(is_paused=is_to_park(), is_suspect=_IS_SUSPECT)
        found = select_due(asked, "wake_at", columns, share, limit)
        if not found:
            return Taken("")
        first, others = share.in_turn(found, limit, [row[5] for row in found])
        found = first + others
        parked = [(row[0], False, row[2], True) for row in found if row[4]]
        if parked:
            park(rows.filter(pk__in=[row[0] for row in parked]))
        found = [row for row in found if not row[4]]
        keys = [row[0] for row in found]
        # The condition is repeated: not every database locks the rows it selects.
        changed = ready.filter(pk__in=keys).update(
            claim_token=Case(When(NEEDS_SLOT, then=None), default=Value(token)),
            **ready_now(from_now(TAKEN_LEASE)),
        )
        if changed != len(found):
            ours = set(rows.filter(pk__in=keys, claim_token=token).values_list("pk", flat=True))
            found = [row for row in found if row[0] in ours]
    taken = [(*row[:2], None if row[3] else row[2], False) for row in found]
    return _taken(token, taken + parked, is_mixed=bool(first))


def _taken_by(rows: Any, token: str) -> Taken | None:
    mine = rows.filter(claim_token=token, state=WorkflowState.PENDING).order_by("pk")
    asked = mine.annotate(is_suspect=_IS_SUSPECT)
    found = [(*row, False) for row in asked.values_list("pk", "is_suspect", "waits_slot")]
    return _taken(token, found) if found else None


def _taken(token: str, found: Sequence[tuple[Any, ...]], *, is_mixed: bool = False) -> Taken:
    """From the key of each, whether it is suspect, its line, and whether it was parked."""
    parked = [row for row in found if row[3]]
    others = [row for row in found if not row[3]]
    taken = [row for row in others if row[2] is None]
    return Taken(
        token,
        tuple(row[0] for row in taken if not row[1]),
        tuple(row[0] for row in taken if row[1]),
        tuple(row[2] for row in others if row[2] is not None),
        tuple(row[0] for row in parked),
        tuple(row[2] for row in parked if row[2] is not None),
        is_mixed,
    )


def _beginning(rows: Any, lease: timedelta) -> tuple[Any, dict[str, Any]]:
    key = Slot("key", models.BigIntegerField())
    is_taken = not_indexed("state", WorkflowState.PENDING)
    mine = rows.filter(is_taken, is_in_time(), pk=key, claim_token=Slot("token"))
    return mine, running(lease)


_BEGIN: CompiledUpdate[Any] = CompiledUpdate(_beginning, fetched=FOR_A_RUN)

_IS_SUSPECT: Final = Q(crashes__gt=0) | Q(run_alone=True)
_LACKS_SLOT: Final = "(slot_key IS NOT NULL AND holds_slot IS NULL)"
_TAKE_SQL: Final = """
WITH {rows}, found AS MATERIALIZED (
    SELECT id, wake_at, EXISTS (
        SELECT 1 FROM {pauses} pause
        WHERE pause.kind = 'workflow' AND pause.name = workflow_id AND pause.lifted_at IS NULL
    ) AND (deadline IS NULL OR deadline > statement_timestamp()) AS is_paused
    FROM locked
)
UPDATE {table} execution SET
    claim_token = CASE WHEN is_paused OR {needs_slot} THEN NULL ELSE %s END,
    ready = TRUE,
    wake_at = CASE WHEN is_paused OR {needs_slot} THEN NULL ELSE statement_timestamp() + %s END,
    waits_slot = CASE WHEN {needs_slot} AND NOT is_paused THEN slot_key END,
    holds_slot = CASE WHEN NOT is_paused THEN holds_slot END,
    holds_rate = CASE WHEN NOT is_paused OR rate_until IS NOT NULL THEN holds_rate END,
    parked_at = CASE WHEN is_paused THEN statement_timestamp() END,
    deadline_left = CASE WHEN is_paused THEN execution.deadline - statement_timestamp() END,
    deadline = CASE WHEN is_paused THEN NULL ELSE execution.deadline END
FROM found WHERE execution.id = found.id
RETURNING found.wake_at, execution.id, execution.crashes > 0 OR execution.run_alone,
    CASE WHEN is_paused THEN slot_key ELSE waits_slot END, is_paused"""
