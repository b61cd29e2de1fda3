"""One piece of work at a time for each key, across threads, in the order of arrival."""

from collections import deque
from collections.abc import Callable
from threading import Lock

from general_manager.workflow.durable.stops import StopRun

Work = Callable[[], bool]


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

    def perform(self, key: str, work: Work) -> bool:
        """Do *work* after what came before it for *key*; returns its result.

        False if another thread, or this one further up, is at it, which then does it.
        """
        with self._lock:
            lane = self._lanes.setdefault(key, _Lane())
            lane.waiting.append(work)
            if lane.is_busy:
                return False
            lane.is_busy = True
        try:
            return self._empty(key, lane, work)
        finally:
            with self._lock:
                lane.is_busy = False

    def _empty(self, key: str, lane: _Lane, own: Work) -> bool:
        result = False
        stopped: StopRun | None = None
        while True:
            with self._lock:
                if not lane.waiting:
                    del self._lanes[key]
                    break
                work = lane.waiting.popleft()
            try:
                is_done = work()
            except StopRun as stop:  # the execution that published ends here; the others go on
                stopped = stop
                continue
            result = is_done if work is own else result
        if stopped is not None:
            raise stopped
        return result
