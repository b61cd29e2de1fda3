"""That a worker is busy in a queue, which spares others a message: they rely on its next look."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Final

from django.db import DatabaseError

from general_manager.escaping import get_logger
from general_manager.workflow.models import WorkflowQueue

logger = get_logger(__name__)

SAY_BUSY_EVERY: Final = 1.0
"""Seconds; half as long as others trust in it."""


class Busy:
    """What one task has said of itself in the row of its queue."""

    def __init__(self, using: str, queue: str) -> None:
        self._queues = WorkflowQueue.objects.using(using)
        self._queue = queue
        self._said_at = float("-inf")
        self.is_said = False

    def say(self) -> None:
        if monotonic() - self._said_at > SAY_BUSY_EVERY:
            self._queues.say_busy(self._queue)
            self._said_at, self.is_said = monotonic(), True

    def clear(self) -> None:
        """Before a last look, which finds what others left to this worker."""
        self.is_said, self._said_at = False, float("-inf")
        self._queues.clear_busy(self._queue)

    def clear_late(self) -> None:
        """Before another worker is called. A database that fails now ends it in two seconds."""
        with self._database_may_fail():
            self.clear()

    def hand_over(self) -> None:
        """Without a last look: unless another worker has said that it is busy since."""
        if not self.is_said:
            return
        said_ago = timedelta(seconds=monotonic() - self._said_at)
        with self._database_may_fail():
            self._queues.clear_busy(self._queue, said_ago=said_ago)

    @contextmanager
    def _database_may_fail(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError:
            logger.warning("Queue %r is still marked as busy", self._queue, exc_info=True)
