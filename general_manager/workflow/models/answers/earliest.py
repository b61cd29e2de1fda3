"""The earliest stored event that a wait may take, found by an index."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connections
from django.db.models import BigIntegerField, Exists, F, Min, OuterRef, Q, Subquery, Value
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Coalesce, Least

from general_manager.workflow.core.matching import matches
from general_manager.workflow.durable.answers.objects import OBJECT_EVENTS, shows
from general_manager.workflow.durable.answers.sources import Source, SourceKind
from general_manager.workflow.events import subject_of
from general_manager.workflow.models.answers.taken import WorkflowTakenEvent
from general_manager.workflow.models.event import WorkflowEventRecord
from general_manager.workflow.models.sql.claims import SEEN_LATE

PAGE: Final = 50
"""Candidates that are read at once; the first one is nearly always it."""
LAST_KEY: Final = 2**62
PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
"""Names in paths that mean the same on every database: others are a place in a list on some."""


def earliest(using: str, source: Source, *, chain: str, since: datetime, cause: str | None) -> Any:
    """The earliest event for *source*; `None` if none is stored.

    It was not claimed before *since*, and no wait of the *chain* with this mailbox has taken it.
    *cause* is the event whose handler started the chain: it is not its own answer.
    """
    events = _candidates(using, source, since).exclude(event_id=cause or "")
    if source.kind is SourceKind.EVENT:
        taken = WorkflowTakenEvent.objects.using(using).filter(
            chain=chain, mailbox=source.mailbox, event_id=OuterRef("event_id")
        )
        events = events.filter(~Exists(taken))
    for event in _in_order(events):
        if source.kind is SourceKind.EVENT:
            if matches(source.match, event.payload):
                return event
        elif event.event_type in OBJECT_EVENTS and shows(source, event.payload):
            return event
    return None


def _in_order(events: Any) -> Iterator[Any]:
    page = list(events[:PAGE])
    while page:
        yield from page
        more = events.filter(pk__gt=page[-1].pk)[:PAGE]
        page = list(more) if len(page) == PAGE else []


def _candidates(using: str, source: Source, since: datetime) -> Any:
    """Events of the source's key, or object, not claimed before *since*; the earliest first."""
    if connections[using].vendor == "sqlite":  # its clock has milliseconds
        since -= timedelta(milliseconds=1)
    rows = WorkflowEventRecord.objects.using(using)
    if source.kind is SourceKind.STATE:
        events = _since(rows, "subject", _subject(source) or "", since)
    else:
        column = "event_type" if "." in source.name else "event_name"
        events = _with_values(_since(rows, column, source.name, since), source)
    return events.filter(Q(outbox__seen_at=None) | Q(outbox__seen_at__gte=since))


def _since(rows: Any, column: str, value: str, since: datetime) -> Any:
    """Events with that value; without those that were surely claimed before *since*.

    Ids follow the time of the INSERT. So the scan begins at the last event that was stored
    `SEEN_LATE` before *since*, or at the first one that was claimed so long after its INSERT.
    """
    # A range, in the index's own order: otherwise a database may walk along all keys.
    alike = rows.filter(**{f"{column}__gte": value, f"{column}__lte": value})
    old = alike.filter(published_at__lt=since - SEEN_LATE).order_by(f"-{column}", "-pk")
    outbox: Any = WorkflowEventRecord._meta.get_field("outbox").related_model
    late = outbox.objects.using(rows.db).filter(seen_late_at__gte=since).order_by()
    # A sum, so that no database walks along the keys instead: hardly any entry is late.
    first = late.annotate(all=Value(1)).values("all").annotate(first=Min(F("event_id") + 0))
    key = BigIntegerField()
    before_late = Subquery(first.values("first"), key) - 1
    first_late = Coalesce(before_late, Value(LAST_KEY), output_field=key)
    start = Coalesce(Subquery(old.values("pk")[:1]), Value(0), output_field=key)
    return rows.filter(**{column: value}, pk__gt=Least(start, first_late)).order_by("pk")


def _with_values(events: Any, source: Source) -> Any:
    """Without events that the database can tell to have others; the rest is left to `matches`."""
    for number, (path, value) in enumerate(source.match.items()):
        is_plain = all(PLAIN_NAME.fullmatch(name) for name in path.split("."))
        if is_plain and isinstance(value, str | bool | int):
            found: Any = F("payload")
            for name in path.split("."):
                found = KeyTransform(name, found)
            events = events.alias(**{f"at_{number}": found}).filter(**{f"at_{number}": value})
    return events


def _subject(source: Source) -> str | None:
    about = dict(source.about)
    manager = about.pop("manager")
    identification = {path.partition(".")[2]: value for path, value in about.items()}
    return subject_of({"manager": manager, "identification": identification})
