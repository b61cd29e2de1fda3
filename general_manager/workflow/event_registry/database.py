"""Events stored with the change that caused them, and delivered by workers."""

from collections.abc import Iterable

from django.db import router

from general_manager.conf import get_workflow_settings
from general_manager.workflow.aside import tell
from general_manager.workflow.dispatch import deliver_here, drain_outbox_soon
from general_manager.workflow.event_registry.base import EventRegistry, encoded
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.models import (
    DeliveryStatus,
    WorkflowDeliveryAttempt,
    WorkflowEventRecord,
    WorkflowOutbox,
)
from general_manager.workflow.signals import event_published


class DatabaseEventRegistry(EventRegistry):
    """The transactional outbox: `publish` writes, in the caller's transaction; workers deliver.

    *using* is the database of the change; without it, the one where events live.
    """

    def publish(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Store *event* and owe it to its handlers; always false, for nothing is delivered yet.

        Two statements and no savepoint for a new event; a known id changes nothing and breaks no
        transaction. Raises `EncodingError` before any SQL.
        """
        self._store([event], using)
        return False

    def publish_sync(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Store *event* and deliver it here and now; true if a handler completed.

        What fails stays owed: workers retry it, and it can be replayed.
        """
        alias = using or router.db_for_write(WorkflowEventRecord)
        self._store([event], alias)
        entries = WorkflowOutbox.objects.using(alias)
        claim = entries.claim_event(event.event_id, lease=get_workflow_settings().outbox_claim_ttl)
        if claim is None:
            return False
        token, key = claim
        deliver_here(alias, token, [key])
        deliveries = WorkflowDeliveryAttempt.objects.using(alias)
        return deliveries.filter(outbox_id=key, status=DeliveryStatus.COMPLETED).exists()

    def publish_many(self, events: Iterable[WorkflowEvent], *, using: str | None = None) -> int:
        """Store many events in a few statements; always 0, for nothing is delivered yet."""
        self._store(events, using)
        return 0

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        self.publish(event, using=using)

    def _store(self, events: Iterable[WorkflowEvent], using: str | None) -> None:
        ready = [encoded(event) for event in events]
        alias = using or router.db_for_write(WorkflowEventRecord)
        owed = [(event, [one.id for one in self.matching(event)]) for event in ready]
        new = WorkflowOutbox.objects.using(alias).enqueue_many(owed)
        if new:
            drain_outbox_soon(alias)
        for event in {one.event_id: one for one in ready if one.event_id in new}.values():
            tell(event_published, type(self), event=event)
