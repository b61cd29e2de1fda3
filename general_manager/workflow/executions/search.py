"""Executions in the tables by what is asked for: each look-up goes along an index.

*Newest first* tempts a planner to go through the latest rows until enough match: for what is rare
or old, that is the whole table. So a condition that selects few rows is followed by a sort, whose
expression no index has; otherwise the order is that of the index of the condition.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connections
from django.db.models import BigIntegerField, ExpressionWrapper, F

from general_manager.escaping import is_storable
from general_manager.workflow.core.ids import first_id_at
from general_manager.workflow.engine import WorkflowExecution, WorkflowState
from general_manager.workflow.executions.query import FIRST_TIME, ExecutionFilter
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.sql.search import has_attributes

CLOCKS_APART: Final = timedelta(hours=1)
"""Ids begin with the time of the process that starts: clocks may differ by less than this."""
NEIGHBOURS: Final = 100
MOST_CAUSES: Final = 1_000
"""Latest events about an object, whose executions are shown with it."""
UNSUCCESSFUL: Final = frozenset((WorkflowState.FAILED, WorkflowState.CANCELLED))


class StoredExecutions:
    """The rows that match a filter, newest first, for `ExecutionQuery`."""

    def __init__(self, rows: Executions, wanted: ExecutionFilter) -> None:
        self._rows = rows
        self._wanted = wanted

    def page(self, before: int | None, skip: int, size: int) -> list[tuple[int, WorkflowExecution]]:
        rows, order = matching(self._rows, self._wanted)
        if before is not None:
            rows = rows.filter(pk__lt=before)
        found = rows.order_by(*order)[skip : skip + size]
        return [(record.pk, record.snapshot()) for record in found]

    def count(self, skip: int, most: int | None) -> int:
        rows, _ = matching(self._rows, self._wanted)
        if not skip and most is None:
            return rows.order_by().count()
        end = None if most is None else skip + most
        return rows.order_by("pk").values("pk")[skip:end].count()


def matching(rows: Executions, wanted: ExecutionFilter) -> tuple[Executions, tuple[Any, ...]]:
    """The rows that match, and the order in which to read them."""
    if wanted.subjects and not any(map(is_storable, wanted.subjects)):
        return rows.none(), ("-pk",)
    is_postgresql = connections[rows.db].vendor == "postgresql"
    rows = _started_between(rows, wanted)
    if wanted.correlation_id is not None:
        rows = rows.filter(correlation_id=wanted.correlation_id)
    if wanted.attributes:
        rows = rows.filter(has_attributes(wanted.attributes, rows.db))
    if len(wanted.states) == 1:
        rows = rows.filter(state=next(iter(wanted.states)))
    elif wanted.states:
        rows = rows.filter(state__in=sorted(wanted.states))
    is_walked = is_postgresql and len(wanted.states) == 1 and wanted.states <= UNSUCCESSFUL
    is_rare = bool(wanted.states) and WorkflowState.COMPLETED not in wanted.states
    if (
        wanted.correlation_id is not None
        or (wanted.attributes and is_postgresql)
        or len(wanted.subjects) > 1
        or (is_rare and not is_walked)
    ):
        rows = _equal(rows, wanted)
        return rows, (unindexed(),)
    if wanted.subjects:
        rows = _one_of(_equal(rows, ExecutionFilter(wanted.workflow_id)), "subject",
                       next(iter(wanted.subjects)))  # fmt: skip
        return rows, ("-subject", "-pk")
    if is_walked or wanted.workflow_id is None:
        return _equal(rows, wanted), ("-pk",)
    return _one_of(rows, "workflow_id", wanted.workflow_id), ("-workflow_id", "-pk")


def _equal(rows: Executions, wanted: ExecutionFilter) -> Executions:
    if wanted.workflow_id is not None:
        rows = rows.filter(workflow_id=wanted.workflow_id)
    if len(wanted.subjects) == 1:
        rows = rows.filter(subject=next(iter(wanted.subjects)))
    elif wanted.subjects:
        rows = rows.filter(subject__in=sorted(wanted.subjects))
    return rows


def _one_of(rows: Executions, column: str, value: str) -> Executions:
    """A range of one value: for an equal column, PostgreSQL drops it from the ordering."""
    return rows.filter(**{f"{column}__gte": value, f"{column}__lte": value})


def _started_between(rows: Executions, wanted: ExecutionFilter) -> Executions:
    """Ids and keys rise together, so a bound of keys ends what goes along any index."""
    table = rows
    if wanted.first_id is not None:
        rows = rows.filter(execution_id__gte=wanted.first_id)
        start = max(wanted.started_after or FIRST_TIME, FIRST_TIME + CLOCKS_APART) - CLOCKS_APART
        first = table.filter(execution_id__gte=first_id_at(start)).order_by("execution_id")
        keys = list(first.values_list("pk", flat=True)[:NEIGHBOURS])
        rows = rows.filter(pk__gte=min(keys)) if keys else rows.none()
    if wanted.end_id is not None:
        rows = rows.filter(execution_id__lt=wanted.end_id)
        end = _later(max(wanted.started_before or FIRST_TIME, FIRST_TIME))
        last = table.filter(execution_id__lt=first_id_at(end)).order_by("-execution_id")
        keys = list(last.values_list("pk", flat=True)[:NEIGHBOURS])
        rows = rows.filter(pk__lte=max(keys)) if keys else rows.none()
    return rows


def _later(moment: datetime) -> datetime:
    try:
        return moment + CLOCKS_APART
    except OverflowError:  # the calendar ends
        return moment


def keys_about(rows: Executions, events: Any, subjects: Collection[str], most: int) -> list[int]:
    """Keys of the newest *rows* about one of *subjects*, or caused by one of *events* about it."""
    found: set[int] = set()
    for subject in subjects:
        about = _one_of(rows, "subject", subject).order_by("-subject", "-pk")
        found |= set(about.values_list("pk", flat=True)[:most])
        same = events.filter(subject__gte=subject, subject__lte=subject)
        causes = list(
            same.order_by("-subject", "-pk").values_list("event_id", flat=True)[:MOST_CAUSES]
        )
        if causes:
            caused = rows.filter(caused_by__in=causes).order_by(unindexed())
            found |= set(caused.values_list("pk", flat=True)[:most])
    return sorted(found, reverse=True)[:most]


def unindexed() -> Any:
    """Newest first, in an order that no index has."""
    return ExpressionWrapper(F("pk") + 0, output_field=BigIntegerField()).desc()
