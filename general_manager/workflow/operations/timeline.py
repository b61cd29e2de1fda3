"""The timeline from event to outcome, from all tables, in a fixed number of queries."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Case, F, JSONField, Q, QuerySet, TextField, Value, When
from django.db.models.functions import Cast, Length

from general_manager.workflow.core.redaction import readable, redact_named
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.durable.signals import SignalStatus
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowOutbox,
    WorkflowSignal,
    WorkflowStep,
)
from general_manager.workflow.models.executions.taking import chain_of
from general_manager.workflow.operations.moments import (
    MOST_MOMENTS,
    Moment,
    in_order,
    last_line,
    left_out,
    until_in_words,
)
from general_manager.workflow.operations.tables import Tables, whole_tables
from general_manager.workflow.operations.waits import sources_in_words

LARGE: Final = ("input_data", "output_data", "metadata", "retry", "attributes", "reports")
"""Large columns that a timeline does not need."""
LARGEST: Final = 20_000  # longer results are not read
LONGEST_RESULT: Final = 600
"""Characters shown of a result."""

ENDS_OF_WAITS: Final = (
    HistoryKind.RESUMED, HistoryKind.SIGNALLED, HistoryKind.EVENT_RECEIVED,
    HistoryKind.WAIT_TIMED_OUT, HistoryKind.WAIT_ENDED, HistoryKind.CHILDREN_ENDED,
)  # fmt: skip

ENDS_OF_SAGAS: Final[dict[str, str]] = {
    StepStatus.DONE: "saga_closed", StepStatus.UNDONE: "saga_undone",
    StepStatus.INCOMPLETE: "saga_incomplete",
}  # fmt: skip


def timeline_of_execution(
    execution: WorkflowExecutionRecord, tables: Tables | None = None
) -> list[Moment]:
    """Moments by time, with offsets from the event, or from the start if no event caused it.

    Reads the event and its deliveries from *tables*. At most seven statements.
    """
    using = execution._state.db or "default"
    tables = (tables or whole_tables()).using(using)
    moments = list(_of_execution(execution))
    history = WorkflowHistory.objects.using(using).filter(execution=execution)
    steps, notes = shown_steps(execution), list(history.order_by("pk")[: MOST_MOMENTS + 1])
    moments += _of_steps(steps[:MOST_MOMENTS], notes[:MOST_MOMENTS])
    # At the time of the first one left out, where the reader would expect it.
    moments += [left_out(one.started_at, "steps") for one in steps[MOST_MOMENTS:]]
    moments += [left_out(one.at, "history") for one in notes[MOST_MOMENTS:]]
    signals = shown_signals(execution)
    moments += [one for signal in signals[:MOST_MOMENTS] for one in _of_signal(signal, execution)]
    moments += [left_out(one.sent_at, "signals") for one in signals[MOST_MOMENTS:]]
    if execution.caused_by is not None:
        found = tables.events.filter(event_id=execution.caused_by).defer("payload", "metadata")
        for event in tables.seen(found):
            moments += _of_event(event, tables)
    return in_order(moments)


def timeline_of_event(event: WorkflowEventRecord, tables: Tables | None = None) -> list[Moment]:
    """The event, its deliveries, and the start and end of the executions that it caused.

    Reads deliveries and executions from *tables*. At most five statements.
    """
    using = event._state.db or "default"
    tables = (tables or whole_tables()).using(using)
    moments = list(_of_event(event, tables))
    caused = tables.executions.filter(caused_by=event.event_id, parent=None).order_by("pk")
    found = tables.seen(caused.defer("traceback", *LARGE)[: MOST_MOMENTS + 1])
    for execution in found[:MOST_MOMENTS]:
        moments += _of_execution(execution)
    moments += [left_out(one.created_at, "executions") for one in found[MOST_MOMENTS:]]
    return in_order(moments)


def _of_event(event: WorkflowEventRecord, tables: Tables) -> Iterator[Moment]:
    name = event.event_name or event.event_type
    yield Moment(event.published_at, "published", name, event_id=event.event_id)
    entries = tables.seen(tables.entries.filter(event=event))
    for entry in entries:
        if entry.claimed_at is not None:
            yield Moment(entry.claimed_at, "claimed", by=entry.claimed_by)
    ours = tables.deliveries.filter(outbox__event=event).defer("traceback").order_by("pk")
    found = tables.seen(ours[: MOST_MOMENTS + 1])
    deliveries = {one.pk: one for one in found[:MOST_MOMENTS]}
    known = {one.registration_id for one in found}
    for entry in entries:
        yield from _without_delivery(entry, known)
    if not deliveries:
        return
    yield from (left_out(one.started_at, "deliveries") for one in found[MOST_MOMENTS:])
    attempts = WorkflowHistory.objects.using(tables.deliveries.db)
    rows = attempts.filter(delivery__in=list(deliveries)).select_related("delivery")
    notes = list(rows.order_by("pk")[: MOST_MOMENTS + 1])
    history = [_of_history(row) for row in notes[:MOST_MOMENTS]]
    yield from (left_out(one.at, "history") for one in notes[MOST_MOMENTS:])
    yield from history
    last = {one.about: one.at for one in history}
    for delivery in deliveries.values():
        yield from _of_delivery(delivery, last.get(delivery.registration_id))


def _without_delivery(entry: WorkflowOutbox, known: set[str]) -> Iterator[Moment]:
    """Registrations that no worker has called yet; and that there is none at all."""
    if entry.settled_at is None and entry.visits:  # a worker has had it, and did not know them
        for registration in entry.expected_registrations:
            if registration not in known:
                at = entry.claimed_at or entry.undelivered_since
                yield Moment(at, "unregistered", registration)
    elif entry.settled_at is not None and not (entry.expected_registrations or known):
        yield Moment(entry.settled_at, "unmatched")


def _of_delivery(delivery: WorkflowDeliveryAttempt, last: datetime | None) -> Iterator[Moment]:
    """A delivery's moments; its end follows its *last* attempt, whichever was written first."""
    about = delivery.registration_id
    if delivery.status == DeliveryStatus.QUEUED:
        late = "its publisher did not know the registration" if delivery.late_at else ""
        yield Moment(delivery.started_at, "queued_in_order", about, detail=late)
    if delivery.status == DeliveryStatus.RUNNING:
        yield Moment(delivery.started_at, "delivering", about)
    elif delivery.status == DeliveryStatus.PAUSED:
        since = max(delivery.started_at, delivery.finished_at or delivery.started_at)
        yield Moment(since, "parked", about)
    elif delivery.status == DeliveryStatus.QUEUED:
        return
    elif delivery.finished_at is not None and delivery.status != DeliveryStatus.FAILED:
        kind = delivery.error_class.removeprefix("builtins.")
        error = f"{kind}: {delivery.error}" if kind else ""
        is_dead = delivery.status == DeliveryStatus.DEAD_LETTER
        what = {"completed": "delivered", "dead_letter": "dead"}.get(delivery.status, "given_up")
        at = max(delivery.finished_at, last) if is_dead and last else delivery.finished_at
        yield Moment(at, what, about, detail=error if is_dead else "")


