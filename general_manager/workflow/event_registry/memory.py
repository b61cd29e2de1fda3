"""Events delivered at once, in this process: nothing to set up, nothing kept."""

import logging
from contextlib import nullcontext
from dataclasses import replace
from threading import Lock
from time import sleep
from typing import Final

from general_manager.workflow.durable import running
from general_manager.workflow.encoding import copy_encoded
from general_manager.workflow.event_registry.base import EventRegistry, encoded
from general_manager.workflow.event_registry.registration import (
    DeadLetterHandler,
    Registration,
    real_error,
)
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.exceptions import RetryAfter
from general_manager.workflow.signals import event_dead, event_delivered, event_published
from general_manager.workflow.transactions import caller_savepoints

logger = logging.getLogger(__name__)

LONGEST_REST: Final = 1.0
"""Seconds that `RetryAfter` may hold up the caller: here, retries happen while it waits."""


class InMemoryEventRegistry(EventRegistry):
    """Calls the handlers inside `publish`, in the caller's thread.

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
        self._max_seen = max_seen_event_ids
        self._seen: dict[str, None] = {}
        self._seen_lock = Lock()

    def publish(self, event: WorkflowEvent) -> bool:
        event = encoded(event)
        if not self._is_first(event.event_id):
            return False
        event_published.send_robust(type(self), event=event)
        delivered = False
        registrations = self.matching(event)
        for position, registration in enumerate(registrations, start=1):
            # Nobody sees what another did to the payload; the last one may have the original.
            own = event if position == len(registrations) else _copied(event)
            delivered |= self._deliver(registration, own)
        return delivered

    def _is_first(self, event_id: str) -> bool:
        with self._seen_lock:
            if event_id in self._seen:
                return False
            self._seen[event_id] = None
            if len(self._seen) > self._max_seen:
                del self._seen[next(iter(self._seen))]
            return True

    def _deliver(self, registration: Registration, event: WorkflowEvent) -> bool:
        for failures in range(1, registration.retries + 2):
            try:
                if not _attempt(registration, event):
                    return False
            except Exception as error:
                if failures <= registration.retries and registration.may_retry(error):
                    logger.warning(
                        "%s failed for event %s (attempt %d); trying again",
                        registration, event.event_id, failures, exc_info=True,
                    )  # fmt: skip
                    if isinstance(error, RetryAfter):
                        sleep(min(error.seconds, LONGEST_REST))
                    continue
                self._bury(registration, event, error)
                return False
            event_delivered.send_robust(type(self), event=event, registration=registration)
            return True
        raise AssertionError("unreachable: the last attempt returns")

    def _bury(self, registration: Registration, event: WorkflowEvent, error: Exception) -> None:
        logger.error(
            "%s failed for event %s for the last time",
            registration, event.event_id, exc_info=error,
        )  # fmt: skip
        registration.report_dead(event, error, fallback=self._dead_letter_handler)
        event_dead.send_robust(
            type(self), event=event, registration=registration, exception=real_error(error)
        )


def _attempt(registration: Registration, event: WorkflowEvent) -> bool:
    """One try; false if the event is not wanted. Steps of a running workflow are not its steps."""
    if not registration.wants(event):
        return False
    with running(None), caller_savepoints() if registration.atomic else nullcontext():
        registration.call(event)
    return True


def _copied(event: WorkflowEvent) -> WorkflowEvent:
    return replace(
        event, payload=copy_encoded(event.payload), metadata=copy_encoded(event.metadata)
    )
