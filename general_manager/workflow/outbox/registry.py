"""The database registry: stores events with the change that caused them; workers deliver."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from django.core.checks import CheckMessage
from django.db import router

from general_manager.check_messages import warning
from general_manager.conf import get_workflow_settings, require_time_zones
from general_manager.workflow.admission.pausing import pause, read_pauses, unpause
from general_manager.workflow.core.actors import whereabouts
from general_manager.workflow.core.observers import notify
from general_manager.workflow.core.transactions import is_in_transaction, one_transaction
from general_manager.workflow.event_registry.base import EventRegistry, encoded
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.events import WorkflowEvent, ordering_key_of
from general_manager.workflow.models import WorkflowEventRecord, WorkflowOutbox
from general_manager.workflow.models.sql.addresses import Addressed
from general_manager.workflow.outbox.chunk import Chunk
from general_manager.workflow.outbox.drain import deliver, drain_soon
from general_manager.workflow.outbox.order import deliver_these_lanes
from general_manager.workflow.pauses import Pause, PauseKind
from general_manager.workflow.signals import event_published
from general_manager.workflow.transport.in_process import perform, perform_soon
from general_manager.workflow.transport.nudges import nudge


class DatabaseEventRegistry(EventRegistry):
    """The transactional outbox: `publish` writes in the caller's transaction.

    Workers deliver; with `WORKFLOW_ASYNC` off this process does after the caller's commit.
    *using* is the database of the change, by default the one for events.
    """

    def __init__(self) -> None:
        require_time_zones(type(self).__name__)
        super().__init__()

    supports_tables = True

    supports_pauses = True

    def pause(self, registration_id: str, *, reason: str = "") -> Pause:
        return pause(PauseKind.REGISTRATION, registration_id, reason)

    def unpause(self, registration_id: str) -> bool:
        return unpause(PauseKind.REGISTRATION, registration_id, lambda alias, _: drain_soon(alias))

    def pauses(self) -> list[Pause]:
        return read_pauses(PauseKind.REGISTRATION)

    def check(self) -> list[CheckMessage]:
        return _check_ids(self.registrations())

    def publish(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Store *event* for its handlers; true if one of them completed in this call.

        Always false with workers or inside a transaction. A new event takes two statements and no
        savepoint, on PostgreSQL one; a known id changes nothing and does not break the transaction.
        Raises `EncodingError` before any SQL.
        """
        return bool(self._publish([encoded(event)], using or self._home()))

    def publish_sync(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Store *event* and deliver it now in this process; true if a handler completed.

        A failing delivery is retried like any other, and its dead letter can be requeued.
        """
        alias = using or self._home()
        # A known event that waits for a retry is delivered now.
        return bool(self._store_and_deliver([encoded(event)], alias, also_known=True))

    def publish_many(self, events: Iterable[WorkflowEvent], *, using: str | None = None) -> int:
        """Store many events in a few statements. Returns how many were handled in this call."""
        return self._publish([encoded(event) for event in events], using or self._home())

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        self.publish(event, using=using)

    def publish_many_with_changes(self, events: Iterable[WorkflowEvent], *, using: str) -> None:
        self.publish_many(events, using=using)

    def _home(self) -> str:
        return router.db_for_write(WorkflowEventRecord)

    def _publish(self, events: list[WorkflowEvent], alias: str) -> int:
        if get_workflow_settings().run_async:
            with one_transaction(alias):  # an event and its entry exist both or not at all
                matching = self._matching(events)
                new = self._enqueue(matching, alias)
                for queue in {one.queue for one in matching if one.event.event_id in new}:
                    nudge(alias, queue)
            self._announce(events, new)
            return 0
        if not is_in_transaction(alias):
            return self._store_and_deliver(events, alias, also_known=False)
        with one_transaction(alias):
            new = self._enqueue(self._matching(events), alias)
        self._announce(events, new)
        if new:
            perform_soon(lambda: self._deliver_stored(new, alias), alias)
        return 0

    def _store_and_deliver(
        self, events: list[WorkflowEvent], alias: str, *, also_known: bool
    ) -> int:
        """Store the events already claimed, so that no other process takes them first."""
        with one_transaction(alias):
            new = self._enqueue(self._matching(events), alias)
            wanted = [one.event_id for one in events if also_known or one.event_id in new]
            claims = self._claim(wanted, alias)
        self._announce(events, new)
        return perform(lambda: self._deliver_claimed(claims, alias), alias)

    def _deliver_stored(self, event_ids: Collection[str], alias: str) -> int:
        return self._deliver_claimed(self._claim(event_ids, alias), alias)

    def _deliver_claimed(self, claims: list[tuple[str, list[int]]], alias: str) -> int:
        return sum(self._deliver_claim(alias, *claim) for claim in claims)

    def _deliver_claim(self, alias: str, token: str, keys: list[int]) -> int:
        chunks: list[Chunk] = []
        deliver(alias, token, keys, registry=self, watch=chunks.append)
        handled = {entry for chunk in chunks for entry in chunk.handled}
        lanes = {name for chunk in chunks for name in chunk.in_order.lanes}
        if lanes and not is_in_transaction(alias):  # in order of commits: not before this one's
            handled |= deliver_these_lanes(alias, lanes, registry=self)
        return len(handled.intersection(keys))

    def _claim(self, event_ids: Collection[str], alias: str) -> list[tuple[str, list[int]]]:
        """One claim for each chunk of a delivery."""
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

    def _matching(self, events: list[WorkflowEvent]) -> list[Addressed]:
        return [_addressed(one, self.matching(one)) for one in events]

    def _enqueue(self, events: list[Addressed], alias: str) -> Collection[str]:
        return WorkflowOutbox.objects.using(alias).enqueue_many(events)

    def _announce(self, events: list[WorkflowEvent], new: Collection[str]) -> None:
        # Of several events with the same id, the first was stored.
        stored = {one.event_id: one for one in reversed(events) if one.event_id in new}
        for event in stored.values():
            notify(event_published, type(self), event=event)


def _addressed(event: WorkflowEvent, registrations: Sequence[Registration]) -> Addressed:
    lanes = {one.id: one.queue for one in registrations if one.in_order}
    if lanes and ordering_key_of(event) is None:
        lanes = {}
    queue = registrations[0].queue if registrations else ""
    return Addressed(event, [one.id for one in registrations], queue, lanes or None)


def _check_ids(registrations: list[Registration]) -> list[CheckMessage]:
    """Registration ids must be stable: stored deliveries find their handler by it."""
    unnamed = [one for one in registrations if one.registration_id is None]
    counted = Counter(one.likeness for one in unnamed if not one.is_fragile)
    return [
        warning(
            "W007",
            f"{registration} has an id that depends on the order of registrations, because "
            f"{' and '.join(registration.fragile_parts)} cannot be imported.",
            "Pass registration_id, or use functions at the top level of a module. Otherwise a "
            "release that registers in another order takes one handler's deliveries for "
            "another's.",
        )
        for registration in unnamed
        if registration.is_fragile
    ] + [
        warning(
            "W010",
            f"{next(one for one in unnamed if one.likeness == likeness)} is registered {count} "
            "times, with options that its id does not include.",
            "Pass a registration_id for each. Otherwise a release that registers in another order, "
            "or drops one, takes the deliveries of one for those of the other.",
        )
        for likeness, count in counted.items()
        if count > 1
    ]