def _of_execution(execution: WorkflowExecutionRecord) -> Iterator[Moment]:
    about, key = execution.workflow_id, execution.execution_id
    # The times of an execution that ends at its creation come from two clocks.
    at = min(execution.created_at, execution.started_at or execution.created_at)
    yield Moment(at, "created", about, execution_id=key)
    # The row names only the latest worker, which is not the one that started it after a retry.
    first, latest = (execution.claimed_by, "") if execution.runs < 2 else ("", execution.claimed_by)
    if execution.started_at is not None:
        yield Moment(execution.started_at, "started", about, by=first, execution_id=key)
    if execution.parked_at is not None:
        yield Moment(execution.parked_at, "parked", about)
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


def shown_steps(execution: WorkflowExecutionRecord, **which: Any) -> list[WorkflowStep]:
    """An execution's steps in the order of their start, at most `MOST_MOMENTS` + 1.

    Large results are not read; `result_in_short` shows their size instead.
    """
    rows = WorkflowStep.objects.using(execution._state.db or "default").filter(**which)
    mine = rows.filter(execution=execution).order_by("pk")
    return list(_without_large(mine, "result")[: MOST_MOMENTS + 1])


def _without_large(rows: "QuerySet[Any]", column: str) -> "QuerySet[Any]":
    size = Length(Cast(column, TextField()))
    small = Case(When(size__lte=LARGEST, then=F(column)), default=Value(None, JSONField()))
    found: QuerySet[Any] = rows.defer(column).annotate(size=size, shown=small)
    return found


def _of_steps(steps: list[WorkflowStep], history: list[WorkflowHistory]) -> Iterator[Moment]:
    """Each outcome once: a wait's moment also names who ended it."""
    ended = {row.step: row for row in history if row.kind in ENDS_OF_WAITS and row.step}
    is_wait = {step.name for step in steps if step.answerable or step.name in ended}
    names = {one.name for one in steps if one.name in is_wait and one.finished_at is not None}
    for step in steps:
        if step.status == StepStatus.GATHERING or (step.name in ended and not step.answerable):
            yield from _of_gather(step)
            continue
        yield from _of_step(step, ended.get(step.name) if step.name in names else None)
    for row in history:
        if row.kind not in ENDS_OF_WAITS or row.step not in names:
            yield _of_history(row)


