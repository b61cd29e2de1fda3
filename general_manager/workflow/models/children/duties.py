"""Ended executions with a `wake_at`: others wait for them, or their children are to be stopped."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final, NamedTuple

from django.db import transaction
from django.db.models import Q

from general_manager.workflow.engine import TERMINAL_STATES, WorkflowState
from general_manager.workflow.models.sql.columns import DatabaseNow, from_now, not_indexed
from general_manager.workflow.models.timing import END_GRACE

DUTIES_BATCH: Final = 200
"""Executions that one turn of the sweep attends to."""


class Ended(NamedTuple):
    """An execution that has ended and whose `wake_at` says that there is something to do."""

    key: int
    execution_id: str
    chain: str
    state: str
    stops_children: bool
    is_plain: bool
    """It was cancelled at once: so are its children. Otherwise they undo what they did."""


def ended_before(by: timedelta) -> Q:
    """Executions that ended more than *by* ago, with something to do still; an index finds them."""
    return Q(state__in=TERMINAL_STATES, wake_at__lt=from_now(-by))


def _is_over() -> Any:
    """A condition for executions that are found by their keys."""
    return not_indexed("state", *TERMINAL_STATES)


def ended(executions: Any, keys: Collection[int]) -> list[Ended]:
    """Those of the executions *keys* for which there is something to do, in one statement."""
    rows = executions.filter(_is_over(), pk__in=keys, wake_at__isnull=False)
    names = ("pk", "execution_id", "chain", "state", "has_children", "ending_at")
    return [
        Ended(
            key,
            execution_id,
            chain or execution_id,
            state,
            has_children and state != WorkflowState.COMPLETED,
            state == WorkflowState.CANCELLED and ending_at is None,
        )
        for key, execution_id, chain, state, has_children, ending_at in rows.order_by(
            "pk"
        ).values_list(*names)
    ]


def all_done(executions: Any, keys: Collection[int]) -> None:
    """Everybody is notified, and every child is stopped."""
    if keys:
        executions.filter(_is_over(), pk__in=keys).update(wake_at=None)


def not_done_yet(executions: Any, keys: Collection[int]) -> None:
    """More is left than one turn does; if this process stops, the next sweep goes on at once."""
    if keys:
        executions.filter(_is_over(), pk__in=keys).update(wake_at=DatabaseNow())


def due(executions: Any) -> list[int]:
    """Keys of those that are due; one plain statement for none.

    They stay due, later: this process may die before it is done, too.
    """
    late = executions.filter(state__in=TERMINAL_STATES, wake_at__lte=DatabaseNow())
    if not late.exists():
        return []
    with transaction.atomic(using=executions.db):
        rows = late.select_for_update(skip_locked=True).order_by("wake_at")
        keys = list(rows.values_list("pk", flat=True)[:DUTIES_BATCH])
        executions.filter(pk__in=keys).update(wake_at=from_now(END_GRACE))
    return keys
