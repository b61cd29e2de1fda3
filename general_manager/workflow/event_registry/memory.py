"""The in-memory registry: delivers at once in this process and stores nothing."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from time import sleep
from typing import Final

from django.core.checks import CheckMessage
from django.db import transaction
from django.dispatch import Signal

from general_manager.check_messages import warning
from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.core.ids import lane_of
from general_manager.workflow.core.isolation import isolated, nothing_left_open
from general_manager.workflow.core.observers import notify
from general_manager.workflow.core.transactions import is_in_transaction
from general_manager.workflow.durable.stops import StopRun
from general_manager.workflow.event_registry.base import EventRegistry, copied, encoded
from general_manager.workflow.event_registry.held import Arrival, HeldEvents
from general_manager.workflow.event_registry.held import HeldEvent as HeldEvent
from general_manager.workflow.event_registry.lanes import Lanes
from general_manager.workflow.event_registry.mailbox import Mailbox
from general_manager.workflow.event_registry.parked import MOST_PARKED, ParkedEvent, ParkedEvents
from general_manager.workflow.event_registry.registration import (
    DeadLetterHandler,
    Registration,
    real_error,
)
from general_manager.workflow.event_registry.seen import SeenEvents, home_of_events
from general_manager.workflow.events import WorkflowEvent, ordering_key_of
from general_manager.workflow.exceptions import ends_the_process, wanted_delay
from general_manager.workflow.pauses import Pause, TooManyParkedError
from general_manager.workflow.signals import (
    event_dead,
    event_delivered,
    event_failed,
    event_held,
    event_published,
)

logger = get_logger(__name__)

LONGEST_PAUSE_SECONDS: Final = 1.0
"""Seconds by which `RetryAfter` may block the caller, who waits for retries here."""


class InMemoryEventRegistry(EventRegistry):
    """Calls the handlers in the publisher's thread: in `publish`, or after its commit.

    *dead_letter_handler* is called for final failures of registrations without their own hook.
    The latest *max_seen_event_ids* event ids are kept, so that a duplicate does nothing.
    Everything is lost when the process ends: use `DatabaseEventRegistry` in production.
    """

    def __init__(
        self,
        *,
        dead_letter_handler: DeadLetterHandler | None = None,
        max_seen_event_ids: int = 100_000,
    ) -> None:
        super().__init__()
        if dead_letter_handler is not None and not callable(dead_letter_handler):
            raise TypeError(f"dead_letter_handler must be callable, not {dead_letter_handler!r}")
        if isinstance(max_seen_event_ids, bool) or not isinstance(max_seen_event_ids, int):
            raise TypeError(f"max_seen_event_ids must be an integer, not {max_seen_event_ids!r}")
        if max_seen_event_ids < 1:
            raise ValueError(f"max_seen_event_ids must be 1 or more, not {max_seen_event_ids}")
        self._dead_letter_handler = dead_letter_handler
        self._seen = SeenEvents(max_seen_event_ids)
        self._parked = ParkedEvents(lambda: datetime.now(UTC))
        self.mailbox = Mailbox()
        """The latest events, for waits; and the waits that are open."""
        self._lanes = Lanes()
        self._held = HeldEvents(self._deliver_together)

    supports_pauses = True

    def pause(self, registration_id: str, *, reason: str = "") -> Pause:
        """Keep the events of the registration, at most `MOST_PARKED` in this process.

        Each further one is a dead letter of it, with `TooManyParkedError`.
        """
        return self._parked.pause(registration_id, reason)

    def unpause(self, registration_id: str) -> bool:
        """Deliver the parked events in this thread, in a transaction after its commit."""
        if not self._parked.unpause(registration_id):
            return False
        alias = home_of_events()
        if alias is not None and is_in_transaction(alias):
            transaction.on_commit(
                lambda: self._deliver_parked(registration_id), using=alias, robust=True
            )
        else:
            self._deliver_parked(registration_id)
        return True

    def pauses(self) -> list[Pause]:
        return self._parked.pauses()

    def _deliver_parked(self, registration_id: str) -> None:
        self._parked.empty(registration_id, partial(self._deliver_one_parked, registration_id))

    def _deliver_one_parked(self, registration_id: str, parked: ParkedEvent) -> None:
        registration = self.find_registration(registration_id)
        if registration is None:
            logger.warning(
                "Event %s was parked for %s, which is not registered any more",
                parked.event.event_id, registration_id,
            )  # fmt: skip
            return
        deliver = partial(self._deliver, registration, *parked)
        key = ordering_key_of(parked.event) if registration.in_order else None
        if key is None:
            deliver()
        else:
            self._lanes.perform(lane_of(registration_id, key), deliver)

    def _park(
        self, registration: Registration, event: WorkflowEvent, published_at: datetime
    ) -> bool:
        try:
            in_order = registration.in_order
            return self._parked.park(registration.id, event, published_at, in_order=in_order)
        except OverflowError:
            error = TooManyParkedError(registration.id, MOST_PARKED)
            self._dead_letter(registration, event, error)
            return True

    def check(self) -> list[CheckMessage]:
        if get_workflow_settings().mode != "production":
            return []
        return [
            warning(
                "W003",
                "WORKFLOW_MODE is 'production', but InMemoryEventRegistry keeps events in memory.",
                "Undelivered events are lost when the process ends. Use DatabaseEventRegistry.",
            )
        ]

    def publish(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Deliver *event* to every handler that matches; true if one completed in this call.

        Inside a transaction on the database *using*, by default the one where events would be
        stored, delivery waits for the commit and this is false. A rollback discards the event.
        """
        event = encoded(event)
        alias = using or home_of_events()
        if alias is None or not is_in_transaction(alias):
            return self._deliver_together([event]) > 0
        if event.event_id not in self._seen:
            self._held.hold(event, alias)
            notify(event_held, type(self), event=event)
        return False

    def publish_many(self, events: Iterable[WorkflowEvent]) -> int:
        ready = [encoded(event) for event in events]
        alias = home_of_events()
        if alias is None or not is_in_transaction(alias):
            return self._deliver_together(ready)
        return sum(self.publish(event) for event in ready)

    def publish_sync(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Deliver *event* now, even inside a transaction.

        If that transaction is rolled back, so are the handlers' writes, and the event's id can be
        published again. Deliveries in order wait for the commit.
        """
        event = encoded(event)
        alias = using or home_of_events()
        if alias is None or not is_in_transaction(alias):
            return self._deliver_together([event]) > 0
        if not self._seen.add_for_now(event.event_id, alias):
            return False
        # Waits see it by the commit, like any other event.
        transaction.on_commit(lambda: self._keep(event), using=alias, robust=True)
        return self._arrived(Arrival(event), inside=alias).perform(self._lanes)

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        self.publish(event, using=using)

    def _deliver_together(self, events: Sequence[WorkflowEvent]) -> int:
        """Deliver those that are new. Returns for how many of them a handler completed."""
        delivered = 0
        stopped: StopRun | None = None
        new = [event for event in events if self._seen.add(event.event_id)]
        has_lanes = any(one.in_order for event in new for one in self.matching(event))
        together = [self._coming(event) for event in new] if has_lanes else new
        for event, one in zip(new, together, strict=True):
            try:
                if isinstance(one, Arrival):
                    delivered += one.perform(self._lanes)
                else:
                    delivered += self._deliver_without_lanes(event)
            except StopRun as stop:  # the execution that published ends here; the others go on
                stopped = stop
            finally:
                self.mailbox.look(event)
        if stopped is not None:
            raise stopped
        return delivered

    def _coming(self, event: WorkflowEvent) -> Arrival:
        return self._arrived(Arrival(event, partial(self.mailbox.keep, event)))

    def _deliver_without_lanes(self, event: WorkflowEvent) -> bool:
        self.mailbox.keep(event)
        published_at, delivered = datetime.now(UTC), False
        notify(event_published, type(self), event=event)
        for registration in self.matching(event):
            if not self._park(registration, event, published_at):
                delivered |= self._deliver(registration, event, published_at)
        return delivered

    def _keep(self, event: WorkflowEvent) -> None:
        self.mailbox.keep(event)
        self.mailbox.look(event)

    def _arrived(self, arrival: Arrival, *, inside: str | None = None) -> Arrival:
        """*arrival*, with what is to be delivered now."""
        event, published_at = arrival.event, datetime.now(UTC)
        notify(event_published, type(self), event=event)
        for registration in self.matching(event):  # with copies: waits may read the original
            if self._park(registration, event, published_at):
                continue
            key = ordering_key_of(event) if registration.in_order else None
            lane = None if key is None else lane_of(registration.id, key)
            deliver = partial(self._deliver, registration, event, published_at)
            if lane is not None and inside is not None:
                self._deliver_after_commit(lane, deliver, inside)
            else:
                arrival.add(deliver, lane, self._lanes)
        return arrival

    def _deliver_after_commit(self, lane: str, deliver: Callable[[], bool], inside: str) -> None:
        # What others published must not become part of this transaction. Not a partial: if a
        # robust callback fails, Django reads its __qualname__.
        transaction.on_commit(lambda: self._lanes.perform(lane, deliver), using=inside, robust=True)

    def _deliver(
        self, registration: Registration, event: WorkflowEvent, published_at: datetime
    ) -> bool:
        is_wanted = False
        for failures in range(1, registration.retries + 2):
            is_final = failures > registration.retries
            try:
                with isolated(atomic=registration.atomic), nothing_left_open(registration):
                    is_asked = registration.when is not None and not is_wanted
                    if is_asked and not registration.wants(copied(event)):
                        return False
                    is_wanted = True
                    registration.call(copied(event))
            except BaseException as error:
                if isinstance(error, StopRun) or ends_the_process(error):
                    raise
                if is_final or not registration.may_retry(error):
                    self._dead_letter(registration, event, error)
                    return False
                logger.warning(
                    "%s failed for event %s (attempt %d); retrying",
                    registration, event.event_id, failures, exc_info=error,
                )  # fmt: skip
                self._send(event_failed, registration, event, error)
                asked = wanted_delay(error)
                if asked is not None:
                    sleep(min(asked.total_seconds(), LONGEST_PAUSE_SECONDS))
                continue
            notify(
                event_delivered,
                type(self),
                event=event,
                registration=registration,
                published_at=published_at,
            )
            return True
        raise AssertionError("unreachable: the last attempt returns")

    def _dead_letter(
        self, registration: Registration, event: WorkflowEvent, error: BaseException
    ) -> None:
        logger.error(
            "%s failed for event %s for the last time",
            registration, event.event_id, exc_info=error,
        )  # fmt: skip
        registration.report_dead(copied(event), error, fallback=self._dead_letter_handler)
        self._send(event_dead, registration, event, error)

    def _send(
        self, signal: Signal, registration: Registration, event: WorkflowEvent, error: BaseException
    ) -> None:
        error = real_error(error)
        notify(signal, type(self), event=event, registration=registration, exception=error)
