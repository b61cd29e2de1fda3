"""A chunk of claimed entries that one process delivers one by one, or in groups.

A worker of a queue delivers to the registrations of that queue. If others are left, the entry goes
on to the queue of the next one.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Final

from django.db import connections

from general_manager.durations import in_words
from general_manager.escaping import get_logger
from general_manager.workflow.core.connections import in_transaction, persist
from general_manager.workflow.core.shutdown import is_announced
from general_manager.workflow.event_registry import EventRegistry
from general_manager.workflow.event_registry.registration import Registration
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.models import WorkflowDeliveryAttempt, WorkflowOutbox
from general_manager.workflow.models.delivery import DeliveryStatus
from general_manager.workflow.models.parking.entries import (
    look_again,
    park_entries,
    paused_registrations,
)
from general_manager.workflow.outbox.delivery import Delivery
from general_manager.workflow.outbox.group import Groups
from general_manager.workflow.outbox.leftovers import (
    Visit,
    delay_for_others,
    find_left,
    first_elsewhere,
    parking_of,
)
from general_manager.workflow.outbox.loading import load_held
from general_manager.workflow.outbox.looks import look_for_waits
from general_manager.workflow.outbox.settlement import Settlement
from general_manager.workflow.outbox.unwaited import Unwaited
from general_manager.workflow.outbox.verdicts import Outcome
from general_manager.workflow.outbox.waking import NO_ORDER, InOrder, find_in_order, wake
from general_manager.workflow.transport.broker import is_time_limit

logger = get_logger(__name__)

TROUBLE_DELAY: Final = timedelta(seconds=30)


class Chunk:
    """Some claimed entries and their outcomes.

    *is_relaxed*: commits of atomic handlers need not wait for the disk. *is_held*: the publisher's
    transaction is open, so a worker settles the entries after its commit.
    """

    def __init__(
        self,
        using: str,
        token: str,
        keys: Sequence[int],
        lease: timedelta,
        registry: EventRegistry,
        *,
        queue: str | None = None,
        is_relaxed: bool = False,
        is_held: bool = False,
    ) -> None:
        self.outcomes = Settlement()
        self.handled: set[int] = set()
        """Entries whose event a handler completed."""
        self.in_order: InOrder = NO_ORDER
        """What is delivered in order, by lanes, and not here."""
        self.is_held = is_held
        self._unwaited = Unwaited(using)
        self._unseen: set[int] = set()
        """Entries whose look for waits failed."""
        self.is_out_of_time = False
        """Whether Celery's soft time limit was reached: the hard one follows."""
        self._using = using
        self.token = token
        self._lease = lease
        self._registry = registry
        self._queue = queue
        self._is_relaxed = is_relaxed
        loaded = load_held(using, token, keys)
        self._entries = loaded.entries
        self._events = {entry.pk: entry.event.to_event() for entry in self._entries}
        # Read after the claim, so a pause that was committed before it holds.
        some = loaded.are_some_paused
        self._paused = paused_registrations(using) if some else frozenset[str]()
        self._left = deque(self._entries)
        attempts = WorkflowDeliveryAttempt.objects.using(using)
        tried = [entry.pk for entry in self._entries if not entry.is_fresh]
        self._recorded = attempts.of_entries(tried) if tried else {}
        may_group = len(keys) > 1 and not in_transaction(connections[using])
        self._groups: Groups | None = None
        if may_group and any(one.grouped for one in registry.registrations()):
            self._groups = Groups(self._left, self._groupable, is_relaxed=is_relaxed)

    def deliver(self) -> None:
        """Deliver the entries while this process has time."""
        self.in_order = find_in_order(self._entries, self._recorded, self._registry)
        if self.in_order.lanes:
            persist(self._using, partial(wake, self.in_order, self._using))
        started, is_first = monotonic(), True
        if not self.is_held:
            self._unseen = look_for_waits(self._using, self._events)
        while self._left:
            is_slow = monotonic() - started > self._lease.total_seconds() / 3
            # A slow handler delays the remaining entries: leave them to other workers.
            if self.is_out_of_time or (not is_first and (is_slow or is_announced())):
                return
            is_first = False
            with suppress(IndexError):  # they were taken back meanwhile
                self._deliver_next()

    def take_back(self) -> list[int]:
        """Keys of the undelivered entries, which the caller releases; in any thread."""
        keys: list[int] = []
        with suppress(IndexError):
            while True:
                keys.append(self._left.pop().pk)
        return keys

    def settle(self) -> None:
        """Write the outcome of each entry; can be repeated after a lost connection."""
        entries = WorkflowOutbox.objects.using(self._using)
        if self.is_held:
            # Nobody else sees these events yet, so their waits are looked for by a worker.
            self.outcomes.leave(entries, self.token)
        self.outcomes.visit_again(self._unseen, TROUBLE_DELAY)

        def write() -> None:
            self.outcomes.visit_again(self._unwaited.find_undone(), timedelta(0))
            self.outcomes.write(entries, self.token)
            if self.outcomes.parked:
                park_entries(entries, self.token, self.outcomes.parked)

        persist(self._using, write)
        if self.in_order.entries:  # a delivery in order may have died before
            persist(self._using, entries.filter(pk__in=self.in_order.entries).mark_dead)

    def look_again(self) -> set[str]:
        """After `settle`: release what was parked for a pause that was lifted meanwhile.

        Returns the queues in which it is due.
        """
        entries = WorkflowOutbox.objects.using(self._using)
        parked = self.outcomes.parked
        return look_again(entries, parked) if parked else set()

    def _deliver_next(self) -> None:
        entry = self._left.popleft()
        together = [entry] if self._groups is None else self._groups.deliver_from(entry)
        for one in together:
            self._deliver_one(one)

    def _groupable(self, entry: WorkflowOutbox) -> list[Delivery]:
        """The deliveries of the entry, if all of them may share a transaction with others."""
        if not entry.is_fresh or entry.pk in self.in_order.entries:
            return []
        event = self._events[entry.pk]
        free = [one for one in self._registry.matching(event) if one.id not in self._paused]
        own = [one for one in free if self._queue in (None, one.queue)]
        if not all(one.grouped for one in own):
            return []
        return [self._delivery(entry, event, one, None) for one in own]

    def _delivery(
        self,
        entry: WorkflowOutbox,
        event: WorkflowEvent,
        registration: Registration,
        previous: WorkflowDeliveryAttempt | None,
    ) -> Delivery:
        return Delivery(
            using=self._using,
            entry_id=entry.pk,
            token=self.token,
            event=event,
            registration=registration,
            previous=previous,
            is_alone=entry.deliver_alone,
            sender=type(self._registry),
            published_at=entry.event.published_at,
            is_relaxed=self._is_relaxed,
            visits=entry.visits,
        )

    def _deliver_one(self, entry: WorkflowOutbox) -> None:
        try:
            if self._deliver_entry(entry):
                return
            logger.warning(
                "The claim on entry %s was lost; another worker will deliver it", entry.pk
            )
            held = WorkflowOutbox.objects.using(self._using).held(self.token)
            ours = set(persist(self._using, lambda: list(held.values_list("pk", flat=True))))
            for one in [one for one in self._left if one.pk not in ours]:
                with suppress(ValueError):
                    self._left.remove(one)
        except Exception as error:
            # Not a handler's failure, which would be recorded; the other entries must go on.
            logger.exception(
                "Entry %s could not be delivered; retrying in %s", entry.pk, in_words(TROUBLE_DELAY)
            )
            self.outcomes.later[entry.pk] = TROUBLE_DELAY
            self.is_out_of_time |= is_time_limit(error)

    def _deliver_entry(self, entry: WorkflowOutbox) -> bool:
        """Deliver one event to the matching registrations; false if the claim is lost."""
        event = self._events[entry.pk]
        in_order = self.in_order.entries.get(entry.pk, ())
        recorded = self._recorded.get(entry.pk, {})
        known = {one.id: one for one in self._registry.matching(event) if one.id not in in_order}
        free = [one for one in known.values() if one.id not in self._paused]
        own = [one for one in free if self._queue in (None, one.queue)]
        visit = self._deliver_to(own, entry, event)
        if visit is None:
            return False
        left = [recorded[one.id] for one in known.values() if one not in own and one.id in recorded]
        visit.is_dead |= any(one.status == DeliveryStatus.DEAD_LETTER for one in left)
        foreign = [one for one in free if one not in own]
        first = first_elsewhere(foreign, recorded, visit.unwanted_by)
        paused, unknown = find_left(entry, recorded, known, apart=in_order, paused=self._paused)
        if unknown:
            visit.delays.append(delay_for_others(entry, unknown))
        paused = [one for one in paused if one not in visit.unwanted_by]
        if first is not None and first.delay <= min(visit.delays, default=timedelta.max):
            self.outcomes.elsewhere[entry.pk] = first
        elif visit.delays:
            self.outcomes.later[entry.pk] = min(visit.delays)
        elif paused:
            self.outcomes.parked[entry.pk] = parking_of(
                entry, recorded, known, paused, visit.unwanted_by
            )
        elif visit.is_dead:
            self.outcomes.dead.append(entry.pk)
        else:
            self.outcomes.processed.append(entry.pk)
        return True

    def _deliver_to(
        self, own: list[Registration], entry: WorkflowOutbox, event: WorkflowEvent
    ) -> Visit | None:
        """The outcomes of the registrations that this process calls; `None` for a lost claim."""
        visit = Visit(set(entry.unwanted_by or ()))
        recorded = self._recorded.get(entry.pk, {})
        is_handled = False
        for registration in own:
            delivery = self._groups and self._groups.pop(entry, registration)
            delivery = delivery or self._delivery(
                entry, event, registration, recorded.get(registration.id)
            )
            outcome, delay = delivery.deliver()
            if outcome is Outcome.LOST:
                return None
            if outcome is Outcome.NOTHING:
                visit.unwanted_by.add(registration.id)
            is_handled |= outcome is Outcome.DONE
            visit.is_dead |= outcome is Outcome.DEAD
            if delay is not None:
                visit.delays.append(delay)
            if outcome is Outcome.DONE and delivery.session is not None:
                self._unwaited.note(entry.pk, registration.id, delivery.session)
            if delivery.late is not None and is_time_limit(delivery.late):
                self.is_out_of_time = True
        self.handled.update([entry.pk] if is_handled else [])
        return visit
