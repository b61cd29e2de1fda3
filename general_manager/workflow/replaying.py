"""Deliver an event again, by a person's wish: to whom it may go, and that it goes there only."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from django.db import transaction

from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import ChangedMeanwhileError, WorkflowError
from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowOutbox,
)


class EntryBusyError(WorkflowError):
    """A worker has the event right now."""

    def __init__(self, event_id: str) -> None:
        super().__init__(event_id)
        self.event_id = event_id

    def __str__(self) -> str:
        return f"A worker is delivering event {self.event_id} right now; try again when it is done."


@dataclass(frozen=True, slots=True)
class Recipient:
    """A handler of this process that wants the event; *status* is empty if it never had it."""

    id: str
    status: str

    @property
    def has_failed(self) -> bool:
        return self.status in (DeliveryStatus.FAILED, DeliveryStatus.DEAD_LETTER)


def recipients(record: WorkflowEventRecord) -> list[Recipient]:
    """Who would have the event, including handlers registered since; asks each ``when``."""
    event = record.to_event()
    using = record._state.db or "default"
    rows = WorkflowDeliveryAttempt.objects.using(using).filter(outbox__event=record)
    had = dict(rows.values_list("registration_id", "status"))
    return [
        Recipient(one.id, had.get(one.id, ""))
        for one in get_event_registry().matching(event)
        if one.id in had or _wants(one, event)
    ]


def _wants(registration: Registration, event: WorkflowEvent) -> bool:
    try:
        return registration.wants(event)
    except Exception:  # noqa: BLE001 - the user's predicate; its failure would be its own delivery's
        return True


def statuses(known: Iterable[Recipient]) -> list[list[str]]:
    """How the event stands with each, for `replay` to compare."""
    return [[one.id, one.status] for one in known]


ANYHOW: Final = object()


def replay(
    record: WorkflowEventRecord, registration_ids: Collection[str], *, seen: object = ANYHOW
) -> int:
    """Owe the event again to these handlers and no others; returns to how many.

    Raises `EntryBusyError` while a worker has it, and `ChangedMeanwhileError` if *seen* is given
    and is not what `statuses` says by now. The caller has the outbox drained.
    """
    using = record._state.db or "default"
    deliveries = WorkflowDeliveryAttempt.objects.using(using)
    entry = record.outbox.pk
    with transaction.atomic(using=using):  # no drain may come between the two
        WorkflowOutbox.objects.using(using).select_for_update().filter(pk=entry).exists()
        known = recipients(record)
        if seen is not ANYHOW and seen != statuses(known):
            raise ChangedMeanwhileError(
                "Its deliveries have changed since you were asked, or the form did not say what "
                "you had seen: look again."
            )
        others = [one.id for one in known if not one.status and one.id not in registration_ids]
        count = deliveries.replay(entry, registration_ids)
        if not count:
            raise EntryBusyError(record.event_id)
        deliveries.pass_over(entry, others)
    return count
