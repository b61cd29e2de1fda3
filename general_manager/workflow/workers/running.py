"""The executions that a worker takes in one turn: it begins them, runs them, or gives them back."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from general_manager.escaping import get_logger
from general_manager.workflow.core.leases import can_renew
from general_manager.workflow.core.shutdown import is_announced
from general_manager.workflow.executions.children.afterwards import attend_to
from general_manager.workflow.executions.runner import run_begun, run_here, run_taken
from general_manager.workflow.executions.runs.batch import MOST_IN_A_BATCH, Batch, all_from
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.executions.batches import can_batch
from general_manager.workflow.models.executions.claims import Taken, give_back
from general_manager.workflow.workers.pace import Pace

logger = get_logger(__name__)

WORTH_SECONDS: Final = 0.03
"""A batch is for so many executions as take so long: slow ones are begun one by one."""


class Running:
    """What was taken, while it runs. Another thread may give back what was not begun or called.

    *in_batches*: whether there is such a thread, which does so once *is_late* is true.
    """

    def __init__(
        self, using: str, taken: Taken, is_late: Callable[[], bool], *, in_batches: bool
    ) -> None:
        self._using = using
        self._in_batches = in_batches
        self._taken = taken
        self._is_late = is_late
        self._keys = deque((*taken.calm, *taken.suspect))
        self._alone = set(taken.suspect)
        """What it may do to its worker, it does alone; and what cannot be begun in a batch."""
        self._batch: Batch | None = None
        self._ended: deque[int] = deque()
        """Executions that have ended here, and may be waited for."""

    def run(self, pace: Pace) -> int:
        """Run them while there is time; returns how many it ran."""
        done = 0
        try:
            while self._keys and not self._must_stop():
                done += self._run_batch(pace) or self._run_next()
        finally:  # also if the process must end: a lease should not have to expire
            try:
                self.give_back()
            finally:
                self.write_ends()
        return done

    def give_back(self) -> None:
        """Give back what was not begun or called; in any thread."""
        if (batch := self._batch) is not None:
            batch.give_back()
        self._give_back()

    def write_ends(self, *, waits: bool = True) -> None:
        """Write what has come to its end, and attend to it; in any thread.

        Unless it *waits*, it leaves the ends to another thread that is at it.
        """
        try:
            if (batch := self._batch) is not None:
                batch.write(self._ended, waits=waits)
        finally:
            self._attend()

    def _must_stop(self) -> bool:
        is_forked = self._batch is not None and not self._batch.is_ours
        return self._is_late() or is_announced() or is_forked

    def _run_batch(self, pace: Pace) -> int:
        """Begin several together and run them; returns how many, or 0 if the next one is alone."""
        most = pace.size(MOST_IN_A_BATCH, WORTH_SECONDS)
        may_batch = self._in_batches and can_batch(self._using) and can_renew()
        keys = self._next_calm(most) if may_batch else []
        if len(keys) < 2:
            self._keys.extendleft(reversed(keys))
            return 0
        try:
            self._batch = batch = Batch(self._using, self._taken.token, keys)
        except BaseException:
            self._keys.extendleft(reversed(keys))
            raise
        left = [key for key in keys if key not in batch.keys]
        self._alone.update(left)
        self._keys.extendleft(reversed(left))
        done = 0
        try:
            while not self._must_stop() and (record := batch.next()) is not None:
                run_begun(record, self._using, self._ended)
                done += 1
        finally:
            try:
                batch.give_back()
            finally:
                batch.write(self._ended)
        return done

    def _next_calm(self, most: int) -> list[int]:
        keys: list[int] = []
        with suppress(IndexError):
            while len(keys) < most and self._keys[0] not in self._alone:
                keys.append(self._keys.popleft())
        return keys

    def _run_next(self) -> int:
        try:
            key = self._keys.popleft()
        except IndexError:  # they were given back meanwhile
            return 0
        if key in self._taken.suspect:
            self._give_back()
        run_taken(key, self._taken.token, self._using, self._ended)
        return 1

    def _give_back(self) -> None:
        if not (keys := all_from(self._keys)):
            return
        try:
            give_back(WorkflowExecutionRecord.objects.using(self._using), self._taken.token, keys)
        except Exception:
            logger.exception("%d executions could not be given back; they run later", len(keys))

    def _attend(self) -> None:
        """Executions of one turn often have one parent: it looks once for all of them."""
        if keys := all_from(self._ended):
            attend_to(keys, self._using, run_here)
