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
    WorkflowOutbox,
    WorkflowStep,
)
from general_manager.workflow.redaction import readable
from general_manager.workflow.steps import StepStatus

LONG: Final = timedelta(minutes=1)
"""A gap that is worth a word."""

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


def timeline_of_execution(execution: WorkflowExecutionRecord) -> list[Moment]:
    """In order of time, with offsets from the event, or from the start if no event caused it.

    At most six statements.
    """
    using = execution._state.db or "default"
    moments = list(_of_execution(execution))
    history = WorkflowHistory.objects.using(using).filter(execution=execution)
    moments += _of_steps(shown_steps(execution), list(history.order_by("pk")[:MOST]))
    if execution.caused_by is not None:
        found = WorkflowEventRecord.objects.using(using).filter(event_id=execution.caused_by)
        for event in found.select_related("outbox"):
            moments += _of_event(event, using)
    return _told(moments)


def timeline_of_event(event: WorkflowEventRecord) -> list[Moment]:
    """The event, its deliveries, and the start and end of the executions that it caused.

    At most five statements.
    """
    using = event._state.db or "default"
    moments = list(_of_event(event, using))
    caused = WorkflowExecutionRecord.objects.using(using).filter(caused_by=event.event_id)
    for execution in caused.defer("traceback", "input_data", "output_data").order_by("pk")[:MOST]:
        moments += _of_execution(execution)
    return _told(moments)


def _of_event(event: WorkflowEventRecord, using: str) -> Iterator[Moment]:
    name = event.event_name or event.event_type
    yield Moment(event.published_at, "published", name, event_id=event.event_id)
    entry: WorkflowOutbox | None = getattr(event, "outbox", None)
    if entry is None:
        return
    if entry.claimed_at is not None:
        yield Moment(entry.claimed_at, "claimed", by=entry.claimed_by)
    attempts = WorkflowHistory.objects.using(using).filter(delivery__outbox=entry)
    rows = attempts.select_related("delivery").order_by("pk")[:MOST]
    history = [_of_history(row) for row in rows]
    yield from history
    last = {one.about: one.at for one in history}
    deliveries = WorkflowDeliveryAttempt.objects.using(using).filter(outbox=entry)
    for delivery in deliveries.defer("traceback").order_by("pk")[:MOST]:
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
    """The steps of an execution, in the order in which they began.

    Results that nobody reads on a page stay in the database; of those `result_in_short` says the
    size.
    """
    rows = WorkflowStep.objects.using(execution._state.db or "default").filter(execution=execution)
    size = Length(Cast("result", TextField()))
    small = Case(When(size__lte=LARGEST, then=F("result")), default=Value(None, JSONField()))
    return list(rows.defer("result").annotate(size=size, shown=small).order_by("pk")[:MOST])


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
        until = f"until {timezone.localtime(step.until):%Y-%m-%d %H:%M:%S %Z}" if step.until else ""
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
    """What it returned, redacted; nothing for nothing."""
    shown, size = getattr(step, "shown", None), getattr(step, "size", None) or 0
    if shown is None:
        return f"{size:,} characters of JSON" if size > LARGEST else ""
    return readable(shown, most=MOST_SHOWN)


def _answer(step: WorkflowStep) -> str:
    answer = result_in_short(step) or "null"
    return f"{step.label}: {answer}" if step.label else answer


def _of_history(row: WorkflowHistory) -> Moment:
    about = row.step if row.delivery is None else row.delivery.registration_id
    return Moment(row.at, row.kind, about, row.by, row.detail, number=row.number)


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


def last_line(error: str | None) -> str:
    """What an error says in short: the last line that says anything."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
