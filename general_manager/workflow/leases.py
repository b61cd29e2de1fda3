"""Keep a lease while its work goes on: threads of this process renew them all.

One thread waits for the next turn and does nothing else, so nothing that a database does can stop
it. Another renews; where a renewal hangs, on a lock or on a dead network, it is left behind and a
new one takes its place: one lease's trouble is its own. A process in which a lease could not be
renewed for as long as it lasts takes no new work, says so, and asks again until it can.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Condition, Thread
from time import monotonic
from typing import Final

from django.db import connections

from general_manager.escaping import get_logger

logger = get_logger(__name__)

Renewal = Callable[[], object]

IDLE_SECONDS: Final = 60.0
"""After so long without anything to renew, a thread ends."""

HANGING_SECONDS: Final = 5.0
"""A call that takes longer, or a third of its lease if that is less, is left behind."""

MOST_HANGING: Final = 8
"""So many threads may hang at once; beyond that, this process cannot renew."""

SAY_AGAIN_SECONDS: Final = 30.0


@dataclass(slots=True, eq=False)
class _Turn:
    """One lease, or one duty, and when it is due."""

    call: Renewal
    every: float
    due: float
    renewed: float
    """When it was renewed, or taken, for the last time."""
    calls: set["_Call"] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Call:
    """One renewal under way."""

    turn: _Turn
    started: float
    is_hanging: bool = False


class _Keeper:
    """The renewals under way in this process, each with the time of its next turn."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._changed = Condition()
        self._turns: dict[int, _Turn] = {}
        self._last = 0
        self._thread: Thread | None = None
        self._waiting: deque[_Call] = deque()
        self._calls: set[_Call] = set()
        self._idle = self._starting = 0
        self._no_thread_until = float("-inf")
        self._failed: _Turn | None = None
        """A lease that could not be renewed in time; its call is asked again until it can be."""
        self._said = float("-inf")

    def add(self, renew: Renewal, every: float) -> int:
        with self._changed:
            self._last += 1
            now = monotonic()
            self._turns[self._last] = _Turn(renew, every, now + every, now)
            self._start()
            self._changed.notify_all()
            return self._last

    def remove(self, number: int) -> None:
        with self._changed:
            self._turns.pop(number, None)

    def can_renew(self) -> bool:
        with self._changed:
            if self._start() and self._failed is None:
                return True
            if monotonic() - self._said > SAY_AGAIN_SECONDS:
                self._said = monotonic()
                logger.error(
                    "This process cannot renew its leases and takes no new work: %s",
                    "no thread can be started" if self._failed is None
                    else "the database could not be reached from its renewing thread for the "
                    "length of a lease",
                )  # fmt: skip
            return False

    def _start(self) -> bool:
        """Have the thread that waits for turns, also where an earlier one could not be started."""
        if self._thread is not None and self._thread.is_alive():
            return True
        self._thread = _started(self._watch, "general_manager-leases")
        return self._thread is not None

    def _watch(self) -> None:
        idle_since = monotonic()
        with self._changed:
            while True:
                now = monotonic()
                if self._turns or self._failed is not None:
                    idle_since = now
                elif now - idle_since > IDLE_SECONDS:
                    self._thread = None
                    return
                self._begin_what_is_due(now)
                times = [turn.due for turn in self._turns.values()]
                self._changed.wait(min(1.0, max(0.01, min(times, default=now + 1) - now)))

    def _begin_what_is_due(self, now: float) -> None:
        for call in self._calls:
            patience = max(1.0, min(HANGING_SECONDS, call.turn.every))
            if not call.is_hanging and now - call.started > patience:
                call.is_hanging = True
                logger.error("Renewing a lease has taken over %.3g s; trying again", patience)
        turns = list(self._turns.values())
        if self._failed is not None and self._failed not in turns:
            turns.append(self._failed)
        for turn in turns:
            if turn.due <= now and all(call.is_hanging for call in turn.calls):
                turn.due = now + turn.every
                call = _Call(turn, now)
                turn.calls.add(call)
                self._waiting.append(call)
                self._changed.notify_all()
            if turn is not self._failed and now - turn.renewed > 3 * turn.every:
                self._failed = turn
                logger.error("A lease was not renewed before its end; another may take it over")
        if self._waiting and not self._idle and not self._starting:
            self._add_worker(now)

    def _add_worker(self, now: float) -> None:
        """Unless one is at work that will come back, or too many hang, or none can be started."""
        hanging = sum(call.is_hanging for call in self._calls)
        if hanging < len(self._calls) or hanging >= MOST_HANGING or now < self._no_thread_until:
            return
        if _started(self._work, "general_manager-renewals") is None:
            self._no_thread_until = now + 1
        else:
            self._starting += 1

    def _work(self) -> None:
        """Renew what is due, until this thread was left behind, or is idle."""
        try:
            with self._changed:
                self._starting -= 1
            _leave_pools()
            while (call := self._next()) is not None:
                error = _error_of(call.turn.call)
                _close_connections()
                if self._finish(call, error):
                    return
        except BaseException:
            logger.exception("A thread that renews leases ended")

    def _next(self) -> _Call | None:
        until = monotonic() + IDLE_SECONDS
        with self._changed:
            self._idle += 1
            try:
                while not self._waiting:
                    left = until - monotonic()
                    if left <= 0:
                        return None
                    self._changed.wait(left)
                call = self._waiting.popleft()
            finally:
                self._idle -= 1
            call.started = monotonic()
            self._calls.add(call)
            return call

    def _finish(self, call: _Call, error: BaseException | None) -> bool:
        """Says whether the thread was left behind meanwhile."""
        with self._changed:
            self._calls.discard(call)
            call.turn.calls.discard(call)
            if error is None:
                call.turn.renewed = monotonic()
                if self._failed is not None:
                    logger.warning("Leases are renewed again; this process takes new work")
                self._failed = None
            else:
                call.turn.due = min(call.turn.due, monotonic() + min(1.0, call.turn.every))
        if error is not None:
            logger.error("A lease could not be renewed; trying again", exc_info=error)
        return call.is_hanging


def _started(work: Callable[[], None], name: str) -> Thread | None:
    thread = Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no thread to spare
        logger.exception("The thread %s could not be started", name)
        return None
    return thread


def _error_of(call: Renewal) -> BaseException | None:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the thread goes on
        return error
    return None


def _close_connections() -> None:
    """Renewals are rare: hold no connection in between. One that cannot be closed is dropped."""
    for connection in connections.all(initialized_only=True):
        try:
            connection.close()
        except BaseException:
            logger.warning("A renewal's connection could not be closed", exc_info=True)
            connection.connection = None


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


def can_renew() -> bool:
    """Whether this process may take work: it could renew the leases that it had so far."""
    return _own_keeper().can_renew()


@contextmanager
def keeping(renew: Renewal, lease: timedelta) -> Iterator[None]:
    """Call *renew* three times a *lease*, in another thread, until the block ends."""
    keeper = _own_keeper()
    number = keeper.add(renew, lease.total_seconds() / 3)
    try:
        yield
    finally:
        keeper.remove(number)
