"""Which of its sources answers an open wait, and the answer: under the execution's lock."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from general_manager.workflow.core.actors import acting_as
from general_manager.workflow.durable.answers.objects import is_reached
from general_manager.workflow.durable.answers.sources import Source, SourceKind
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models.answers.earliest import earliest
from general_manager.workflow.models.answers.taken import WorkflowTakenEvent
from general_manager.workflow.models.event import WorkflowEventRecord
from general_manager.workflow.models.signal import WorkflowSignal


class _Found(NamedTuple):
    """What a source has, and since when."""

    since: datetime
    source: Source
    event: WorkflowEventRecord | None = None
    signal: WorkflowSignal | None = None

    @property
    def place(self) -> tuple[datetime, bool, int]:
        """Of one time, signals come before events, each in the order of their ids."""
        row = self.signal or self.event
        return self.since, self.signal is None, 0 if row is None else row.pk


def chain_of(record: Any) -> str:
    """The id of the first execution of its chain."""
    return str(record.chain or record.execution_id)


def chain_values(record: Any) -> Mapping[str, Any]:
    """The columns of the next execution in the chain of *record* that say so."""
    return {
        "chain": chain_of(record),
        "chain_started_at": record.chain_started_at or record.created_at,
    }


def take_signal(executions: Any, record: Any, signal: WorkflowSignal, branch: str = "") -> bool:
    """The value of *signal* is the answer of the open wait; returns whether it won."""
    name, by = record.waiting_for, {"answered_by": signal.pk, "branch": branch or None}
    answering = record.steps.using(executions.db).answering(record, name, signal.value, **by)
    with acting_as(signal.sent_by):
        if not executions.wait_ended(record, HistoryKind.SIGNALLED, answering):
            return False
    WorkflowSignal.objects.using(executions.db).take(signal, record.execution_id, name)
    return True


def take_first(executions: Any, record: Any, sources: Iterable[Source]) -> bool:
    """Answer the open wait by what was stored first; returns whether there was something.

    The others stay untaken: the one row that they share has its outcome.
    """
    found = list(_found(executions, record, sources))
    if found:
        first = min(found, key=lambda one: one.place)
        if first.signal is not None:
            is_taken = take_signal(executions, record, first.signal, first.source.branch)
        else:
            is_taken = _take_event(executions, record, first)
    else:
        state = next((one for one in sources if one.kind is SourceKind.STATE), None)
        reached = state is not None and is_reached(state, executions.db)
        is_taken = reached and state is not None and _answer(executions, record, state, None)
    if is_taken:
        record.event_waits.model.objects.using(executions.db).close(record)
    return is_taken


def _found(executions: Any, record: Any, sources: Iterable[Source]) -> Iterable[_Found]:
    using, chain = executions.db, chain_of(record)
    for one in sources:
        if one.kind is SourceKind.SIGNAL:
            signal = WorkflowSignal.objects.using(using).oldest(chain, one.name)
            if signal is not None:
                yield _Found(signal.sent_at, one, signal=signal)
        elif one.kind is not SourceKind.ANSWER:
            since = one.since or record.chain_started_at or record.created_at
            if one.kind is SourceKind.STATE:
                since = record.waiting_since
            event = earliest(using, one, chain=chain, since=since, cause=record.caused_by)
            if event is not None:
                yield _Found(event.published_at, one, event=event)


def _take_event(executions: Any, record: Any, found: _Found) -> bool:
    event = found.event
    if event is None or not _answer(executions, record, found.source, event):
        return False
    if found.source.kind is SourceKind.EVENT:
        WorkflowTakenEvent.objects.using(executions.db).take(
            chain_of(record),
            found.source.mailbox,
            event.event_id,
            by=record.execution_id,
            wait=record.waiting_for,
        )
    return True


def _answer(
    executions: Any, record: Any, source: Source, event: WorkflowEventRecord | None
) -> bool:
    if source.kind is SourceKind.STATE or event is None:
        value: Any = dict(source.match)
    else:
        value = event.payload
    by = {"branch": source.branch, "event": None if event is None else event.event_id}
    steps = record.steps.using(executions.db)
    answering = steps.answering(record, record.waiting_for, value, **by)
    return bool(executions.wait_ended(record, HistoryKind.EVENT_RECEIVED, answering))
