"""Parked entries of the outbox: only paused registrations are left to deliver to.

A parked entry has no due time, so no claim meets it; it is not settled, so it is never pruned. For
each paused registration it has a delivery, by which unpausing finds it. An entry with anything else
to do is not parked: it goes on with that.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Case, F, Value, When

from general_manager.workflow.models.delivery import DeliveryStatus, WorkflowDeliveryAttempt
from general_manager.workflow.models.lane import WorkflowLane
from general_manager.workflow.models.outbox import OutboxQuerySet, WorkflowOutbox
from general_manager.workflow.models.pause import RELEASE_BATCH, Released, WorkflowPause
from general_manager.workflow.models.sql.claims import OutboxStatus
from general_manager.workflow.models.sql.columns import DatabaseNow
from general_manager.workflow.models.sql.inserts import insert_new
from general_manager.workflow.pauses import PauseKind


class Parking(NamedTuple):
    """What an entry is parked for."""

    registrations: Mapping[str, int]
    """Ids of the paused registrations that are left, each with its crashes."""
    queue: str
    """The queue in which it goes on."""
    unwanted_by: Collection[str]


def paused_registrations(using: str, among: Collection[str] | None = None) -> frozenset[str]:
    """Ids of the registrations that are paused now, of *among* or of all."""
    rows = WorkflowPause.objects.using(using).on().filter(kind=PauseKind.REGISTRATION)
    if among is not None:
        rows = rows.filter(name__in=list(among))
    return frozenset(rows.values_list("name", flat=True))


def park_entries(entries: OutboxQuerySet, token: str, parkings: Mapping[int, Parking]) -> int:
    """Claimed to parked, under *token*: one transaction, after everything else was delivered.

    Look again after its commit, see `look_again`.
    """
    with transaction.atomic(using=entries.db):
        held = entries.held(token).filter(pk__in=list(parkings)).order_by("pk")
        keys = list(held.select_for_update().values_list("pk", flat=True))
        _record(entries.db, {key: parkings[key].registrations for key in keys})
        groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for key in keys:
            parking = parkings[key]
            group = (parking.queue, tuple(sorted(parking.unwanted_by)))
            groups.setdefault(group, []).append(key)
        for (queue, unwanted_by), ours in groups.items():
            entries.filter(pk__in=ours).update(
                status=OutboxStatus.PAUSED,
                queue=queue,
                unwanted_by=list(unwanted_by) or None,
                claim_token=None,
                available_at=None,
                started=False,
                visits=F("visits") + 1,  # so that its recorded deliveries are read
            )
    return len(keys)


def _record(using: str, left: Mapping[int, Mapping[str, int]]) -> None:
    """A delivery for each paused registration; of earlier ones, attempts and failures are kept."""
    deliveries = WorkflowDeliveryAttempt.objects.using(using)
    known = deliveries.filter(outbox__in=list(left)).values_list("outbox_id", "registration_id")
    have = set(known)
    wanted = [
        (key, name, crashes) for key, names in left.items() for name, crashes in names.items()
    ]
    status = DeliveryStatus.PAUSED
    new = [[key, name, status, 0] for key, name, _ in wanted if (key, name) not in have]
    if new:
        fields = ("outbox", "registration_id", "status", "attempts")
        insert_new(
            WorkflowDeliveryAttempt, fields, new, using, unless=("outbox", "registration_id")
        )
    for key, name, crashes in wanted:
        if (key, name) in have:
            row = deliveries.filter(outbox_id=key, registration_id=name)
            row.update(status=status, crashes=crashes)


def look_again(entries: OutboxQuerySet, parkings: Mapping[int, Parking]) -> set[str]:
    """After the commit of `park_entries`: release those of which a pause was lifted meanwhile.

    Returns the queues in which they are due.
    """
    names = {name for one in parkings.values() for name in one.registrations}
    still = paused_registrations(entries.db, names)
    free = [key for key, one in parkings.items() if not still.issuperset(one.registrations)]
    return _release(entries, free, names - still) if free else set()


def release(entries: OutboxQuerySet, registration_id: str) -> Released:
    """Release a batch of what is parked for a registration, unless it is paused again.

    Their due time is now. What else they are parked for is parked again by the next claim.
    """
    if paused_registrations(entries.db, [registration_id]):
        return Released([], set())
    parked = parked_for(entries.db, registration_id).filter(outbox__status=OutboxStatus.PAUSED)
    keys = list(parked.order_by("id").values_list("outbox_id", flat=True)[:RELEASE_BATCH])
    queues = _release(entries, keys, [registration_id]) if keys else set()
    lanes = WorkflowLane.objects.using(entries.db).release_parked(registration_id)
    ids = [str(key) for key in keys] if queues else []
    return Released(ids + lanes.ids, queues | lanes.queues)


def parked_for(using: str, registration_id: str) -> Any:
    """Deliveries of entries that wait for the end of a registration's pause."""
    rows = WorkflowDeliveryAttempt.objects.using(using)
    return rows.filter(status=DeliveryStatus.PAUSED, registration_id=registration_id)


def parked_in_lanes(using: str, registration_id: str) -> Any:
    """Deliveries in order that do."""
    lanes = WorkflowLane.objects.using(using).filter(registration_id=registration_id)
    parked = lanes.filter(parked_at__isnull=False)
    rows = WorkflowDeliveryAttempt.objects.using(using)
    return rows.filter(in_lane=True, lane__in=parked.values("lane"))


def _release(entries: OutboxQuerySet, keys: Collection[int], names: Collection[str]) -> set[str]:
    """Lock the entries first, in the order in which workers lock."""
    with transaction.atomic(using=entries.db):
        parked = WorkflowOutbox.objects.using(entries.db).filter(status=OutboxStatus.PAUSED)
        rows = parked.filter(pk__in=list(keys)).order_by("pk").select_for_update()
        found = list(rows.values_list("pk", "queue"))
        ours = [key for key, _ in found]
        deliveries = WorkflowDeliveryAttempt.objects.using(entries.db)
        has_failed = When(first_failed_at__isnull=False, then=Value(DeliveryStatus.FAILED))
        deliveries.filter(
            outbox__in=ours, registration_id__in=list(names), status=DeliveryStatus.PAUSED
        ).update(status=Case(has_failed, default=Value(DeliveryStatus.QUEUED)))
        parked.filter(pk__in=ours).update(status=OutboxStatus.PENDING, available_at=DatabaseNow())
    return {queue for _, queue in found}
