"""Requeue many dead letters, by filters."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Q

from general_manager.workflow.core.importing import describe
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.models import WorkflowDeliveryAttempt
from general_manager.workflow.models.databases import outboxes
from general_manager.workflow.models.delivery import DeliveryQuerySet
from general_manager.workflow.models.sql.claims import OutboxStatus
from general_manager.workflow.outbox.drain import drain_soon

REQUEUE_BATCH: Final = 200
"""Dead letters that one transaction requeues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Selects the dead letters that match every given value."""

    handler: str | None = None
    """A registration's id, or the dotted path of its handler."""
    event_type: str | None = None
    event_name: str | None = None
    since: datetime | None = None
    """Failed for good then or later."""


def requeue_dead_letters(which: Filter, *, limit: int, using: str | None = None) -> Iterator[int]:
    """Requeue up to *limit* dead letters, oldest first. Yields the size of each batch.

    *using*: only in that database.
    Skips a dead letter while a worker is delivering its event to other handlers.
    """
    for alias, keys in _found(which, limit, using):
        rows = WorkflowDeliveryAttempt.objects.using(alias)
        for start in range(0, len(keys), REQUEUE_BATCH):
            yield rows.filter(pk__in=keys[start : start + REQUEUE_BATCH]).requeue_dead()[0]
        drain_soon(alias)


def count_by_registration(
    which: Filter, *, limit: int, using: str | None = None
) -> list[tuple[str, int]]:
    """Preview of `requeue_dead_letters`: registration ids with their number of dead letters."""
    counted: Counter[str] = Counter()
    for alias, keys in _found(which, limit, using):
        rows = WorkflowDeliveryAttempt.objects.using(alias).filter(pk__in=keys)
        counted.update(rows.values_list("registration_id", flat=True))
    return counted.most_common()


def _found(which: Filter, limit: int, using: str | None) -> Iterator[tuple[str, list[int]]]:
    for alias in outboxes() if using is None else [using]:
        rows = _matching(which, alias).order_by("pk")
        keys = list(rows.values_list("pk", flat=True)[:limit])
        limit -= len(keys)
        if keys:
            yield alias, keys


def _matching(which: Filter, alias: str) -> DeliveryQuerySet:
    # While a worker has the event, it settles it by what it read before, unless that is in a lane.
    rows = WorkflowDeliveryAttempt.objects.using(alias).dead()
    rows = rows.exclude(lane=None, outbox__status=OutboxStatus.CLAIMED)
    if which.handler is not None:
        named = [
            one.id
            for one in get_event_registry().registrations()
            if describe(one.handler) == which.handler
        ]
        # Also registrations unknown to this process: ids consist of key, path and digest.
        by_path = Q(registration_id__contains=f":{which.handler}:")
        rows = rows.filter(by_path | Q(registration_id__in=[which.handler, *named]))
    if which.event_type is not None:
        rows = rows.filter(outbox__event__event_type=which.event_type)
    if which.event_name is not None:
        rows = rows.filter(outbox__event__event_name=which.event_name)
    if which.since is not None:
        rows = rows.filter(finished_at__gte=which.since)
    return rows
