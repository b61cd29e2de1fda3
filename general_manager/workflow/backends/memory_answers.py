"""What answers an open wait in memory: signals, and the events that the registry keeps."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured

from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import Record
from general_manager.workflow.core.actors import acting_as
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.core.matching import matches
from general_manager.workflow.durable.answers.objects import OBJECT_EVENTS, is_reached, shows
from general_manager.workflow.durable.answers.sources import (
    DIFFERENT_KINDS,
    Source,
    SourceKind,
    source_of,
)
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.durable.signals import SignalStatus
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.event_registry.mailbox import KeptEvent, Mailbox, next_mark
from general_manager.workflow.exceptions import StepUsageError
from general_manager.workflow.history import HistoryKind


class _Found(NamedTuple):
    """What a source has, and since when."""

    mark: int
    source: Source
    event: KeptEvent | None = None
    signal: Any = None


def mailbox_in_force() -> Mailbox:
    """Where the registry keeps events; `StepUsageError` if it keeps them elsewhere."""
    try:
        registry = get_event_registry()
    except ImproperlyConfigured as error:
        raise StepUsageError(str(error)) from error
    mailbox = getattr(registry, "mailbox", None)
    if not isinstance(mailbox, Mailbox):
        names = {"registry": type(registry).__name__, "engine": "LocalWorkflowEngine"}
        raise StepUsageError(DIFFERENT_KINDS.format(**names))
    return mailbox


def subscribe(
    memory: ExecutionMemory,
    record: Record,
    name: str,
    sources: Sequence[Source],
    look: Callable[[Record], None],
) -> None:
    """Have events find the open wait *name* of *record*."""
    record.unsubscribe()
    wanted: list[tuple[str, Any]] = []
    for one in sources:
        if one.kind is SourceKind.EVENT:
            wanted.append((one.name, dict(one.match)))
        elif one.kind is SourceKind.STATE:
            wanted += [(key, dict(one.about)) for key in OBJECT_EVENTS]
    if not wanted:
        return
    mailbox, owner = memory.mailbox or mailbox_in_force(), (record.execution_id, name)
    for key, match in wanted:
        mailbox.subscribe(owner, key, match, lambda: look(record))
    record.mailbox, record.subscription, record.waiting_mark = mailbox, owner, next_mark()


def settle(memory: ExecutionMemory, record: Record) -> bool:
    """Answer the open wait of *record* by its oldest signal, or the first of its sources.

    Returns whether there was something.
    """
    with memory.lock:
        name = record.waiting_for
        if name is None or not record.is_active or record.ending is not None:
            return False
        step = record.steps[name]
        if step.sources:
            return _take_first(memory, record, [source_of(one) for one in step.sources])
        signal = _oldest(memory, record, step.signal)
        if signal is not None:
            _take_signal(memory, record, signal)
        return signal is not None


def _take_first(memory: ExecutionMemory, record: Record, sources: Sequence[Source]) -> bool:
    found = list(_found(memory, record, sources))
    if not found:
        state = next((one for one in sources if one.kind is SourceKind.STATE), None)
        if state is None or not is_reached(state, None):
            return False
        _answer(memory, record, state, None)
        return True
    first = min(found, key=lambda one: one.mark)
    if first.signal is not None:
        _take_signal(memory, record, first.signal, first.source.branch)
    else:
        _answer(memory, record, first.source, first.event)
    return True


def _found(memory: ExecutionMemory, record: Record, sources: Sequence[Source]) -> Iterator[_Found]:
    for one in sources:
        if one.kind is SourceKind.SIGNAL:
            signal = _oldest(memory, record, one.name)
            if signal is not None:
                yield _Found(signal.mark, one, signal=signal)
        elif one.kind is not SourceKind.ANSWER:
            event = _earliest(memory, record, one)
            if event is not None:
                yield _Found(event.mark, one, event=event)


def _earliest(memory: ExecutionMemory, record: Record, source: Source) -> KeptEvent | None:
    mailbox = record.mailbox or memory.mailbox or mailbox_in_force()
    taken = memory.taken.get(record.chain, {})
    if source.kind is SourceKind.STATE:
        kept = [one for key in OBJECT_EVENTS for one in mailbox.events(key)]
        of_object = (one for one in kept if matches(source.about, one.event.payload))
        since = (one for one in of_object if one.mark > record.waiting_mark)
        return next((one for one in since if shows(source, one.event.payload)), None)
    for one in mailbox.events(source.name):
        is_old = one.seen_at < source.since if source.since else one.mark < record.mark
        if is_old or one.event.event_id == record.caused_by:
            continue
        if (source.mailbox, one.event.event_id) in taken:
            continue
        if matches(source.match, one.event.payload):
            return one
    return None


def _oldest(memory: ExecutionMemory, record: Record, name: str | None) -> Any:
    sent = memory.signals.get(record.chain, [])
    kept = (one for one in sent if one.status is SignalStatus.KEPT and one.name == name)
    return next(kept, None)


def _take_signal(memory: ExecutionMemory, record: Record, signal: Any, branch: str = "") -> None:
    name = record.waiting_for or ""
    by = {"answered_by": signal.number, "branch": branch or None}
    with acting_as(signal.sent_by):
        kind = HistoryKind.SIGNALLED
        memory.end_wait(record, name, StepStatus.DONE, kind, result=signal.value, **by)
    signal.status, signal.taken_at = SignalStatus.TAKEN, memory.clock()
    signal.taken_by, signal.wait = record.execution_id, name


def _answer(
    memory: ExecutionMemory, record: Record, source: Source, kept: KeptEvent | None
) -> None:
    name, event_id = record.waiting_for or "", None if kept is None else kept.event.event_id
    value: Any = dict(source.match)
    if kept is not None and source.kind is SourceKind.EVENT:
        value = copy_encoded(kept.event.payload)
        memory.taken.setdefault(record.chain, {})[source.mailbox, kept.event.event_id] = name
    if kept is not None and memory.mailbox is not None:
        memory.mailbox.taken.add(kept.event.event_id)
    by = {"branch": source.branch, "event": event_id}
    kind = HistoryKind.EVENT_RECEIVED
    memory.end_wait(record, name, StepStatus.DONE, kind, result=value, **by)


def give_back(memory: ExecutionMemory, record: Record, events: Collection[tuple[str, str]]) -> None:
    """The waits that took these events are forgotten: the next ones may take them again."""
    taken = memory.taken.get(record.chain, {})
    for mailbox, event_id in list(taken):
        if (event_id, taken[mailbox, event_id]) in events:
            del taken[mailbox, event_id]
