"""Throttled calls: the first is made at once, later ones within an interval share one call."""

import os
from collections.abc import Callable, Hashable
from threading import Lock, Timer, main_thread
from time import monotonic
from typing import Final

Call = Callable[[], object]


class Throttle:
    """For calls that include the work of earlier ones: one in *interval* seconds for a key.

    Requests within the interval share one call at its end, in another thread, so a call begins
    after all its requests. A pending call is made when the interpreter exits, but is lost when the
    process is killed or forked.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._start_over()

    def _start_over(self) -> None:
        self._lock = Lock()
        self._free_at: dict[Hashable, float] = {}
        self._late: dict[Hashable, tuple[Timer, Call]] = {}
        self._pid = os.getpid()  # last: other threads of a forked child check it

    def call(self, key: Hashable, call: Call) -> None:
        """Call *call* now, or have it or a later call for *key* made soon."""
        if self._pid != os.getpid():  # threads do not survive a fork
            self._start_over()
        if not self._is_put_off(key, call):
            call()

    def is_put_off(self, key: Hashable) -> bool:
        """Whether a call for *key* will be made soon, for everything requested before it."""
        return self._pid == os.getpid() and key in self._late

    def flush(self) -> None:
        """Make the pending calls now, in this thread."""
        if self._pid != os.getpid():
            return
        with self._lock:
            late, self._late = self._late, {}
        for timer, call in late.values():
            timer.cancel()
            call()

    def _is_put_off(self, key: Hashable, call: Call) -> bool:
        with self._lock:
            if key in self._late:
                return True
            free_at = self._free_at.get(key, 0.0)
            now = monotonic()
            if now >= free_at:
                self._free_at[key] = now + self._interval
                return False
            if (
                not main_thread().is_alive()
            ):  # the interpreter does not wait for timers when it exits
                return False
            timer = Timer(free_at - now, self._call_late, [key])
            try:
                timer.start()
            except RuntimeError:  # no thread can be started
                return False
            self._late[key] = timer, call
            return True

    def _call_late(self, key: Hashable) -> None:
        with self._lock:
            _, call = self._late.pop(key, (None, None))
            self._free_at[key] = monotonic() + self._interval
        if call is not None:  # it may have been flushed
            call()


PATIENCE_SECONDS: Final = 0.02
"""Nudges for one queue that follow another one share a message at the end of this time. The first
one is sent at once."""

nudge_throttle: Final = Throttle(PATIENCE_SECONDS)
"""A worker finds everything committed before it looks, so one nudge can replace earlier ones."""
