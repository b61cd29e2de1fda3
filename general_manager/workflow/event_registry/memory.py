"""Events delivered at once, in this process: nothing to set up, nothing kept."""

from collections.abc import Callable
from datetime import UTC, datetime
from time import sleep
from typing import Final

from django.db import transaction
from django.dispatch import Signal

from general_manager.escaping import get_logger
from general_manager.workflow.aside import aside, tell
from general_manager.workflow.event_registry.base import EventRegistry, copied, encoded
from general_manager.workflow.event_registry.registration import (
    DeadLetterHandler,
    Registration,
    real_error,
)
from general_manager.workflow.event_registry.seen import SeenEvents, home_of_events
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import ends_the_process, wanted_delay
from general_manager.workflow.runs import StopRun
from general_manager.workflow.signals import (
    event_dead,
    event_delivered,
    event_failed,
    event_held,
    event_published,
)
from general_manager.workflow.transactions import is_in_transaction

logger = get_logger(__name__)

LONGEST_REST: Final = 1.0
"""Seconds that `RetryAfter` may hold up the caller: here, retries happen while it waits."""


class HeldEvent:
    """An event that waits for a commit, as the hook of that commit.

    A test case never commits: the test kit finds what waits by this class, and delivers it.
    """

    def __init__(self, event: WorkflowEvent, deliver: Callable[[WorkflowEvent], bool]) -> None:
        self.event = event
        self.is_delivered = False
        self._deliver = deliver
        self.__qualname__ = type(self).__qualname__  # Django asks a robust hook that failed for it

    def __call__(self) -> None:
        if not self.is_delivered:
            self.is_delivered = True
            self._deliver(self.event)


class InMemoryEventRegistry(EventRegistry):
    """Calls the handlers in the publisher's thread: in `publish`, or after its commit.

    *dead_letter_handler* hears of final failures whose registration has no hook of its own.
    The latest *max_seen_event_ids* event ids are remembered, so that a duplicate does nothing.
    A process that ends forgets everything: for production use `DatabaseEventRegistry`.
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

    def publish(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Give *event* to every handler that matches; true if one completed in this call.

        Inside a transaction on the database *using*, by default the one where stored events would
        live, that waits for the commit, and this is false. After a rollback the event never was.
        """
        event = encoded(event)
        alias = using or home_of_events()
        if alias is None or not is_in_transaction(alias):
            return self._deliver_once(event)
        if event.event_id not in self._seen:
            held = HeldEvent(event, self._deliver_once)
            transaction.on_commit(held, using=alias, robust=True)
            tell(event_held, type(self), event=event)
        return False

    def publish_sync(self, event: WorkflowEvent, *, using: str | None = None) -> bool:
        """Deliver *event* here and now, inside a transaction too.

        Should that transaction be rolled back, the event's id is as good as new, like what its
        handlers wrote to the database.
        """
        event = encoded(event)
        alias = using or home_of_events()
        if alias is None or not is_in_transaction(alias):
            return self._deliver_once(event)
        return self._seen.add_for_now(event.event_id, alias) and self._deliver_to_all(event)

    def publish_with_change(self, event: WorkflowEvent, *, using: str) -> None:
        self.publish(event, using=using)

    def _deliver_once(self, event: WorkflowEvent) -> bool:
        return self._seen.add(event.event_id) and self._deliver_to_all(event)

    def _deliver_to_all(self, event: WorkflowEvent) -> bool:
        published_at = datetime.now(UTC)
        tell(event_published, type(self), event=event)
        delivered = False
        registrations = self.matching(event)
        for position, registration in enumerate(registrations, start=1):
            # Nobody sees what another did to the payload; the last one may have the original.
            is_last = position == len(registrations)
            delivered |= self._deliver(registration, event, published_at, may_spoil=is_last)
        return delivered

    def _deliver(
        self,
        registration: Registration,
        event: WorkflowEvent,
        published_at: datetime,
        *,
        may_spoil: bool,
    ) -> bool:
        is_wanted = False
        for failures in range(1, registration.retries + 2):
            is_final = failures > registration.retries
            own = event if may_spoil and is_final and not self._has_hook(registration) else None
            try:
                with aside(atomic=registration.atomic):
                    is_asked = registration.when is not None and not is_wanted
                    if is_asked and not registration.wants(copied(event)):
                        return False
                    is_wanted = True
                    registration.call(own or copied(event))
            except BaseException as error:
                if isinstance(error, StopRun) or ends_the_process(error):
                    raise
                if is_final or not registration.may_retry(error):
                    self._bury(registration, event, error)
                    return False
                logger.warning(
                    "%s failed for event %s (attempt %d); trying again",
                    registration, event.event_id, failures, exc_info=error,
                )  # fmt: skip
                self._tell_of(event_failed, registration, event, error)
                asked = wanted_delay(error)
                if asked is not None:
                    sleep(min(asked.total_seconds(), LONGEST_REST))
                continue
            tell(
                event_delivered,
                type(self),
                event=event,
                registration=registration,
                published_at=published_at,
            )
            return True
        raise AssertionError("unreachable: the last attempt returns")

    def _has_hook(self, registration: Registration) -> bool:
        return bool(registration.dead_letter_handler or self._dead_letter_handler)

    def _bury(self, registration: Registration, event: WorkflowEvent, error: BaseException) -> None:
        logger.error(
            "%s failed for event %s for the last time",
            registration, event.event_id, exc_info=error,
        )  # fmt: skip
        registration.report_dead(copied(event), error, fallback=self._dead_letter_handler)
        self._tell_of(event_dead, registration, event, error)

    def _tell_of(
        self, signal: Signal, registration: Registration, event: WorkflowEvent, error: BaseException
    ) -> None:
        error = real_error(error)
        tell(signal, type(self), event=event, registration=registration, exception=error)
