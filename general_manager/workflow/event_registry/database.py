"""Events stored with the change that caused them, and delivered by workers."""

from collections.abc import Collection, Iterable

from django.db import router

from general_manager.conf import get_workflow_settings, require_time_zones
from general_manager.workflow.actors import whereabouts
from general_manager.workflow.aside import tell
from general_manager.workflow.event_registry.base import EventRegistry, encoded
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.in_process import deliver, perform, perform_soon
from general_manager.workflow.messages import drain_outbox_soon
from general_manager.workflow.models import WorkflowEventRecord, WorkflowOutbox
from general_manager.workflow.signals import event_published
from general_manager.workflow.transactions import is_in_transaction, one_transaction


class DatabaseEventRegistry(EventRegistry):
    """The transactional outbox: `publish` writes, in the caller's transaction.

    Workers deliver; with `WORKFLOW_ASYNC` off this process does, once the caller has committed.
    *using* is the database of the change; without it, the one where events live.
    """

    def __init__(self) -> None:
        require_time_zones(type(self).__name__)
        super().__init__()

    def publish(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Store *event* for its handlers; true if one of them completed in this call.

        That is never so with workers, nor inside a transaction. Two statements and no savepoint
        for a new event; a known id changes nothing and breaks no transaction. Raises
        `EncodingError` before any SQL.
        """
        return bool(self._publish([encoded(event)], using or self._home()))

    def publish_sync(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Store *event* and deliver it here and now; true if a handler completed.

        What fails is retried like any delivery, and can be replayed.
        """
        alias = using or self._home()
        # One that is known and waits for its next attempt has it now.
        return bool(self._store_and_deliver([encoded(event)], alias, also_known=True))

    def publish_many(self, events: Iterable[WorkflowEvent], *, using: str | None = None) -> int:
        """Store many events in a few statements; how many were handled in this call."""
        return self._publish([encoded(event) for event in events], using or self._home())

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        self.publish(event, using=using)

    def publish_many_with_changes(self, events: Iterable[WorkflowEvent], *, using: str) -> None:
        self.publish_many(events, using=using)

    def _home(self) -> str:
        return router.db_for_write(WorkflowEventRecord)

    def _publish(self, events: list[WorkflowEvent], alias: str) -> int:
        if get_workflow_settings().run_async:
            with one_transaction(alias):  # an event and its entry are there both, or neither
                new = self._enqueue(events, alias)
                if new:
                    drain_outbox_soon(alias)
            self._announce(events, new)
            return 0
        if not is_in_transaction(alias):
            return self._store_and_deliver(events, alias, also_known=False)
        with one_transaction(alias):
            new = self._enqueue(events, alias)
        self._announce(events, new)
        if new:
            perform_soon(lambda: self._deliver_stored(new, alias), alias)
        return 0

    def _store_and_deliver(
        self, events: list[WorkflowEvent], alias: str, *, also_known: bool
    ) -> int:
        """Claimed as they are stored, so that no other process takes them first."""
        with one_transaction(alias):
            new = self._enqueue(events, alias)
            wanted = [one.event_id for one in events if also_known or one.event_id in new]
            claims = self._claim(wanted, alias)
        self._announce(events, new)
        return perform(lambda: self._deliver_claimed(claims, alias), alias)

    def _deliver_stored(self, event_ids: Collection[str], alias: str) -> int:
        return self._deliver_claimed(self._claim(event_ids, alias), alias)

    def _deliver_claimed(self, claims: list[tuple[str, list[int]]], alias: str) -> int:
        return sum(deliver(alias, token, keys, self) for token, keys in claims)

    def _claim(self, event_ids: Collection[str], alias: str) -> list[tuple[str, list[int]]]:
        """A claim for each chunk that one delivery takes."""
        settings = get_workflow_settings()
        size = settings.outbox_process_chunk_size
        entries = WorkflowOutbox.objects.using(alias)
        ids = list(dict.fromkeys(event_ids))
        claims = [
            entries.claim_events(
                ids[start : start + size], lease=settings.outbox_claim_ttl, by=whereabouts()
            )
            for start in range(0, len(ids), size)
        ]
        return [(token, keys) for token, keys in claims if keys]

    def _enqueue(self, events: list[WorkflowEvent], alias: str) -> set[str]:
        matching = [(one, [each.id for each in self.matching(one)]) for one in events]
        return WorkflowOutbox.objects.using(alias).enqueue_many(matching)

    def _announce(self, events: list[WorkflowEvent], new: set[str]) -> None:
        # Of those with one id, the first was stored.
        stored = {one.event_id: one for one in reversed(events) if one.event_id in new}
        for event in stored.values():
            tell(event_published, type(self), event=event)
