"""What is left of an event after one visit: for other queues, for other processes, for later."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from general_manager.escaping import get_logger
from general_manager.workflow.core.spreading import spread
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowOutbox
from general_manager.workflow.models.delivery import SETTLED, DeliveryStatus
from general_manager.workflow.models.parking.entries import Parking
from general_manager.workflow.models.sql.addresses import Elsewhere

logger = get_logger(__name__)

UNKNOWN_REGISTRATION_DELAY: Final = 15.0
"""Approximate seconds until an entry is offered to another process, because a registration that it
expects is not registered in this one."""

Recorded = Mapping[str, WorkflowDeliveryAttempt]


@dataclass(slots=True)
class Visit:
    """What became of one event with the registrations of this process."""

    unwanted_by: set[str]
    delays: list[timedelta] = field(default_factory=list)
    is_dead: bool = False


def find_left(
    entry: WorkflowOutbox,
    recorded: Recorded,
    known: Collection[str],
    *,
    apart: Collection[str],
    paused: Collection[str],
) -> tuple[list[str], list[str]]:
    """Ids of unsettled registrations that are paused, and of those that are unknown here.

    *apart*: those of lanes, which are delivered on their own.
    """
    expected = (*entry.expected_registrations, *recorded, *known)
    unsettled = [
        one
        for one in dict.fromkeys(expected)
        if one not in apart and (one not in recorded or recorded[one].status not in SETTLED)
    ]
    held_back = [one for one in unsettled if one in paused]
    return held_back, [one for one in unsettled if one not in known and one not in paused]


def delay_for_others(entry: WorkflowOutbox, unknown: Collection[str]) -> timedelta:
    """The delay until another process may have an event whose registrations this one lacks."""
    logger.warning(
        "Event %s is for %s, not registered in this process; leaving it to another worker",
        entry.event.event_id, ", ".join(sorted(unknown)),
    )  # fmt: skip
    return timedelta(seconds=spread(UNKNOWN_REGISTRATION_DELAY, 0.5, 1.5))


def parking_of(
    entry: WorkflowOutbox,
    recorded: Recorded,
    known: Mapping[str, Registration],
    paused: Collection[str],
    unwanted_by: Collection[str],
) -> Parking:
    """What the entry is parked for, and the queue in which it goes on."""
    crashes = {one: _crashes(recorded.get(one), entry) for one in paused}
    queue = next((known[one].queue for one in paused if one in known), entry.queue)
    return Parking(crashes, queue, unwanted_by)


def _crashes(recorded: WorkflowDeliveryAttempt | None, entry: WorkflowOutbox) -> int:
    """As the next delivery would count them: parking forgets no death of a worker."""
    if recorded is None:
        return 0
    return recorded.crashes + (entry.deliver_alone and recorded.status == DeliveryStatus.RUNNING)


def first_elsewhere(
    foreign: list[Registration], recorded: Recorded, unwanted_by: set[str]
) -> Elsewhere | None:
    """Where the event goes on to the registrations of other queues; `None` if it need not.

    One that did not want the event has no record, and is not asked again.
    """
    found: list[tuple[timedelta, str]] = []
    for registration in foreign:
        previous = recorded.get(registration.id)
        if previous is None and registration.id not in unwanted_by:
            found.append((timedelta(0), registration.queue))
        elif previous is not None and previous.status not in SETTLED:
            found.append((max(previous.left, timedelta(0)), registration.queue))
    if not found:
        return None
    delay, queue = min(found)
    return Elsewhere(queue, delay, sorted(unwanted_by))
