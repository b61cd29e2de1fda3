"""Dead letters in number: which there are, and all of them again."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Q

from general_manager.workflow.databases import outboxes
from general_manager.workflow.event_registry import get_event_registry
from general_manager.workflow.importing import describe
from general_manager.workflow.messages import drain_outbox_soon
from general_manager.workflow.models import WorkflowDeliveryAttempt
from general_manager.workflow.models.delivery import DeliveryQuerySet

BATCH: Final = 200
"""Dead letters that one transaction owes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which dead letters: those of which all that is given is true."""

    handler: str | None = None
    """A registration's id, or the dotted path of its handler."""
    event_type: str | None = None
    event_name: str | None = None
    since: datetime | None = None
    """Died then or later."""


def replay_dead_letters(which: Filter, *, limit: int) -> Iterator[int]:
    """Owe up to *limit* dead letters again, oldest first; yields how many each batch was.

    One that a worker is busy with, because another handler has its event, is passed over.
    """
    for alias, keys in _found(which, limit):
        rows = WorkflowDeliveryAttempt.objects.using(alias)
        for start in range(0, len(keys), BATCH):
            yield rows.filter(pk__in=keys[start : start + BATCH]).requeue_dead()[0]
        drain_outbox_soon(alias)


def count_by_registration(which: Filter, *, limit: int) -> list[tuple[str, int]]:
    """What `replay_dead_letters` would do: ids of registrations, each with how many."""
    counted: Counter[str] = Counter()
    for alias, keys in _found(which, limit):
        rows = WorkflowDeliveryAttempt.objects.using(alias).filter(pk__in=keys)
        counted.update(rows.values_list("registration_id", flat=True))
    return counted.most_common()


def _found(which: Filter, limit: int) -> Iterator[tuple[str, list[int]]]:
    for alias in outboxes():
        rows = _matching(which, alias).order_by("pk")
        keys = list(rows.values_list("pk", flat=True)[:limit])
        limit -= len(keys)
        if keys:
            yield alias, keys


def _matching(which: Filter, alias: str) -> DeliveryQuerySet:
    rows = WorkflowDeliveryAttempt.objects.using(alias).dead()
    if which.handler is not None:
        named = [
            one.id
            for one in get_event_registry().registrations()
            if describe(one.handler) == which.handler
        ]
        # Also those that this process does not know: ids are made of key, path and digest.
        by_path = Q(registration_id__contains=f":{which.handler}:")
        rows = rows.filter(by_path | Q(registration_id__in=[which.handler, *named]))
    if which.event_type is not None:
        rows = rows.filter(outbox__event__event_type=which.event_type)
    if which.event_name is not None:
        rows = rows.filter(outbox__event__event_name=which.event_name)
    if which.since is not None:
        rows = rows.filter(finished_at__gte=which.since)
    return rows
