"""Batches: one statement begins some of what a worker has taken, another one completes them.

For PostgreSQL, and for executions without a limit or timeout. If the worker dies, nobody knows
whose code it ran: none of the batch is charged, and each runs alone next, so the second death knows
its culprit. What others have locked is left out: these statements wait for nobody, and so they are
no part of a deadlock.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from django.db import connections, models
from django.db.models import Case, F, Func, When
from django.db.models.expressions import Expression
from django.db.models.functions import Cast

from general_manager.workflow.core.actors import whereabouts
from general_manager.workflow.core.connections import in_transaction
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.models.executions.claims import to_ready
from general_manager.workflow.models.executions.statements import FOR_A_RUN, completed, may_end
from general_manager.workflow.models.executions.values import is_in_time, running
from general_manager.workflow.models.sql.claims import claim_surely
from general_manager.workflow.models.sql.columns import not_indexed
from general_manager.workflow.models.sql.compiled import CompiledUpdate, Slot


def can_batch(using: str) -> bool:
    """Whether executions can be begun together in *using*: on PostgreSQL, outside transactions."""
    connection = connections[using]
    return connection.vendor == "postgresql" and not in_transaction(connection)


def begin_together(
    rows: Any, keys: Sequence[int], token: str, *, lease: timedelta
) -> dict[int, Any]:
    """Taken to running, in a batch; the rows by their keys, in that order.

    Left out is what the worker holds no longer, and what must be begun alone.
    """
    slots: dict[str, Any] = {"keys": list(keys), "token": token, "by": whereabouts()}

    def mine() -> list[Any] | None:
        begun = rows.filter(pk__in=keys, claim_token=token, state=WorkflowState.RUNNING)
        return list(begun) or None

    found = claim_surely(rows.db, lambda: _BEGIN_TOGETHER.take_all(rows, lease, **slots), mine)
    begun = {row.pk: row for row in found}
    return {key: begun[key] for key in keys if key in begun}


def complete_together(
    rows: Any, outputs: Mapping[int, Mapping[str, Any]], token: str
) -> dict[int, bool]:
    """Running to completed, under the claim, each with its output; whether others wait for it.

    By the keys of those that are completed now.
    """
    by_key = {str(key): output for key, output in outputs.items()}
    done = _COMPLETE_TOGETHER.fetch_all(rows, keys=list(outputs), token=token, outputs=by_key)
    return {row.pk: row.awaited for row in done}


def give_back_begun(rows: Any, token: str, keys: Sequence[int]) -> None:
    """Running to ready, for any worker: their handlers were not called."""
    to_ready(
        rows.filter(not_indexed("state", WorkflowState.RUNNING), pk__in=keys, claim_token=token),
        state=WorkflowState.PENDING,
        ready=True,
        started_at=Case(When(runs=1, then=None), default=F("started_at")),
        runs=F("runs") - 1,
    )


class _Unlocked(Expression):
    """A condition: the rows of *keys* that the claim holds, and that nobody else has locked."""

    def __init__(self) -> None:
        super().__init__(output_field=models.BooleanField())

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        table = connection.ops.quote_name(compiler.query.model._meta.db_table)
        return _UNLOCKED_SQL.format(table=table), [Slot("keys", models.Field()), Slot("token")]


_UNLOCKED_SQL: Final = """{table}.id = ANY(ARRAY(
    SELECT id FROM {table} WHERE id = ANY(%s) AND claim_token = %s FOR NO KEY UPDATE SKIP LOCKED
))"""


def _beginning(rows: Any, lease: timedelta) -> tuple[Any, dict[str, Any]]:
    is_taken = not_indexed("state", WorkflowState.PENDING)
    taken = rows.filter(_Unlocked(), is_taken, claim_token=Slot("token"))
    plain = taken.filter(is_in_time(), slot_key=None, timeout=None, ending_at=None)
    return plain, running(lease, in_batch=True)


def _completing(rows: Any) -> tuple[Any, dict[str, Any]]:
    key, outputs = Cast("pk", models.TextField()), Slot("outputs", models.JSONField())
    output = Func(outputs, key, template="(%(expressions)s)", arg_joiner=" -> ",
                  output_field=models.JSONField())  # fmt: skip
    return may_end(rows.filter(_Unlocked())), completed(output)


_BEGIN_TOGETHER: CompiledUpdate[Any] = CompiledUpdate(_beginning, fetched=FOR_A_RUN)
_COMPLETE_TOGETHER: CompiledUpdate[Any] = CompiledUpdate(_completing, fetched=("id", "awaited"))
