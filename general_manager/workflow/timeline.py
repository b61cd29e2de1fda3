"""One story from the event to the outcome, out of all tables, in a fixed number of queries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Case, F, JSONField, TextField, Value, When
from django.db.models.functions import Cast, Length
from django.utils import timezone

from general_manager.workflow.engine import HistoryKind
from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowStep,
)
from general_manager.workflow.redaction import readable, redact_named
from general_manager.workflow.steps import StepStatus
from general_manager.workflow.tables import Tables, whole_tables

LONG: Final = timedelta(minutes=1)
"""A gap that is worth a word."""

LARGE: Final = ("input_data", "output_data", "metadata", "retry")
"""Columns that a timeline does not need."""
LARGEST: Final = 20_000
"""Characters of a result that is read at all."""

MOST_SHOWN: Final = 600
"""Characters of a result that are shown."""

ENDS_OF_WAITS: Final = (
    HistoryKind.RESUMED, HistoryKind.WAIT_TIMED_OUT, HistoryKind.WAIT_ENDED,
)  # fmt: skip

MOST: Final = 500
"""Steps, attempts and history entries of one kind; the rest is said to be there, not shown."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened *at* a time; *what* names a kind, *about* says to or by what."""

    at: datetime
    what: str
    about: str = ""
    by: str = ""
    detail: str = ""
    took: timedelta | None = None
    event_id: str | None = None
    execution_id: str | None = None
    number: int | None = None
    """Of an attempt that failed."""
    offset: timedelta = timedelta(0)
    gap: timedelta | None = None
    """How long nothing happened before, if that was long."""


def timeline_of_execution(
    execution: WorkflowExecutionRecord, tables: Tables | None = None
) -> list[Moment]:
    """In order of time, with offsets from the event, or from the start if no event caused it.

    Of the event and its deliveries, what is in *tables*. At most six statements.
    """
    using = execution._state.db or "default"
    tables = (tables or whole_tables()).using(using)
    moments = list(_of_execution(execution))
    history = WorkflowHistory.objects.using(using).filter(execution=execution)
    steps, notes = shown_steps(execution), list(history.order_by("pk")[: MOST + 1])
    moments += _of_steps(steps[:MOST], notes[:MOST])
    # By the time of the first that is left out: there the reader misses it.
    moments += [_left_out(one.started_at, "steps") for one in steps[MOST:]]
    moments += [_left_out(one.at, "history") for one in notes[MOST:]]
    if execution.caused_by is not None:
        found = tables.events.filter(event_id=execution.caused_by).defer("payload", "metadata")
        for event in tables.seen(found):
            moments += _of_event(event, tables)
    return _told(moments)


def timeline_of_event(event: WorkflowEventRecord, tables: Tables | None = None) -> list[Moment]:
    """The event, its deliveries, and the start and end of the executions that it caused.

    Of deliveries and executions, those in *tables*. At most five statements.
    """
    using = event._state.db or "default"
    tables = (tables or whole_tables()).using(using)
    moments = list(_of_event(event, tables))
    caused = tables.executions.filter(caused_by=event.event_id).order_by("pk")
    found = tables.seen(caused.defer("traceback", *LARGE)[: MOST + 1])
    for execution in found[:MOST]:
        moments += _of_execution(execution)
    moments += [_left_out(one.created_at, "executions") for one in found[MOST:]]
    return _told(moments)


def _of_event(event: WorkflowEventRecord, tables: Tables) -> Iterator[Moment]:
    name = event.event_name or event.event_type
    yield Moment(event.published_at, "published", name, event_id=event.event_id)
    for entry in tables.seen(tables.entries.filter(event=event)):
        if entry.claimed_at is not None:
            yield Moment(entry.claimed_at, "claimed", by=entry.claimed_by)
    ours = tables.deliveries.filter(outbox__event=event).defer("traceback").order_by("pk")
    found = tables.seen(ours[: MOST + 1])
    deliveries = {one.pk: one for one in found[:MOST]}
    if not deliveries:
        return
    yield from (_left_out(one.started_at, "deliveries") for one in found[MOST:])
    attempts = WorkflowHistory.objects.using(tables.deliveries.db)
    rows = attempts.filter(delivery__in=list(deliveries)).select_related("delivery")
    notes = list(rows.order_by("pk")[: MOST + 1])
    history = [_of_history(row) for row in notes[:MOST]]
    yield from (_left_out(one.at, "history") for one in notes[MOST:])
    yield from history
    last = {one.about: one.at for one in history}
    for delivery in deliveries.values():
        yield from _of_delivery(delivery, last.get(delivery.registration_id))


def _of_delivery(delivery: WorkflowDeliveryAttempt, last: datetime | None) -> Iterator[Moment]:
    """Its end comes behind its *last* attempt, whichever of the two was written first."""
    about = delivery.registration_id
    if delivery.status == DeliveryStatus.RUNNING:
        yield Moment(delivery.started_at, "delivering", about)
    elif delivery.finished_at is not None and delivery.status != DeliveryStatus.FAILED:
        kind = delivery.error_class.removeprefix("builtins.")
        error = f"{kind}: {delivery.error}" if kind else ""
        is_dead = delivery.status == DeliveryStatus.DEAD_LETTER
        what = {"completed": "delivered", "dead_letter": "dead"}.get(delivery.status, "given_up")
        at = max(delivery.finished_at, last) if is_dead and last else delivery.finished_at
        yield Moment(at, what, about, detail=error if is_dead else "")


