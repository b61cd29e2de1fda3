"""What happened to one event or execution, known by its id, as text or plain values."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from general_manager.durations import in_words
from general_manager.escaping import cut, is_storable, visible
from general_manager.workflow.databases import outboxes
from general_manager.workflow.lookup import events_like, executions_like
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.redaction import readable, redact
from general_manager.workflow.timeline import (
    Moment,
    in_zone,
    timeline_of_event,
    timeline_of_execution,
)

MOST_FOUND: Final = 20
"""Executions, and events, of each database that one term lists."""
MOST: Final = 4_000
"""Characters of a payload that a terminal has patience for."""


@dataclass(frozen=True, slots=True)
class Story:
    """*facts* are plain, *values* are what users gave: redacted."""

    kind: str
    id: str
    facts: dict[str, str]
    values: dict[str, Any]
    moments: list[Moment]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "id": self.id,
            **self.facts,
            **self.values,
            "timeline": [_moment_to_json(one) for one in self.moments],
        }

    def lines(self) -> Iterator[str]:
        yield f"{self.kind.capitalize()} {visible(self.id)}"
        width = max(len(name) for name in (*self.facts, *self.values)) + 2
        for name, fact in self.facts.items():
            text = _indented(cut(fact, MOST), width + 2)
            yield f"  {name.replace('_', ' '):<{width}}{text}"
        for name, value in self.values.items():
            text = _indented(readable(value, most=MOST), width + 2)
            yield f"  {name.replace('_', ' '):<{width}}{text}"
        yield ""
        for moment in self.moments:
            yield from _moment_lines(moment)


def find_story(known_id: str) -> Story | None:
    """Of the execution with that id, or else of the event; `None` if there is neither."""
    if not is_storable(known_id):
        return None
    for alias in outboxes():
        executions = WorkflowExecutionRecord.objects.using(alias)
        execution = executions.filter(execution_id=known_id).first()
        if execution is not None:
            return _of_execution(execution)
    for alias in outboxes():
        events = WorkflowEventRecord.objects.using(alias).select_related("outbox")
        event = events.filter(event_id=known_id).first()
        if event is not None:
            return _of_event(event)
    return None


@dataclass(frozen=True, slots=True)
class Found:
    """An execution or an event among others that a term names."""

    kind: str
    id: str
    about: str
    at: datetime

    def to_json(self) -> dict[str, str]:
        at = self.at.isoformat()
        return {"kind": self.kind, "id": self.id, "about": self.about, "at": at}


def find_all(term: str) -> list[Found]:
    """The latest executions and events that *term* names: a correlation id, a business object such
    as ``Invoice 7``, or the beginning of an id. Executions first.
    """
    executions: list[Found] = []
    events: list[Found] = []
    for alias in outboxes():
        rows, _ = executions_like(WorkflowExecutionRecord.objects.using(alias).all(), term)
        columns = rows.only("execution_id", "workflow_id", "state", "created_at", "correlation_id")
        for one in columns.order_by("-pk")[:MOST_FOUND]:
            about = f"{one.workflow_id} {one.state}"
            executions.append(Found("execution", one.execution_id, about, one.created_at))
        stored, _ = events_like(WorkflowEventRecord.objects.using(alias).all(), term)
        for event in stored.defer("payload", "metadata").order_by("-pk")[:MOST_FOUND]:
            about = event.event_name or event.event_type
            events.append(Found("event", event.event_id, about, event.published_at))
    return executions + events


def _of_execution(execution: WorkflowExecutionRecord) -> Story:
    facts = {
        "workflow": execution.workflow_id,
        "version": execution.version,
        "state": execution.state,
        "waiting_for": execution.waiting_for,
        "waiting_since": execution.waiting_since,
        "correlation_id": execution.correlation_id,
        "caused_by": execution.caused_by,
        "error": execution.error,
    }
    return Story(
        "execution",
        execution.execution_id,
        {name: str(fact) for name, fact in facts.items() if fact},
        {
            "input": redact(execution.input_data),
            "output": redact(execution.output_data),
            "metadata": redact(execution.metadata),
        },
        timeline_of_execution(execution),
    )


def _of_event(event: WorkflowEventRecord) -> Story:
    entry = getattr(event, "outbox", None)
    facts = {
        "type": event.event_type,
        "name": event.event_name,
        "source": event.source,
        "outbox": None if entry is None else entry.status,
    }
    return Story(
        "event",
        event.event_id,
        {name: str(fact) for name, fact in facts.items() if fact},
        {"payload": redact(event.payload), "metadata": redact(event.metadata)},
        timeline_of_event(event),
    )


def _moment_to_json(moment: Moment) -> dict[str, Any]:
    return {
        "at": moment.at.isoformat(),
        "offset_seconds": moment.offset.total_seconds(),
        "what": moment.what,
        "about": moment.about,
        "number": moment.number,
        "by": moment.by,
        "detail": moment.detail,
        "took_seconds": None if moment.took is None else moment.took.total_seconds(),
        "event_id": moment.event_id,
        "execution_id": moment.execution_id,
    }


def _moment_lines(moment: Moment) -> Iterator[str]:
    if moment.gap is not None:
        yield f"  … {in_words(moment.gap)} later"
    seconds = moment.offset.total_seconds()
    offset = f"+{seconds:.3f} s" if seconds < 60 else f"+{in_words(moment.offset)}"
    words = [moment.what.replace("_", " "), visible(moment.about)]
    if moment.number is not None:
        words.insert(1, f"{moment.number} in" if moment.about else str(moment.number))
    if moment.what == "created" and moment.execution_id is not None:
        words.append(f"(execution {visible(moment.execution_id)})")
    if moment.took is not None:
        words.append(f"in {in_words(moment.took)}")
    if moment.by:
        words.append(f"by {visible(moment.by)}")
    at = in_zone(moment.at)
    yield f"  {at:%Y-%m-%d %H:%M:%S}  {offset:>12}  {' '.join(word for word in words if word)}"
    if moment.detail:
        yield f"{' ' * 39}{_indented(moment.detail[:1000].strip(), 39)}"


def _indented(text: str, width: int) -> str:
    """Lines of a stored text, which cannot be taken for ours."""
    return visible(text, lines=True).replace("\n", "\n" + " " * width)
