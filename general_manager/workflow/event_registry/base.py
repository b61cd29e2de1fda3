"""The base of every registry: registrations by key, and three ways to publish."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from threading import Lock
from typing import Any, ClassVar
from weakref import WeakSet

from asgiref.sync import sync_to_async
from django.core.checks import CheckMessage
from django.db import transaction

from general_manager.exceptions import unsupported
from general_manager.workflow.core.encoding import copy_encoded, encode_mapping
from general_manager.workflow.core.populations import current_population
from general_manager.workflow.event_registry.keys import warn_of_unmatched, warn_of_unpublished
from general_manager.workflow.event_registry.registration import (
    DeadLetterHandler,
    EventHandler,
    EventPredicate,
    EventValidator,
    OnDead,
    Registration,
    RetryPredicate,
)
from general_manager.workflow.events import WorkflowEvent, event_with
from general_manager.workflow.pauses import Pause


class EventRegistry(ABC):
    """Keeps registrations and routes events to them; subclasses implement the delivery.

    Safe to use from several threads. `publish` may run while another thread registers.
    """

    supports_tables: ClassVar[bool] = False
    """Events are stored with the change that caused them, and outlive the process."""
    supports_pauses: ClassVar[bool] = False
    """`pause`, `unpause` and `pauses`."""

    made: ClassVar[WeakSet["EventRegistry"]] = WeakSet()
    """Every registry of this process, so that a check can find unused ones."""

    def __init__(self) -> None:
        EventRegistry.made.add(self)
        self._by_key: dict[str, tuple[Registration, ...]] = {}
        self._by_identity: dict[tuple[object, ...], Registration] = {}
        self._by_id: dict[str, Registration] = {}
        self._alike: Counter[tuple[str | None, ...]] = Counter()
        self.populations: dict[tuple[object, ...], object] = {}
        """For registrations made while Django populates its apps: in which population."""
        self._lock = Lock()

    def check(self) -> list[CheckMessage]:
        """The messages of `manage.py check` about this registry under the current settings."""
        return []

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
        queue: str = "",
        grouped: bool = False,
        in_order: bool = False,
        on_dead: OnDead = "block",
    ) -> Registration:
        """Call *handler* with each event whose type or name is *event*, if *when* returns true.

        *event* with a dot is a canonical type, without one a readable name; both match exactly.
        A failing handler is tried *retries* more times, unless *retry_on* returns false for the
        exception; then *dead_letter_handler* gets the event and the exception, once. The database
        registry makes up to `WORKFLOW_MAX_RETRIES` such passes with growing delays, so it calls a
        handler up to ``(retries + 1) * WORKFLOW_MAX_RETRIES`` times; the in-memory registry makes
        one pass. If *validator* raises, the event is a dead letter at once. *registration_id* is a
        stable id; without it the id consists of the key, the dotted paths and the order.
        *atomic*: the handler's database writes are rolled back if it fails. *queue* names the
        workers that call it, empty for the project's own routing; in memory it has no effect.
        *grouped*, for short atomic handlers without outside effects: deliveries of several events
        share a transaction, so a handler may run again that had returned; no effect in memory.
        *in_order*: events with the same ordering key reach the handler one after the other; after a
        dead letter, the later ones wait (*on_dead* ``"block"``) or go on (``"skip"``). In memory,
        where nothing can be requeued, they always go on.

        Registering the same again changes nothing. Raises `TypeError` or `ValueError` that names
        the wrong argument, with nothing registered.
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
                queue=queue,
                grouped=grouped,
                in_order=in_order,
                on_dead=on_dead,
            )
        )

    def unregister(self, registration: Registration) -> bool:
        """Remove *registration*, or an identical one; false if there is none."""
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
        """All registrations, in the order of their registration."""
        with self._lock:
            return list(self._by_identity.values())

    def has_ordered(self) -> bool:
        """Whether a registration asks for events in order."""
        with self._lock:
            return any(one.in_order for one in self._by_identity.values())

    def find_registration(self, registration_id: str) -> Registration | None:
        return self._by_id.get(registration_id)

    def adopt(self, other: "EventRegistry") -> None:
        """Copy the registrations of *other*."""
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
        """Deliver *event* to every handler that matches.

        True if at least one handler completed in this call; false for a known event id. Raises
        `EncodingError` for a payload that cannot be stored, but no exception of a handler.
        """

    def publish_sync(self, event: WorkflowEvent) -> bool:
        """`publish`, and deliver in this process in every mode."""
        return self.publish(event)

    def publish_many(self, events: Iterable[WorkflowEvent]) -> int:
        """Publish *events* in order. Returns how many were delivered in this call.

        All are encoded first: if one cannot be encoded, none is published.
        """
        ready = [encoded(event) for event in events]
        return sum(self.publish(event) for event in ready)

    def pause(self, registration_id: str, *, reason: str = "") -> Pause:
        """Call the handler with no further event until `unpause`: see the engine's `pause`."""
        del registration_id, reason
        raise unsupported(self, "pause")

    def unpause(self, registration_id: str) -> bool:
        """Deliver what was parked, and what comes; false if it is not paused."""
        del registration_id
        raise unsupported(self, "unpause")

    def pauses(self) -> list[Pause]:
        """The registrations that are paused."""
        return []  # it supports no pauses

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        """Publish *event* if and only if the transaction on database *using* commits."""
        ready = encoded(event)
        # Not a partial: if a robust callback fails, Django reads its __qualname__.
        transaction.on_commit(lambda: self.publish(ready), using=using, robust=True)

    def publish_many_with_changes(self, events: Iterable[WorkflowEvent], *, using: str) -> None:
        """`publish_with_change` for the events of one bulk change, in order."""
        for event in events:
            self.publish_with_change(event, using=using)

    async def apublish(self, event: WorkflowEvent, **options: Any) -> bool:
        """`publish`, from async code. It commits by itself: Django has no async transactions."""
        return await sync_to_async(self.publish, thread_sensitive=True)(event, **options)

    async def apublish_sync(self, event: WorkflowEvent, **options: Any) -> bool:
        """`publish_sync`, from async code."""
        return await sync_to_async(self.publish_sync, thread_sensitive=True)(event, **options)

    async def apublish_many(self, events: Iterable[WorkflowEvent], **options: Any) -> int:
        """`publish_many`, from async code."""
        return await sync_to_async(self.publish_many, thread_sensitive=True)(events, **options)

    def add(self, registration: Registration) -> Registration:
        """Add *registration*, or return the identical existing one.

        If Django populates its apps again, as in a test that changes INSTALLED_APPS, a registration
        made by the same code replaces the earlier one.
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
                    f"pass another for {registration}"
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
        """Replace *old* by *registration* at the same place, with the same id and ordinal."""
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
    """A copy of *event* with payload and metadata as JSON will return them.

    Raises `EncodingError` that names the path of a value that cannot be encoded, and `TypeError`
    for a value that is not an event.
    """
    if not isinstance(event, WorkflowEvent):
        raise TypeError(f"Only a WorkflowEvent can be published, not {event!r}")
    warn_of_unmatched(event)
    return event_with(
        event,
        encode_mapping(event.payload, root="payload"),
        encode_mapping(event.metadata, root="metadata"),
    )


def copied(event: WorkflowEvent) -> WorkflowEvent:
    """A copy of the encoded *event* with its own payload and metadata."""
    return event_with(event, copy_encoded(event.payload), copy_encoded(event.metadata))
