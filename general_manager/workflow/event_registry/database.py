"""Events stored with the change that caused them, and delivered by workers."""

from collections.abc import Iterable

from django.db import router

from general_manager.conf import get_workflow_settings, require_time_zones
from general_manager.workflow.actors import whereabouts
from general_manager.workflow.aside import tell
from general_manager.workflow.dispatch import deliver_here
from general_manager.workflow.event_registry.base import EventRegistry, encoded
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.messages import drain_outbox_soon
from general_manager.workflow.models import WorkflowEventRecord, WorkflowOutbox
from general_manager.workflow.signals import event_published
from general_manager.workflow.transactions import one_transaction


class DatabaseEventRegistry(EventRegistry):
    """The transactional outbox: `publish` writes, in the caller's transaction; workers deliver.

    *using* is the database of the change; without it, the one where events live.
    """

    def __init__(self) -> None:
        require_time_zones(type(self).__name__)
        super().__init__()

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
        lease = get_workflow_settings().outbox_claim_ttl
        entries = WorkflowOutbox.objects.using(alias)
        with one_transaction(alias):  # so that no worker takes it first
            self._store([event], alias, soon=False)
            claim = entries.claim_event(event.event_id, lease=lease, by=whereabouts())
        if claim is None:
            return False
        token, key = claim
        return bool(deliver_here(alias, token, [key]))

    def publish_many(self, events: Iterable[WorkflowEvent], *, using: str | None = None) -> int:
        """Store many events in a few statements; always 0, for nothing is delivered yet."""
        self._store(events, using)
        return 0

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        self.publish(event, using=using)

    def publish_many_with_changes(self, events: Iterable[WorkflowEvent], *, using: str) -> None:
        self.publish_many(events, using=using)

    def _store(
        self, events: Iterable[WorkflowEvent], using: str | None, *, soon: bool = True
    ) -> None:
        ready = [encoded(event) for event in events]
        alias = using or router.db_for_write(WorkflowEventRecord)
        owed = [(event, [one.id for one in self.matching(event)]) for event in ready]
        with one_transaction(alias):  # an event and its entry are there both, or neither
            new = WorkflowOutbox.objects.using(alias).enqueue_many(owed)
            if new and soon:
                drain_outbox_soon(alias)
        # Of those with one id, the first was stored.
        for event in {one.event_id: one for one in reversed(ready) if one.event_id in new}.values():
            tell(event_published, type(self), event=event)