def _of_execution(execution: WorkflowExecutionRecord) -> Iterator[Moment]:
    about, key = execution.workflow_id, execution.execution_id
    # What is over as soon as it is made has its times from two clocks.
    at = min(execution.created_at, execution.started_at or execution.created_at)
    yield Moment(at, "created", about, execution_id=key)
    # The row knows its latest worker only, which began nothing if there were others before it.
    first, latest = (execution.claimed_by, "") if execution.runs < 2 else ("", execution.claimed_by)
    if execution.started_at is not None:
        yield Moment(execution.started_at, "started", about, by=first, execution_id=key)
    if execution.ended_at is not None:
        took = execution.ended_at - (execution.started_at or execution.created_at)
        yield Moment(
            execution.ended_at,
            execution.state,
            about,
            by=latest,
            detail=last_line(execution.error),
            took=took,
            execution_id=key,
        )


def shown_steps(execution: WorkflowExecutionRecord) -> list[WorkflowStep]:
    """The steps of an execution, in the order in which they began; one more than `MOST` at most.

    Results that nobody reads on a page stay in the database; of those `result_in_short` says the
    size.
    """
    rows = WorkflowStep.objects.using(execution._state.db or "default").filter(execution=execution)
    size = Length(Cast("result", TextField()))
    small = Case(When(size__lte=LARGEST, then=F("result")), default=Value(None, JSONField()))
    return list(rows.defer("result").annotate(size=size, shown=small).order_by("pk")[: MOST + 1])


def _of_steps(steps: list[WorkflowStep], history: list[WorkflowHistory]) -> Iterator[Moment]:
    """Each outcome once: who ended a wait stands with the outcome that the wait has."""
    ended = {row.step: row for row in history if row.kind in ENDS_OF_WAITS and row.step}
    names = {step.name for step in steps if step.answerable and step.finished_at is not None}
    for step in steps:
        yield from _of_step(step, ended.get(step.name) if step.name in names else None)
    for row in history:
        if row.kind not in ENDS_OF_WAITS or row.step not in names:
            yield _of_history(row)


def _of_step(step: WorkflowStep, end: WorkflowHistory | None) -> Iterator[Moment]:
    if step.answerable or step.until is not None:
        until = f"until {in_zone(step.until):%Y-%m-%d %H:%M:%S %Z}" if step.until else ""
        what = "waits" if step.answerable else "sleeps"
        yield Moment(step.started_at, what, step.name, detail=until)
    if step.status == StepStatus.BEGUN:
        yield Moment(step.started_at, "in_doubt", step.name)
    elif step.finished_at is not None:
        took = max(step.finished_at - step.started_at, timedelta(0))
        by = end.by if end is not None else ""
        is_by_hand = end is not None and end.kind == HistoryKind.WAIT_ENDED
        what, detail = "step", result_in_short(step)
        if step.status == StepStatus.TIMED_OUT:
            what = ("wait_ended" if is_by_hand else "timed_out") if step.answerable else "woke"
            detail = ""
        elif step.answerable:
            what, detail = "answered", _answer(step)
        yield Moment(step.finished_at, what, step.name, by=by, detail=detail, took=took)


def result_in_short(step: WorkflowStep) -> str:
    """What it returned, redacted, by its own name too; nothing for nothing."""
    shown, size = getattr(step, "shown", None), getattr(step, "size", None) or 0
    if shown is None:
        return f"{size:,} characters of JSON" if size > LARGEST else ""
    return readable(redact_named(step.name, shown), most=MOST_SHOWN)


def _answer(step: WorkflowStep) -> str:
    answer = result_in_short(step) or "null"
    return f"{step.label}: {answer}" if step.label else answer


def _of_history(row: WorkflowHistory) -> Moment:
    about = row.step if row.delivery is None else row.delivery.registration_id
    return Moment(row.at, row.kind, about, row.by, row.detail, number=row.number)


def _left_out(at: datetime, of_what: str) -> Moment:
    return Moment(at, "left_out", of_what, detail=f"more than {MOST:,}; the rest is not shown")


def _told(moments: Iterable[Moment]) -> list[Moment]:
    """In order, each with its distance from the first and a word on long silences."""
    ordered = sorted(moments, key=lambda one: one.at)
    told: list[Moment] = []
    for one in ordered:
        silence = one.at - told[-1].at if told else timedelta(0)
        told.append(
            replace(one, offset=one.at - ordered[0].at, gap=silence if silence >= LONG else None)
        )
    return told


def in_zone(moment: datetime) -> datetime:
    """In the current time zone, as everything that people read."""
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def last_line(error: str | None) -> str:
    """What an error says in short: the last line that says anything."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