def _of_gather(step: WorkflowStep) -> Iterator[Moment]:
    yield Moment(step.started_at, "gathers", step.name, detail=until_in_words(step.until))
    if step.finished_at is not None:
        ends = {StepStatus.FAILED: "gather_failed", StepStatus.TIMED_OUT: "timed_out"}
        what = ends.get(StepStatus(step.status), "gathered")
        detail = last_line((step.failure or {}).get("text"))
        yield Moment(step.finished_at, what, step.name, detail=detail)


def _of_step(step: WorkflowStep, end: WorkflowHistory | None) -> Iterator[Moment]:
    if step.status in (StepStatus.RUNNING, StepStatus.RETRYING):
        # Its failed attempts are in the history.
        what = "attempt_runs" if step.status == StepStatus.RUNNING else "retrying"
        yield Moment(step.started_at, what, step.name, detail=until_in_words(step.until))
        return
    if step.saga == step.name:  # that its undos run is in the history
        yield Moment(step.started_at, "saga", step.name)
    if step.answerable or step.until is not None:
        what = "waits" if step.answerable else "sleeps"
        detail = " ".join(filter(None, (sources_in_words(step), until_in_words(step.until))))
        yield Moment(step.started_at, what, step.name, detail=detail)
    if step.status == StepStatus.STARTED:
        yield Moment(step.started_at, "in_doubt", step.name)
    elif step.finished_at is not None:
        took = max(step.finished_at - step.started_at, timedelta(0))
        by = end.by if end is not None else ""
        is_by_hand = end is not None and end.kind == HistoryKind.WAIT_ENDED
        what, detail = _outcome(step, is_by_hand=is_by_hand)
        yield Moment(
            step.finished_at, what, step.name,
            by=by, detail=detail, took=took, event_id=step.event,
        )  # fmt: skip


def _outcome(step: WorkflowStep, *, is_by_hand: bool) -> tuple[str, str]:
    """What became of a step that has ended, and the details."""
    failure = last_line((step.failure or {}).get("text"))
    what, detail = "step", result_in_short(step)
    if step.status == StepStatus.TIMED_OUT:
        what = ("wait_ended" if is_by_hand else "timed_out") if step.answerable else "woke"
        detail = ""
    elif step.status == StepStatus.CLOSED:
        what, detail = "wait_closed", ""
    elif step.saga == step.name:
        what = ENDS_OF_SAGAS.get(step.status, "")
        detail = ", ".join((getattr(step, "shown", None) or {}).get("left", ()))
    elif step.saga is not None:
        what = "undone" if step.status == StepStatus.DONE else "undo_failed"
        detail = detail or failure
    elif step.status == StepStatus.FAILED:
        what, detail = "step_failed", failure
    elif step.answerable:
        what = "answered_by_event" if step.event is not None else "answered"
        detail = _answer(step)
    return what, detail


def shown_signals(execution: WorkflowExecutionRecord) -> list[WorkflowSignal]:
    """The signals that were sent to an execution or that it took, at most `MOST_MOMENTS` + 1."""
    key = execution.execution_id
    signals = WorkflowSignal.objects.using(execution._state.db or "default")
    mine = signals.filter(Q(sent_to=key) | Q(taken_by=key), chain=chain_of(execution))
    return list(_without_large(mine, "value").order_by("pk")[: MOST_MOMENTS + 1])


def _of_signal(signal: WorkflowSignal, execution: WorkflowExecutionRecord) -> Iterator[Moment]:
    """When it was sent; that no wait asked for it, if so."""
    yield Moment(
        signal.sent_at, "signal", signal.name, signal.sent_by, result_in_short(signal) or "null"
    )
    if signal.status == SignalStatus.KEPT and execution.ended_at is not None:
        yield Moment(max(signal.sent_at, execution.ended_at), "signal_unread", signal.name)


def result_in_short(row: WorkflowStep | WorkflowSignal) -> str:
    """A step's result or a signal's value, redacted also by its name; empty if it has none."""
    shown, size = getattr(row, "shown", None), getattr(row, "size", None) or 0
    if shown is None:
        return f"{size:,} characters of JSON" if size > LARGEST else ""
    return readable(redact_named(row.name, shown), most=LONGEST_RESULT)


def _answer(step: WorkflowStep) -> str:
    answer = result_in_short(step) or "null"
    return f"{step.label}: {answer}" if step.label else answer


def _of_history(row: WorkflowHistory) -> Moment:
    about = row.step if row.delivery is None else row.delivery.registration_id
    return Moment(row.at, row.kind, about, row.by, row.detail, number=row.number)
