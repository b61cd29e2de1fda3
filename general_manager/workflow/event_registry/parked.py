"""Pauses of registrations in memory, and the events that they hold back."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from threading import RLock
from typing import Final, NamedTuple

from general_manager.workflow.core.actors import current_actor
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.pauses import Pause, PauseKind

MOST_PARKED: Final = 10_000
"""Events that one process keeps for paused registrations."""


class ParkedEvent(NamedTuple):
    """An event that is delivered when its registration is unpaused."""

    event: WorkflowEvent
    published_at: datetime


class ParkedEvents:
    """The paused registrations of one registry, by id, and the events of each, in order."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = RLock()
        self._pauses: dict[str, Pause] = {}
        self._parked: dict[str, deque[ParkedEvent]] = {}
        self._emptying: set[str] = set()

    def pause(self, registration_id: str, reason: str) -> Pause:
        with self._lock:
            if registration_id not in self._pauses:
                self._pauses[registration_id] = Pause(
                    PauseKind.REGISTRATION, registration_id, self._clock(), current_actor(), reason
                )
            return self._counted(registration_id)

    def unpause(self, registration_id: str) -> bool:
        """False if it is not paused. Its events stay, for `empty`."""
        with self._lock:
            return self._pauses.pop(registration_id, None) is not None

    def pauses(self) -> list[Pause]:
        with self._lock:
            return [self._counted(one) for one in self._pauses]

    def park(
        self,
        registration_id: str,
        event: WorkflowEvent,
        published_at: datetime,
        *,
        in_order: bool = False,
    ) -> bool:
        """Keep the event; false if it is not paused. Raises `OverflowError` above the maximum.

        *in_order*: while earlier ones are still delivered, those that come are kept behind them.
        """
        with self._lock:
            is_behind = in_order and registration_id in self._emptying
            if registration_id not in self._pauses and not is_behind:
                return False
            if sum(map(len, self._parked.values())) >= MOST_PARKED:
                raise OverflowError
            kept = self._parked.setdefault(registration_id, deque())
            kept.append(ParkedEvent(event, published_at))
            return True

    def empty(self, registration_id: str, deliver: Callable[[ParkedEvent], object]) -> None:
        """Deliver what is kept, in order, until nothing is left or it is paused again.

        If another thread is at it, that one goes on.
        """
        with self._lock:
            if registration_id in self._emptying:
                return
            self._emptying.add(registration_id)
        try:
            while (event := self._first(registration_id)) is not None:
                try:
                    deliver(event)
                finally:
                    with self._lock:
                        self._parked[registration_id].popleft()
        finally:
            with self._lock:
                self._emptying.discard(registration_id)

    def _first(self, registration_id: str) -> ParkedEvent | None:
        with self._lock:
            kept = self._parked.get(registration_id)
            if kept and registration_id not in self._pauses:
                return kept[0]
            if not kept:
                self._parked.pop(registration_id, None)
            self._emptying.discard(registration_id)  # here, so that nothing comes in between
            return None

    def _counted(self, registration_id: str) -> Pause:
        parked = len(self._parked.get(registration_id, ()))
        return replace(self._pauses[registration_id], parked=parked)
