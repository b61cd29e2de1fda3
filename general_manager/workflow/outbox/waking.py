"""Which events of claimed entries are delivered in order, and making their lanes due."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from django.db import transaction

from general_manager.workflow.event_registry import EventRegistry
from general_manager.workflow.events import ordering_key_of
from general_manager.workflow.models import (
    WorkflowDeliveryAttempt,
    WorkflowLane,
    WorkflowOutbox,
)
from general_manager.workflow.models.lane import Lane, Place


@dataclass(frozen=True, slots=True)
class InOrder:
    """The deliveries in order of some entries."""

    entries: dict[int, Collection[str]] = field(default_factory=dict)
    """Ids of the registrations, by entry."""
    lanes: dict[str, Lane] = field(default_factory=dict)
    """The lanes, by name."""
    late: list[Place] = field(default_factory=list)
    """Those whose publisher did not know the registration: they get the place of the drain."""


NO_ORDER = InOrder()


def find_in_order(
    entries: Sequence[WorkflowOutbox],
    recorded: Mapping[int, Mapping[str, WorkflowDeliveryAttempt]],
    registry: EventRegistry,
) -> InOrder:
    """What is delivered in order, by the publisher's word or the registry's."""
    if not registry.has_ordered() and not any(one.lanes for one in entries):
        return NO_ORDER
    found = InOrder()
    for entry in entries:
        event = entry.event.to_event()
        known, given = recorded.get(entry.pk, {}), entry.lanes or {}
        queues = dict(given)
        for one in registry.matching(event):
            before = known.get(one.id)
            was_queued = before is not None and before.lane is not None
            if one.id in given or was_queued or (one.in_order and before is None):
                queues[one.id] = one.queue
        key = ordering_key_of(event) if queues else None
        if key is None:
            continue
        found.entries[entry.pk] = queues.keys()
        lanes = [Lane(one, key, queue) for one, queue in queues.items()]
        found.lanes.update((one.name, one) for one in lanes)
        found.late.extend(
            Place(entry.pk, one, key)
            for one in queues
            if one not in known and one not in given  # those were queued, or refused since
        )
    return found


def wake(found: InOrder, using: str) -> None:
    """Make the lanes due, and queue what is not queued yet under their locks."""
    with transaction.atomic(using=using):
        WorkflowLane.objects.using(using).wake(found.lanes.values())
        WorkflowDeliveryAttempt.objects.using(using).queue_in_lanes(found.late, is_late=True)
