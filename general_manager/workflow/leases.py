"""Keep a lease while its work goes on: one thread a process renews them all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Condition, Thread
from time import monotonic

from django.db import connections

from general_manager.escaping import get_logger

logger = get_logger(__name__)

Renewal = Callable[[], object]


class _Keeper:
    """The renewals under way in this process, each with the time of its next turn."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._changed = Condition()
        self._turns: dict[int, tuple[float, float, Renewal]] = {}
        self._last = 0
        self._thread: Thread | None = None

    def add(self, renew: Renewal, every: float) -> int:
        with self._changed:
            self._last += 1
            self._turns[self._last] = (monotonic() + every, every, renew)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="general_manager-leases", daemon=True)
                self._thread.start()
            return self._last

    def remove(self, number: int) -> None:
        with self._changed:
            self._turns.pop(number, None)

    def _run(self) -> None:
        _leave_pools()
        while (renew := self._next()) is not None:
            try:
                renew()
            except Exception:
                logger.exception("A lease could not be renewed; it is tried again")
            finally:
                connections.close_all()  # renewals are rare: hold no connection in between

    def _next(self) -> Renewal | None:
        """Wait for the next turn; `None`, and the end of the thread, after an idle minute."""
        idle_since = monotonic()
        with self._changed:
            while True:
                now = monotonic()
                due = [one for one in self._turns.items() if one[1][0] <= now]
                if due:
                    number, (_, every, renew) = due[0]
                    self._turns[number] = (now + every, every, renew)
                    return renew
                if self._turns:
                    idle_since = now
                elif now - idle_since > 60:
                    self._thread = None
                    return None
                soonest = min((turn[0] for turn in self._turns.values()), default=now + 1)
                self._changed.wait(min(1.0, max(0.0, soonest - now)))


def _leave_pools() -> None:
    """Have this thread connect by itself: work may hold all of a pool's connections at once."""
    for alias in connections:
        options = connections.settings[alias].get("OPTIONS", {})
        if options.get("pool"):
            own = {name: value for name, value in options.items() if name != "pool"}
            wrapper = type(connections[alias])
            connections[alias] = wrapper({**connections.settings[alias], "OPTIONS": own}, alias)


_keeper = _Keeper()


def start_calling(call: Renewal, every: timedelta) -> Callable[[], None]:
    """Have *call* called in the background, now and again, until the returned function is."""
    keeper = _own_keeper()
    number = keeper.add(call, every.total_seconds())
    return lambda: keeper.remove(number)


def _own_keeper() -> _Keeper:
    global _keeper
    if _keeper.pid != os.getpid():  # threads do not survive a fork
        _keeper = _Keeper()
    return _keeper


@contextmanager
def keeping(renew: Renewal, lease: timedelta) -> Iterator[None]:
    """Call *renew* three times a *lease*, in another thread, until the block ends."""
    keeper = _own_keeper()
    number = keeper.add(renew, lease.total_seconds() / 3)
    try:
        yield
    finally:
        keeper.remove(number)
