"""Renew leases in background threads while their work is in progress.

One thread only waits for the next turn, so a database cannot block it. Another thread renews. If a
renewal hangs, on a lock or a dead network, that thread is abandoned and a new one replaces it, so
other leases are not affected. If a lease could not be renewed before it expired, the process takes
no new work, logs it, and retries until the renewal succeeds.
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

IDLE_THREAD_SECONDS: Final = 60.0
"""A thread ends after so long without a renewal."""

HANGING_SECONDS: Final = 5.0
"""A call is abandoned if it takes longer than this or than a third of its lease."""

MOST_HANGING: Final = 8
"""Maximum number of hanging threads; beyond that, this process cannot renew."""

SAY_AGAIN_SECONDS: Final = 30.0


@dataclass(slots=True, eq=False)
class _Turn:
    """One lease, or one heartbeat, and when it is due."""

    call: Renewal
    every: float
    due: float
    renewed: float
    """When it was last renewed or taken."""
    is_lease: bool
    """Whether the process must take no new work if it is not called in time."""
    calls: set["_Call"] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Call:
    """One renewal in progress."""

    turn: _Turn
    started: float
    is_hanging: bool = False


class _Keeper:
    """The leases of this process, each with the time of its next renewal."""

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
        """A lease that was not renewed in time; its renewal is retried until it succeeds."""
        self._said = float("-inf")
        self._looks_at = float("-inf")
        """When the waiting thread looks next, unless it is notified."""

    def add(self, renew: Renewal, every: float, *, is_lease: bool = True) -> int:
        with self._changed:
            self._last += 1
            now = monotonic()
            self._turns[self._last] = _Turn(renew, every, now + every, now, is_lease)
            self._start()
            if now + every < self._looks_at:  # waking it costs as much as a short piece of work
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
                    else "its renewing thread could not reach the database for the "
                    "length of a lease",
                )  # fmt: skip
            return False

    def _start(self) -> bool:
        """Start the waiting thread, also if an earlier one could not be started."""
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
                elif now - idle_since > IDLE_THREAD_SECONDS:
                    self._thread = None
                    return
                self._begin_what_is_due(now)
                times = [turn.due for turn in self._turns.values()]
                pause = min(1.0, max(0.01, min(times, default=now + 1) - now))
                self._looks_at = now + pause
                self._changed.wait(pause)

    def _begin_what_is_due(self, now: float) -> None:
        for call in self._calls:
            patience = max(1.0, min(HANGING_SECONDS, call.turn.every))
            if not call.is_hanging and now - call.started > patience:
                call.is_hanging = True
                logger.error("Renewing a lease has taken over %.3g s; retrying", patience)
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
            is_late = turn.is_lease and now - turn.renewed > 3 * turn.every
            if is_late and turn is not self._failed:
                self._failed = turn
                logger.error(
                    "A lease expired before its renewal; another worker may take over its work"
                )
        if self._waiting and not self._idle and not self._starting:
            self._add_worker(now)

    def _add_worker(self, now: float) -> None:
        """Start a renewing thread unless one is free, too many hang, or none can be started."""
        hanging = sum(call.is_hanging for call in self._calls)
        if hanging < len(self._calls) or hanging >= MOST_HANGING or now < self._no_thread_until:
            return
        if _started(self._work, "general_manager-renewals") is None:
            self._no_thread_until = now + 1
        else:
            self._starting += 1

    def _work(self) -> None:
        """Renew due leases until this thread is abandoned or idle."""
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
        until = monotonic() + IDLE_THREAD_SECONDS
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
        """Returns whether the thread has been abandoned meanwhile."""
        with self._changed:
            self._calls.discard(call)
            call.turn.calls.discard(call)
            is_over = all(turn is not call.turn for turn in self._turns.values())
            if error is None:
                call.turn.renewed = monotonic()
                if self._failed is not None:
                    logger.warning("Leases can be renewed again; this process takes new work")
                self._failed = None
            else:
                call.turn.due = min(call.turn.due, monotonic() + min(1.0, call.turn.every))
        if error is not None and not is_over:
            logger.error("A lease could not be renewed; retrying", exc_info=error)
        return call.is_hanging


def _started(work: Callable[[], None], name: str) -> Thread | None:
    thread = Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no thread can be started
        logger.exception("The thread %s could not be started", name)
        return None
    return thread


def _error_of(call: Renewal) -> BaseException | None:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - the thread must go on
        return error
    return None


def _close_connections() -> None:
    """Renewals are rare, so keep no connection in between. Drop one that cannot be closed."""
    for connection in connections.all(initialized_only=True):
        try:
            connection.close()
        except BaseException:
            logger.warning("A renewal's connection could not be closed", exc_info=True)
            connection.connection = None


def _leave_pools() -> None:
    """Let this thread connect on its own: work may hold all connections of a pool."""
    for alias in connections:
        options = connections.settings[alias].get("OPTIONS", {})
        if options.get("pool"):
            own = {name: value for name, value in options.items() if name != "pool"}
            wrapper = type(connections[alias])
            connections[alias] = wrapper({**connections.settings[alias], "OPTIONS": own}, alias)


_keeper = _Keeper()


def start_calling(call: Renewal, every: timedelta, *, is_lease: bool = True) -> Callable[[], None]:
    """Call *call* periodically in the background until the returned function is called."""
    keeper = _own_keeper()
    number = keeper.add(call, every.total_seconds(), is_lease=is_lease)
    return lambda: keeper.remove(number)


def _own_keeper() -> _Keeper:
    global _keeper
    if _keeper.pid != os.getpid():  # threads do not survive a fork
        _keeper = _Keeper()
    return _keeper


def can_renew() -> bool:
    """Whether this process may take work: it can renew its leases."""
    return _own_keeper().can_renew()


@contextmanager
def renewing(renew: Renewal, lease: timedelta) -> Iterator[None]:
    """Call *renew* three times per *lease*, in another thread, until the block ends."""
    keeper = _own_keeper()
    number = keeper.add(renew, lease.total_seconds() / 3)
    try:
        yield
    finally:
        keeper.remove(number)
