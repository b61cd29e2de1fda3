"""One piece of work at a time for each key, across threads, in the order of arrival."""

from collections import deque
from collections.abc import Callable
from threading import Lock

from general_manager.workflow.durable.stops import StopRun

Work = Callable[[], object]


class _Lane:
    def __init__(self) -> None:
        self.waiting: deque[Work] = deque()
        self.is_busy = False


class Lanes:
    """A lane for each key in which something waits; safe to use from several threads.

    Nobody waits for another thread, so two handlers that publish for each other's keys cannot
    block each other: what comes while a thread works in a lane is done by that thread.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._lock = Lock()

    def add(self, key: str, work: Work) -> None:
        """Put *work* behind what waits for *key*, for the thread that empties the lane."""
        with self._lock:
            self._lanes.setdefault(key, _Lane()).waiting.append(work)

    def empty(self, key: str) -> None:
        """Do what waits for *key*, unless another thread, or this one further up, is at it."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None or lane.is_busy:
                return
            lane.is_busy = True
        try:
            self._empty(key, lane)
        finally:
            with self._lock:
                lane.is_busy = False

    def perform(self, key: str, work: Work) -> None:
        """Do *work* after what came before it for *key*."""
        self.add(key, work)
        self.empty(key)

    def _empty(self, key: str, lane: _Lane) -> None:
        stopped: StopRun | None = None
        while True:
            with self._lock:
                if not lane.waiting:
                    del self._lanes[key]
                    break
                work = lane.waiting.popleft()
            try:
                work()
            except StopRun as stop:  # the execution that published ends here; the others go on
                stopped = stop
        if stopped is not None:
            raise stopped
