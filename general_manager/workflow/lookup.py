"""Find executions and events by what people have in hand: an id, the beginning of one as lists show
it, a correlation id, or the business object.

What matches exactly comes alone: ``loan-1`` never finds ``loan-13`` while there is a ``loan-1``.
Each look-up has an index.
"""

from collections.abc import Iterator
from typing import Final

from django.db import connections
from django.db.models import Q, QuerySet

from general_manager.escaping import is_storable
from general_manager.workflow.checkpoints import Wanted
from general_manager.workflow.events import subjects_in
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord

MOST: Final = 1_000
"""Rows that one look-up takes, the latest."""
SHORTEST: Final = 4
"""Characters of an execution's id that are taken for its beginning."""
SHAPE: Final = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
AFTER_ALL: Final = "\U0010ffff"

Executions = QuerySet[WorkflowExecutionRecord]
Events = QuerySet[WorkflowEventRecord]


def cleaned(term: str) -> str:
    """*term* without what a list adds around an id."""
    return term.strip().strip("…").strip()


def begins(column: str, text: str, using: str) -> Q:
    """As an index finds it: PostgreSQL's is made for LIKE, the others compare byte by byte."""
    if connections[using].vendor == "postgresql":
        return Q(**{f"{column}__startswith": text})
    return Q(**{f"{column}__gte": text, f"{column}__lt": text + AFTER_ALL})


def executions_like(
    rows: Executions, term: str, events: Events | None = None
) -> tuple[Executions, bool]:
    """Those of *rows* that *term* names; else those whose id or correlation id begins with it.

    Also says whether they were found by the beginning only. Business objects are looked up among
    *events*: those that the one who asks may see.
    """
    events = WorkflowEventRecord.objects.using(rows.db) if events is None else events
    term = cleaned(term)
    if not term or not is_storable(term):
        return rows.none(), False
    keys = _exact_executions(rows, events.using(rows.db), term) if len(term) <= 255 else set()
    if keys:
        return rows.filter(pk__in=keys), False
    keys = _executions_beginning(rows, term)
    if keys:
        return rows.filter(pk__in=keys), True
    return rows.filter(begins("correlation_id", term, rows.db)), True


def _exact_executions(rows: Executions, events: Events, term: str) -> set[int]:
    conditions = [Q(execution_id=term.lower()), Q(correlation_id=term), Q(caused_by=term)]
    causes = list(_about(events, term))
    if causes:
        conditions.append(Q(caused_by__in=causes))
    found: set[int] = set()
    for condition in conditions:
        found |= set(rows.filter(condition).order_by().values_list("pk", flat=True)[:MOST])
    return found


def _about(events: Events, term: str) -> Iterator[str]:
    """Ids of the latest events about what *term* names."""
    for subject in subjects_in(term):
        if len(subject) <= 255:
            # A range, in the index's own order: see `RecentValuesFilter`.
            about = events.filter(subject__gte=subject, subject__lte=subject)
            yield from about.order_by("-subject", "-pk").values_list("event_id", flat=True)[:MOST]


def _executions_beginning(rows: Executions, term: str) -> set[int]:
    term = term.lower()
    if not (SHORTEST <= len(term) < len(SHAPE) and _may_begin_an_id(term)):
        return set()
    rest = SHAPE[len(term) :]
    ends = {"execution_id__gte": term + rest.replace("x", "0")}
    ends["execution_id__lte"] = term + rest.replace("x", "f")
    return set(rows.filter(**ends).order_by("-execution_id").values_list("pk", flat=True)[:MOST])


def _may_begin_an_id(text: str) -> bool:
    return all(
        letter == "-" if place == "-" else letter in "0123456789abcdef"
        for letter, place in zip(text, SHAPE, strict=False)
    )


def events_like(rows: Events, term: str) -> tuple[Events, bool]:
    """Those of *rows* that *term* names, by id or business object; else by how the id begins."""
    term = cleaned(term)
    if not term or not is_storable(term):
        return rows.none(), False
    ids = {term, *_about(rows.order_by(), term)}
    exact = rows.filter(event_id__in=ids)
    if exact.order_by().exists():
        return exact, False
    return rows.filter(begins("event_id", term, rows.db)), True


def find(rows: Executions, wanted: Wanted, limit: int) -> list[WorkflowExecutionRecord]:
    """The latest executions of which all that is given is true."""
    conditions = []
    if wanted.correlation_id is not None:
        conditions.append(Q(correlation_id=wanted.correlation_id))
    if wanted.subject is not None:
        causes = list(_about(WorkflowEventRecord.objects.using(rows.db), wanted.subject))
        conditions.append(Q(caused_by__in=causes))
    if conditions:  # asked for alone: ordered by the key, a database may go through the latest rows
        keys = rows.filter(*conditions).order_by().values_list("pk", flat=True)[:MOST]
        rows = rows.filter(pk__in=list(keys))
    workflow_id = wanted.workflow_id
    if workflow_id is None:
        return list(rows.order_by("-pk")[:limit])
    rows = rows.filter(workflow_id__gte=workflow_id, workflow_id__lte=workflow_id)
    return list(rows.order_by("-workflow_id", "-pk")[:limit])
