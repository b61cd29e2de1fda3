"""Calls that come thick and fast: the first is made at once, the others of a moment share one."""

import os
from collections.abc import Callable, Hashable
from threading import Lock, Timer, main_thread
from time import monotonic

Call = Callable[[], object]


class Spaced:
    """Calls of which a later one does an earlier one's work: one in *interval* seconds for a key.

    What is asked for within the interval is served by one call at its end, in another thread: each
    call begins after all that it serves have asked. What is outstanding when the interpreter ends
    is still called; what is outstanding when the process is killed or forked is not.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._start_over()

    def _start_over(self) -> None:
        self._lock = Lock()
        self._free_at: dict[Hashable, float] = {}
        self._late: dict[Hashable, tuple[Timer, Call]] = {}
        self._pid = os.getpid()  # last: another thread of a child goes by it

    def call(self, key: Hashable, call: Call) -> None:
        """Call *call* now, or have it, or another that was given for *key*, called soon."""
        if self._pid != os.getpid():  # threads do not survive a fork
            self._start_over()
        if not self._is_put_off(key, call):
            call()

    def flush(self) -> None:
        """Call now, in this thread, what is outstanding."""
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
            if not main_thread().is_alive():  # the interpreter is ending, and waits for no timer
                return False
            timer = Timer(free_at - now, self._call_late, [key])
            try:
                timer.start()
            except RuntimeError:  # the system has no thread to spare
                return False
            self._late[key] = timer, call
            return True

    def _call_late(self, key: Hashable) -> None:
        with self._lock:
            _, call = self._late.pop(key, (None, None))
            self._free_at[key] = monotonic() + self._interval
        if call is not None:  # it may be flushed by now
            call()
