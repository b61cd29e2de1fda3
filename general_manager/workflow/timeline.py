"""One story from the event to the outcome, out of all tables, in a fixed number of queries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from django.db.models import QuerySet
from django.utils import timezone

from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowStep,
)
from general_manager.workflow.steps import StepStatus
from general_manager.workflow.tables import Tables, whole_tables

LONG: Final = timedelta(minutes=1)
"""A gap that is worth a word."""

LARGE: Final = ("input_data", "output_data", "metadata", "retry")
"""Columns that a timeline does not need."""

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
    steps = WorkflowStep.objects.using(using).filter(execution=execution).order_by("pk")
    for number, step in enumerate(steps.defer("result")[: MOST + 1]):
        # By the time of the first that is left out: there the reader misses it.
        left_out = number == MOST
        moments += [_left_out(step.started_at, "steps")] if left_out else _of_step(step)
    history = WorkflowHistory.objects.using(using).filter(execution=execution)
    moments += _of_history(history)
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
    history = list(_of_history(rows))
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


def _of_step(step: WorkflowStep) -> Iterator[Moment]:
    if step.answerable or step.until is not None:
        until = f"until {in_zone(step.until):%Y-%m-%d %H:%M:%S}" if step.until is not None else ""
        yield Moment(
            step.started_at, "waits" if step.answerable else "sleeps", step.name, "", until
        )
    if step.status == StepStatus.BEGUN:
        yield Moment(step.started_at, "in_doubt", step.name)
    elif step.finished_at is not None:
        took = step.finished_at - step.started_at
        what = "answered" if step.answerable else "step"
        if step.status == StepStatus.TIMED_OUT:
            what = "timed_out" if step.answerable else "woke"
        yield Moment(step.finished_at, what, step.name, took=max(took, timedelta(0)))


def _of_history(rows: "QuerySet[WorkflowHistory]") -> Iterator[Moment]:
    for number, row in enumerate(rows.order_by("pk")[: MOST + 1]):
        if number == MOST:
            yield _left_out(row.at, "history")
            return
        about = row.delivery.registration_id if row.delivery is not None else ""
        yield Moment(row.at, row.kind, about, row.by, row.detail)


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
