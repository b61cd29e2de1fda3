"""One piece of work at a time for each key, across threads, in the order of arrival."""

from collections import deque
from collections.abc import Callable
from threading import Lock

from general_manager.workflow.durable.stops import StopRun

Work = Callable[[], bool]


class _Line:
    def __init__(self) -> None:
        self.waiting: deque[Work] = deque()
        self.is_busy = False


class Lines:
    """A line for each key in which something waits; safe to use from several threads.

    Nobody waits for another thread, so two handlers that publish for each other's keys cannot
    block each other: what comes while a thread works in a line is done by that thread.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._lock = Lock()

    def perform(self, key: str, work: Work) -> bool:
        """Do *work* after what came before it for *key*; returns its result.

        False if another thread, or this one further up, is at it, which then does it.
        """
        with self._lock:
            line = self._lines.setdefault(key, _Line())
            line.waiting.append(work)
            if line.is_busy:
                return False
            line.is_busy = True
        try:
            return self._empty(key, line, work)
        finally:
            with self._lock:
                line.is_busy = False

    def _empty(self, key: str, line: _Line, own: Work) -> bool:
        result = False
        stopped: StopRun | None = None
        while True:
            with self._lock:
                if not line.waiting:
                    del self._lines[key]
                    break
                work = line.waiting.popleft()
            try:
                is_done = work()
            except StopRun as stop:  # the execution that published ends here; the others go on
                stopped = stop
                continue
            result = is_done if work is own else result
        if stopped is not None:
            raise stopped
        return result
