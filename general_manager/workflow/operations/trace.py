"""The trace of one event or execution, as text or plain values."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

from general_manager.durations import in_words
from general_manager.escaping import cut, is_storable, visible
from general_manager.workflow.core.redaction import readable, redact
from general_manager.workflow.engine import ACTIVE_STATES
from general_manager.workflow.executions.lookup import events_like, executions_like
from general_manager.workflow.models import WorkflowEventRecord, WorkflowExecutionRecord
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.operations.family import children_shown
from general_manager.workflow.operations.lines import limits_in_words, place_in_words
from general_manager.workflow.operations.moments import Moment, in_zone
from general_manager.workflow.operations.reach import Reach
from general_manager.workflow.operations.timeline import timeline_of_event, timeline_of_execution
from general_manager.workflow.operations.waits import awaited, metadata_to_show

MOST_FOUND: Final = 20
"""Executions and events that a search lists, of each kind and database."""
LONGEST_PAYLOAD: Final = 4_000
"""Characters of a payload that are printed to a terminal."""


@dataclass(frozen=True, slots=True)
class Trace:
    """*facts* are plain text; *values* are user data, redacted."""

    kind: str
    id: str
    facts: dict[str, str]
    values: dict[str, Any]
    moments: list[Moment]
    children: list[str] = field(default_factory=list)
    """One line for each child that is shown: its key, its state and its id."""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "id": self.id,
            **self.facts,
            **self.values,
            **({"child_executions": self.children} if self.children else {}),
            "timeline": [_moment_to_json(one) for one in self.moments],
        }

    def lines(self) -> Iterator[str]:
        yield f"{self.kind.capitalize()} {visible(self.id)}"
        width = max(len(name) for name in (*self.facts, *self.values)) + 2
        for name, fact in self.facts.items():
            text = _indented(cut(fact, LONGEST_PAYLOAD), width + 2)
            yield f"  {name.replace('_', ' '):<{width}}{text}"
        for name, value in self.values.items():
            text = _indented(readable(value, most=LONGEST_PAYLOAD), width + 2)
            yield f"  {name.replace('_', ' '):<{width}}{text}"
        for child in self.children:
            yield f"  {'child':<{width}}{_indented(cut(child, LONGEST_PAYLOAD), width + 2)}"
        yield ""
        for moment in self.moments:
            yield from _moment_lines(moment)


def find_trace(known_id: str, reach: Reach | None = None) -> Trace | None:
    """The trace of the execution with that id, or else of the event; `None` without either.

    *reach* learns which databases could not be asked; without it, an `Error` is raised.
    """
    if not is_storable(known_id):
        return None
    asking, aliases = reach or Reach(), outboxes()
    for alias in aliases:
        executions = WorkflowExecutionRecord.objects.using(alias).filter(execution_id=known_id)
        for execution in asking.read(alias, executions[:1].all):
            return _of_execution(execution)
    for alias in aliases:
        events = WorkflowEventRecord.objects.using(alias).filter(event_id=known_id)
        joined = events.select_related("outbox")
        for event in asking.read(alias, joined[:1].all):
            return _of_event(event)
    asking.fail_if_none(asking.away if reach is None else aliases)
    return None


@dataclass(frozen=True, slots=True)
class Found:
    """One execution or event of a search."""

    kind: str
    id: str
    about: str
    at: datetime

    def to_json(self) -> dict[str, str]:
        at = self.at.isoformat()
        return {"kind": self.kind, "id": self.id, "about": self.about, "at": at}


def find_all(term: str, reach: Reach) -> list[Found]:
    """The latest executions and events that match *term*, executions first.

    *term* is a correlation id, a business object such as ``Invoice 7``, attributes such as
    ``customer=7``, or the beginning of an id.
    """
    executions: list[Found] = []
    events: list[Found] = []
    for alias in outboxes():
        executions += reach.read(alias, partial(_executions_like, alias, term))
        events += reach.read(alias, partial(_events_like, alias, term))
    return executions + events


def _executions_like(alias: str, term: str) -> Iterator[Found]:
    rows, _ = executions_like(WorkflowExecutionRecord.objects.using(alias).all(), term)
    columns = rows.only("execution_id", "workflow_id", "state", "created_at", "correlation_id")
    for one in columns.order_by("-pk")[:MOST_FOUND]:
        about = f"{one.workflow_id} {one.state}"
        yield Found("execution", one.execution_id, about, one.created_at)


def _events_like(alias: str, term: str) -> Iterator[Found]:
    stored, _ = events_like(WorkflowEventRecord.objects.using(alias).all(), term)
    for event in stored.defer("payload", "metadata").order_by("-pk")[:MOST_FOUND]:
        about = event.event_name or event.event_type
        yield Found("event", event.event_id, about, event.published_at)


def _of_execution(execution: WorkflowExecutionRecord) -> Trace:
    since, is_active = execution.waiting_since, execution.state in ACTIVE_STATES
    starts = execution.wake_at if execution.is_for_later else None
    gathers = children_shown(execution)
    facts = {
        "workflow": execution.workflow_id,
        "version": execution.version,
        "state": execution.state,
        "ends_as": execution.ending["state"] if execution.ending and is_active else None,
        "starts_at": starts and in_zone(starts).isoformat(sep=" ", timespec="seconds"),
        "paused_since": execution.parked_at
        and in_zone(execution.parked_at).isoformat(sep=" ", timespec="seconds"),
        "deadline": execution.deadline and in_zone(execution.deadline).isoformat(" ", "seconds"),
        "limit": limits_in_words(execution),
        "in_line_for": place_in_words(execution),
        "waiting_for": execution.waiting_for,
        "answered_by": awaited(execution),
        "waiting_since": since and in_zone(since).isoformat(sep=" ", timespec="seconds"),
        "children": "; ".join(map(str, gathers)),
        "parent": execution.parent,
        "root": execution.root if execution.root != execution.parent else None,
        "correlation_id": execution.correlation_id,
        "caused_by": execution.caused_by,
        "schedule": schedule_of(execution.metadata),
        "subject": execution.subject,
        "queue": execution.queue,
        "priority": execution.priority,
        "error": execution.error,
    }
    return Trace(
        "execution",
        execution.execution_id,
        {name: str(fact) for name, fact in facts.items() if fact},
        {
            "input": redact(execution.input_data),
            "output": redact(execution.output_data),
            "metadata": redact(metadata_to_show(execution)),
            **({"attributes": redact(execution.attributes)} if execution.attributes else {}),
            **({"reports": redact(execution.reports)} if execution.reports else {}),
        },
        timeline_of_execution(execution),
        [child for one in gathers for child in one.lines()],
    )


def schedule_of(metadata: Any) -> str:
    """The schedule and the slot that started it, or who ran it; empty if no schedule did."""
    about = metadata if isinstance(metadata, dict) else {}
    name, slot = about.get("schedule"), about.get("slot")
    if not isinstance(name, str) or not name:
        return ""
    if not isinstance(slot, str):
        return f"{name}, run by {about.get('run_now_by') or 'hand'}"
    try:
        at = in_zone(datetime.fromisoformat(slot)).isoformat(sep=" ", timespec="seconds")
    except ValueError:
        at = slot
    return f"{name}, slot of {at}"


def _of_event(event: WorkflowEventRecord) -> Trace:
    entry = getattr(event, "outbox", None)
    facts = {
        "type": event.event_type,
        "name": event.event_name,
        "source": event.source,
        "ordering_key": event.ordering_key,
        "outbox": None if entry is None else entry.status,
    }
    return Trace(
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
    """A stored text with indented lines, so that it cannot imitate our own lines."""
    return visible(text, lines=True).replace("\n", "\n" + " " * width)
