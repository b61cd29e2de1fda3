"""Find executions and events by id or its beginning, correlation id or business object.

If there are exact matches, only they are returned: ``loan-1`` never finds ``loan-13`` while there
is a ``loan-1``. Each look-up uses an index.
"""

from collections.abc import Iterator
from contextlib import suppress
from json import loads
from typing import Any, Final

from django.db import connections
from django.db.models import Q, QuerySet

from general_manager.escaping import is_storable
from general_manager.workflow.core.ids import MAX_ID_LENGTH
from general_manager.workflow.events import subjects_in
from general_manager.workflow.executions.query import ATTRIBUTE_NAME, check_attributes
from general_manager.workflow.executions.search import unindexed
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.models.sql.search import has_attributes

MOST_MATCHES: Final = 1_000
"""Rows that one look-up returns, the latest ones."""
MOST_COMPARED: Final = 100_000
"""Latest rows among which attributes are looked for without an index."""
SHORTEST: Final = 4
"""Characters from which a term may be the beginning of an execution's id."""
ID_PATTERN: Final = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
LAST_CHARACTER: Final = "\U0010ffff"

Executions = QuerySet[WorkflowExecutionRecord]
Events = QuerySet[WorkflowEventRecord]


def cleaned(term: str) -> str:
    """*term* without the spaces and the ellipsis that a list adds to an id."""
    return term.strip().strip("…").strip()


def begins(column: str, text: str, using: str) -> Q:
    """A condition that uses the index: PostgreSQL's supports LIKE, the others compare bytes."""
    if connections[using].vendor == "postgresql":
        return Q(**{f"{column}__startswith": text})
    return Q(**{f"{column}__gte": text, f"{column}__lt": text + LAST_CHARACTER})


def executions_like(
    rows: Executions, term: str, events: Events | None = None
) -> tuple[Executions, bool]:
    """The *rows* that *term* names exactly; else those whose id or correlation id begins with it.

    Also returns whether only the beginning matched. Business objects are looked up in *events*,
    the events that the user may see.
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
    conditions = [
        Q(execution_id=term.lower()),
        Q(correlation_id=term),
        Q(caused_by=term),
        Q(subject__in=sorted(one for one in subjects_in(term) if len(one) <= MAX_ID_LENGTH)),
    ]
    causes = list(_about(events, term))
    if causes:
        conditions.append(Q(caused_by__in=causes))
    found: set[int] = set()
    attributes = _attributes_in(term, rows.db)
    if attributes is not None:
        found |= _with_attributes(rows, attributes)
    for condition in conditions:
        found |= set(rows.filter(condition).order_by().values_list("pk", flat=True)[:MOST_MATCHES])
    return found


def _attributes_in(term: str, using: str) -> Q | None:
    """The condition for ``customer=7`` or ``customer=7 region=eu``; `None` for other terms.

    The value may be a JSON value or a text: people do not know how it was given.
    """
    parts = term.split() if all("=" in one for one in term.split()) else [term]
    found = Q()
    for part in parts:
        name, sign, text = part.partition("=")
        if not sign or not ATTRIBUTE_NAME.fullmatch(name):
            return None
        meant = Q()
        for value in _values_meant(text):
            meant |= has_attributes({name: value}, using)
        found &= meant
    return found


def _values_meant(text: str) -> list[Any]:
    found: list[Any] = [text]
    with suppress(ValueError, RecursionError):
        value = loads(text)
        is_single = value is None or isinstance(value, str | int | float)
        if is_single and value != text:
            found += check_attributes({"value": value}).values()
    return found


def _with_attributes(rows: Executions, condition: Q) -> set[int]:
    """PostgreSQL has an index; elsewhere the latest rows are compared one by one."""
    if connections[rows.db].vendor == "postgresql":
        newest: Any = rows.filter(condition).order_by(unindexed())
    else:
        last = rows.order_by("-pk").values_list("pk", flat=True).first() or 0
        newest = rows.filter(condition, pk__gt=last - MOST_COMPARED).order_by("-pk")
    return set(newest.values_list("pk", flat=True)[:MOST_MATCHES])


def _about(events: Events, term: str) -> Iterator[str]:
    """Ids of the latest events about the business object that *term* names."""
    for subject in subjects_in(term):
        if len(subject) <= 255:
            # A range, in the index's own order: see `RecentValuesFilter`.
            about = events.filter(subject__gte=subject, subject__lte=subject)
            yield from about.order_by("-subject", "-pk").values_list("event_id", flat=True)[
                :MOST_MATCHES
            ]


def _executions_beginning(rows: Executions, term: str) -> set[int]:
    term = term.lower()
    if not (SHORTEST <= len(term) < len(ID_PATTERN) and _may_begin_an_id(term)):
        return set()
    missing = ID_PATTERN[len(term) :]
    ends = {"execution_id__gte": term + missing.replace("x", "0")}
    ends["execution_id__lte"] = term + missing.replace("x", "f")
    return set(
        rows.filter(**ends).order_by("-execution_id").values_list("pk", flat=True)[:MOST_MATCHES]
    )


def _may_begin_an_id(text: str) -> bool:
    return all(
        letter == "-" if place == "-" else letter in "0123456789abcdef"
        for letter, place in zip(text, ID_PATTERN, strict=False)
    )


def events_like(rows: Events, term: str) -> tuple[Events, bool]:
    """The *rows* that *term* names by id or business object; else those whose id begins with it."""
    term = cleaned(term)
    if not term or not is_storable(term):
        return rows.none(), False
    ids = {term, *_about(rows.order_by(), term)}
    exact = rows.filter(event_id__in=ids)
    if exact.order_by().exists():
        return exact, False
    return rows.filter(begins("event_id", term, rows.db)), True
