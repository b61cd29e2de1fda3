"""The events that the in-memory registry keeps for waits, and the waits that are open."""

from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from threading import RLock
from typing import Any, Final, NamedTuple

from general_manager.escaping import get_logger
from general_manager.workflow.core.matching import keys_of, mailbox_for, mailbox_of, shape_of
from general_manager.workflow.events import WorkflowEvent

logger = get_logger(__name__)

MOST_KEPT_EVENTS: Final = 10_000
"""Events that are kept in memory; older ones answer no wait any more."""

_marks: Final = count(1)


def next_mark() -> int:
    """A number that grows with time, for events, signals and starts of executions alike."""
    return next(_marks)


class KeptEvent(NamedTuple):
    """An event, and when it was first seen by a delivery."""

    mark: int
    seen_at: datetime
    event: WorkflowEvent


class Mailbox:
    """The latest events in order, and who is to look when another one comes."""

    def __init__(self, limit: int = MOST_KEPT_EVENTS) -> None:
        self.taken: set[str] = set()
        """Ids of those that answered waits, in a mailbox of a test."""
        self._kept: deque[KeptEvent] = deque(maxlen=limit)
        self._open: dict[str, dict[str, dict[object, Callable[[], None]]]] = {}
        """By shape and mailbox: the looks of open waits."""
        self._lock = RLock()

    def keep(self, event: WorkflowEvent) -> None:
        with self._lock:
            self._kept.append(KeptEvent(next_mark(), datetime.now(UTC), event))

    def events(self, key: str) -> Iterator[KeptEvent]:
        """Events with this type or name, the earliest first."""
        with self._lock:
            kept = list(self._kept)
        for one in kept:
            if key in keys_of(one.event.event_type, one.event.event_name):
                yield one

    def subscribe(
        self, owner: object, key: str, match: dict[str, Any], look: Callable[[], None]
    ) -> None:
        """Have *look* called after each event with *key* and the values of *match*."""
        with self._lock:
            by_mailbox = self._open.setdefault(shape_of(match), {})
            by_mailbox.setdefault(mailbox_of(key, match), {})[owner] = look

    def unsubscribe(self, owner: object) -> None:
        with self._lock:
            for shape, by_mailbox in list(self._open.items()):
                for mailbox, looks in list(by_mailbox.items()):
                    looks.pop(owner, None)
                    if not looks:
                        del by_mailbox[mailbox]
                if not by_mailbox:
                    del self._open[shape]

    def look(self, event: WorkflowEvent) -> None:
        """Call the looks of the waits that *event* may answer, outside the lock."""
        for look in self._looks(event):
            try:
                look()
            except Exception:
                logger.exception("A wait could not be looked at for event %s", event.event_id)

    def _looks(self, event: WorkflowEvent) -> list[Callable[[], None]]:
        found: list[Callable[[], None]] = []
        with self._lock:
            for shape, by_mailbox in self._open.items():
                for key in keys_of(event.event_type, event.event_name):
                    mailbox = mailbox_for(key, shape, event.payload)
                    found += by_mailbox.get(mailbox or "", {}).values()
        return found
