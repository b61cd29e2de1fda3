"""Deliver an event again on request: find its handlers, and queue it for the chosen ones."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from django.db import transaction

from general_manager.workflow.core.isolation import called_aside
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.events import WorkflowEvent, ordering_key_of
from general_manager.workflow.exceptions import (
    ChangedMeanwhileError,
    WorkflowError,
    ends_the_process,
)
from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowLane,
    WorkflowOutbox,
)
from general_manager.workflow.models.lane import Lane, Place


class EntryBusyError(WorkflowError):
    """Raised while a worker is delivering the event."""

    def __init__(self, event_id: str) -> None:
        super().__init__(event_id)
        self.event_id = event_id

    def __str__(self) -> str:
        return f"A worker is delivering event {self.event_id} right now. Try again later."


@dataclass(frozen=True, slots=True)
class Recipient:
    """A handler of this process that matches; *status* is empty if it never got the event."""

    id: str
    status: str
    since: str = ""
    """Identifies the last delivery: one more may end with the same status."""

    @property
    def has_failed(self) -> bool:
        return self.status in (DeliveryStatus.FAILED, DeliveryStatus.DEAD_LETTER)


def recipients(record: WorkflowEventRecord) -> list[Recipient]:
    """The handlers that match the event, including those registered since; calls each ``when``."""
    event = record.to_event()
    using = record._state.db or "default"
    rows = WorkflowDeliveryAttempt.objects.using(using).filter(outbox__event=record)
    columns = ("registration_id", "status", "attempts", "finished_at")
    had = {key: (status, f"{count} {at}") for key, status, count, at in rows.values_list(*columns)}
    return [
        Recipient(one.id, *had.get(one.id, ("", "")))
        for one in get_event_registry().matching(event)
        if one.id in had or _matches(one, event)
    ]


def _queue_in_order(
    record: WorkflowEventRecord, new: Collection[str], chosen: Collection[str]
) -> None:
    """Give the event a place in the lanes of *chosen* handlers that refused it before."""
    queues, key = record.outbox.lanes or {}, ordering_key_of(record.to_event())
    found = [one for one in new if one in chosen and one in queues]
    if not found or key is None:
        return
    using = record._state.db or "default"
    WorkflowLane.objects.using(using).wake(Lane(one, key, queues[one]) for one in found)
    places = [Place(record.outbox.pk, one, key) for one in found]
    WorkflowDeliveryAttempt.objects.using(using).queue_in_lanes(places)


def _matches(registration: Registration, event: WorkflowEvent) -> bool:
    try:
        with called_aside(f"The condition of {registration}"):
            return registration.wants(event)
    except BaseException as error:
        if ends_the_process(error):
            raise
        return True  # let its own delivery fail


def statuses(known: Iterable[Recipient]) -> list[list[str]]:
    """The status of each delivery, and which one it is, for `deliver_again` to compare."""
    return [[one.id, one.status, one.since] for one in known]


ANYHOW: Final = object()


def deliver_again(
    record: WorkflowEventRecord, registration_ids: Collection[str], *, seen: object = ANYHOW
) -> int:
    """Queue the event for redelivery to these handlers only. Returns to how many.

    Raises `EntryBusyError` while a worker has it, and `ChangedMeanwhileError` if *seen* is given
    and differs from the current `statuses`. The caller starts a drain.
    """
    using = record._state.db or "default"
    deliveries = WorkflowDeliveryAttempt.objects.using(using)
    entry = record.outbox.pk
    with transaction.atomic(using=using):  # no drain may interfere
        deliveries.filter(outbox=entry, registration_id__in=registration_ids).wake_lanes()
        WorkflowOutbox.objects.using(using).select_for_update().filter(pk=entry).exists()
        known = recipients(record)
        if seen is not ANYHOW and seen != statuses(known):
            raise ChangedMeanwhileError(
                "Its deliveries have changed since you were asked, or the form does not contain "
                "the state that you confirmed. Confirm again."
            )
        others = [one.id for one in known if not one.status and one.id not in registration_ids]
        count = deliveries.deliver_again(entry, registration_ids)
        if not count:
            raise EntryBusyError(record.event_id)
        _queue_in_order(record, [one.id for one in known if not one.status], registration_ids)
        deliveries.skip(entry, others)
    return count
