"""Before a claimed event is settled: whether it answers open waits. The look is undelivered work.

Two statements for a chunk of events, one if no wait is open for their keys; and one short
transaction for each execution that waits, which locks that execution alone.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from general_manager.escaping import get_logger
from general_manager.workflow.core.connections import persist
from general_manager.workflow.core.matching import keys_of, mailbox_for
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.executions.children.afterwards import run_later
from general_manager.workflow.executions.runner import run_here
from general_manager.workflow.models import WorkflowEventWait, WorkflowExecutionRecord
from general_manager.workflow.models.executions.looks import look_for_event

logger = get_logger(__name__)


def look_for_waits(using: str, events: Mapping[int, WorkflowEvent]) -> set[int]:
    """Answer the waits that these events, by the keys of their entries, may answer.

    Returns the entries whose look failed: they are looked at again, and not settled before.
    """
    failed: set[int] = set()
    try:
        found = persist(using, lambda: _waiting_for(using, events), patience=0)
    except Exception:
        logger.exception("Waits for %d events were not looked for; retrying", len(events))
        return set(events)
    for execution, entries in found.items():
        try:
            persist(using, partial(_look, using, execution), patience=0)
        except Exception:
            logger.exception("Execution %s was not looked at for an event; retrying", execution)
            failed.update(entries)
    return failed


def _waiting_for(using: str, events: Mapping[int, WorkflowEvent]) -> dict[int, set[int]]:
    """Executions with an open wait that one of the events may answer, each with its entries."""
    waits = WorkflowEventWait.objects.using(using)
    shapes = waits.shapes({key for one in events.values() for key in _keys(one)})
    if not shapes:
        return {}
    by_mailbox: dict[str, set[int]] = {}
    for entry, event in events.items():
        for key in _keys(event):
            for shape in shapes.get(key, ()):
                mailbox = mailbox_for(key, shape, event.payload)
                if mailbox is not None:
                    by_mailbox.setdefault(mailbox, set()).add(entry)
    found: dict[int, set[int]] = {}
    for mailbox, execution in waits.of_mailboxes(by_mailbox) if by_mailbox else ():
        found.setdefault(execution, set()).update(by_mailbox[mailbox])
    return found


def _keys(event: WorkflowEvent) -> Iterable[str]:
    return keys_of(event.event_type, event.event_name)


def _look(using: str, key: int) -> None:
    record = look_for_event(WorkflowExecutionRecord.objects.using(using), key)
    if record is not None:
        run_later(record.execution_id, record.queue, record.slot_key, using, run_here)
