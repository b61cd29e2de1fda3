"""What every registry is: registrations by key, and three ways to publish."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from threading import Lock
from typing import ClassVar
from weakref import WeakSet

from django.db import transaction

from general_manager.workflow.encoding import copy_encoded, encode_mapping
from general_manager.workflow.event_registry.keys import warn_of_unmatched, warn_of_unpublished
from general_manager.workflow.event_registry.registration import (
    DeadLetterHandler,
    EventHandler,
    EventPredicate,
    EventValidator,
    Registration,
    RetryPredicate,
)
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.populations import current_population


class EventRegistry(ABC):
    """Keeps registrations and routes events to them; subclasses say how an event travels.

    Safe to use from several threads. `publish` may run while another thread registers.
    """

    made: ClassVar[WeakSet["EventRegistry"]] = WeakSet()
    """Every registry of this process, so that a check finds those that nothing publishes to."""

    def __init__(self) -> None:
        EventRegistry.made.add(self)
        self._by_key: dict[str, tuple[Registration, ...]] = {}
        self._by_identity: dict[tuple[object, ...], Registration] = {}
        self._by_id: dict[str, Registration] = {}
        self._alike: Counter[tuple[str | None, ...]] = Counter()
        self.populations: dict[tuple[object, ...], object] = {}
        """Of those that were made while Django's apps were populated: in which population."""
        self._lock = Lock()

    def register(
        self,
        event: str,
        *,
        handler: EventHandler,
        when: EventPredicate | None = None,
        validator: EventValidator | None = None,
        retries: int = 0,
        retry_on: RetryPredicate | None = None,
        dead_letter_handler: DeadLetterHandler | None = None,
        registration_id: str | None = None,
        atomic: bool = True,
    ) -> Registration:
        """Call *handler* with each event whose type or name is *event* and which *when* lets by.

        *event* with a dot is a canonical type, without one a readable name; both match exactly.
        A failing handler is tried *retries* more times unless *retry_on*, given the exception,
        says no; then *dead_letter_handler* gets the event and the exception, once. The database
        registry does that in each of `WORKFLOW_MAX_RETRIES` passes, with a growing delay between
        them, so a handler is called up to ``(retries + 1) * WORKFLOW_MAX_RETRIES`` times; the
        in-memory registry makes one pass. An event that
        *validator* raises for is a dead letter at once. *registration_id* names the registration
        for good; without it a name is made of the key, the dotted paths and the order.
        *atomic*: what the handler wrote to the database is rolled back when it fails.

        An identical registration is the one that is there already. Raises `TypeError` or
        `ValueError` that name the wrong argument, with nothing registered.
        """
        warn_of_unpublished(event)
        return self.add(
            Registration(
                event,
                handler,
                when=when,
                validator=validator,
                retries=retries,
                retry_on=retry_on,
                dead_letter_handler=dead_letter_handler,
                registration_id=registration_id,
                atomic=atomic,
            )
        )

    def unregister(self, registration: Registration) -> bool:
        """Forget *registration*, or an identical one; false if there is none here."""
        if not isinstance(registration, Registration):
            raise TypeError(f"unregister() takes a Registration, not {registration!r}")
        with self._lock:
            known = self._by_identity.pop(registration.identity, None)
            if known is None:
                return False
            self.populations.pop(registration.identity, None)
            del self._by_id[known.id]
            left = tuple(one for one in self._by_key[known.key] if one is not known)
            self._by_key[known.key] = left
            if known.registration_id is None and known.ordinal == self._alike[known.likeness]:
                self._alike[known.likeness] -= 1
            return True

    def registrations(self) -> list[Registration]:
        """All registrations, in the order in which they were made."""
        with self._lock:
            return list(self._by_identity.values())

    def find_registration(self, registration_id: str) -> Registration | None:
        return self._by_id.get(registration_id)

    def adopt(self, other: "EventRegistry") -> None:
        """Take over the registrations of *other*, which keeps them too."""
        for registration in other.registrations():
            self.add(registration)
        with self._lock:
            self.populations.update(other.populations)

    def matching(self, event: WorkflowEvent) -> tuple[Registration, ...]:
        """Registrations for the event's type, then those for its name, before any `when`."""
        found = self._by_key.get(event.event_type, ()) if "." in event.event_type else ()
        name = event.event_name
        if name is not None and "." not in name:
            found += self._by_key.get(name, ())
        return found

    @abstractmethod
    def publish(self, event: WorkflowEvent) -> bool:
        """Give *event* to every handler that wants it.

        True if at least one of them completed in this call; false for an event id that is known.
        Raises `EncodingError` for a payload that cannot be stored, and nothing a handler raises.
        """

    def publish_sync(self, event: WorkflowEvent) -> bool:
        """`publish`, and deliver in this process, whatever the mode."""
        return self.publish(event)

    def publish_many(self, events: Iterable[WorkflowEvent]) -> int:
        """Publish *events* in order and return how many of them were delivered in this call.

        All are encoded first: if one of them cannot be, none is published.
        """
        ready = [encoded(event) for event in events]
        return sum(self.publish(event) for event in ready)

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        """Publish *event* if, and only if, the transaction on database *using* commits."""
        ready = encoded(event)
        # No partial: of a robust callback that failed, Django asks for its __qualname__.
        transaction.on_commit(lambda: self.publish(ready), using=using, robust=True)

    def publish_many_with_changes(self, events: Iterable[WorkflowEvent], *, using: str) -> None:
        """`publish_with_change` for the events of one bulk change, in order."""
        for event in events:
            self.publish_with_change(event, using=using)

    def add(self, registration: Registration) -> Registration:
        """Keep *registration*, or return the identical one that is there.

        While Django's apps are populated once more, as in a test that changes INSTALLED_APPS, one
        that is made by the same code as before takes the place of the one before.
        """
        population = current_population()
        with self._lock:
            known = self._by_identity.get(registration.identity)
            if known is not None:
                return known
            if population is not None:
                self.populations[registration.identity] = population
                earlier = self._made_before(registration, population)
                if earlier is not None:
                    return self._replace(earlier, registration)
            likeness = registration.likeness
            if registration.registration_id is None:
                registration = replace(registration, ordinal=self._alike[likeness] + 1)
            other = self._by_id.get(registration.id)
            if other is not None:
                raise ValueError(
                    f"registration_id {registration.id!r} belongs to {other}; "
                    f"give {registration} another"
                )
            if registration.registration_id is None:
                self._alike[likeness] += 1
            self._by_identity[registration.identity] = registration
            self._by_id[registration.id] = registration
            others = self._by_key.get(registration.key, ())
            self._by_key[registration.key] = (*others, registration)
            return registration

    def _made_before(self, registration: Registration, population: object) -> Registration | None:
        for known in self._by_identity.values():
            made_in = self.populations.get(known.identity, population)
            if made_in is not population and known.shape == registration.shape:
                return known
        return None

    def _replace(self, old: Registration, registration: Registration) -> Registration:
        """*registration* for *old*, with its place, its id and its ordinal."""
        new = replace(registration, ordinal=old.ordinal)
        self._by_identity = {
            (new if one is old else one).identity: new if one is old else one
            for one in self._by_identity.values()
        }
        del self.populations[old.identity]
        self._by_id[new.id] = new
        self._by_key[new.key] = tuple(new if one is old else one for one in self._by_key[new.key])
        return new


def encoded(event: WorkflowEvent) -> WorkflowEvent:
    """*event* with payload and metadata as JSON will give them back, sharing nothing with it.

    Raises `EncodingError` that names the path of what cannot be encoded, and `TypeError` for
    anything that is no event.
    """
    if not isinstance(event, WorkflowEvent):
        raise TypeError(f"Only a WorkflowEvent can be published, not {event!r}")
    warn_of_unmatched(event)
    return replace(
        event,
        payload=encode_mapping(event.payload, root="payload"),
        metadata=encode_mapping(event.metadata, root="metadata"),
    )


def copied(event: WorkflowEvent) -> WorkflowEvent:
    """*event*, which is encoded, with a payload and metadata of its own."""
    return replace(
        event, payload=copy_encoded(event.payload), metadata=copy_encoded(event.metadata)
    )
