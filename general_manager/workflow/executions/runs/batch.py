"""A batch: executions that one statement has begun, and one statement completes.

Their handlers are called one after the other. What completes is written when the batch is over, or
by another thread if a handler takes long. An end that the statement does not find is written by
itself, as if there were no batch.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from os import getpid
from threading import Lock
from time import monotonic
from typing import Any, Final, TypeAlias, TypeVar

from general_manager.conf import get_workflow_settings
from general_manager.database_errors import is_lost_connection
from general_manager.escaping import get_logger
from general_manager.workflow.core.connections import PERSIST_SECONDS, persist, unit_of_work
from general_manager.workflow.core.leases import renewing
from general_manager.workflow.durable.stops import Interrupted
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions.end_events import registry_for
from general_manager.workflow.executions.runs.outcomes import settle_completed
from general_manager.workflow.executions.settling import leave_if_possible, notify
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.executions.batches import (
    begin_together,
    complete_together,
    give_back_begun,
)
from general_manager.workflow.transport.nudges import nudge

logger = get_logger(__name__)

Item = TypeVar("Item")
Done: TypeAlias = tuple[WorkflowExecutionRecord, dict[str, Any]]
"""An execution whose handler has returned, and its output."""

MOST_IN_A_BATCH: Final = 20
"""Executions that are begun together at most."""

BATCH_SECONDS: Final = 0.1
"""After so long no further handler of a batch is called: its ends wait to be written, and what was
cancelled or given to others meanwhile would be called all the same."""


class Batch:
    """Executions of one worker, under one claim, in the order in which they run."""

    def __init__(self, using: str, token: str, keys: Sequence[int]) -> None:
        """Begin those of *keys* that can be begun together."""
        self._using = using
        self._token = token
        self._rows = WorkflowExecutionRecord.objects.using(using)
        self._done: deque[Done] = deque()
        self._writing = Lock()
        self._process = getpid()
        lease = get_workflow_settings().execution_lease
        try:
            with unit_of_work():
                begun = begin_together(self._rows, keys, token, lease=lease)
        except BaseException:  # perhaps from a signal, after it has begun them
            self._give_back(keys)
            raise
        self._began = monotonic()
        self.keys = frozenset(begun)
        """What it has begun."""
        for record in begun.values():
            record.batch = self
        self._uncalled: deque[WorkflowExecutionRecord] = deque(begun.values())

    @property
    def is_ours(self) -> bool:
        """False in a process that a handler has forked."""
        return getpid() == self._process

    def next(self) -> WorkflowExecutionRecord | None:
        """The next one to call, if there is one and time for it."""
        if monotonic() - self._began < BATCH_SECONDS and self.is_ours:
            with suppress(IndexError):  # they were given back meanwhile
                return self._uncalled.popleft()
        return None

    def take_end(self, record: WorkflowExecutionRecord, output: dict[str, Any]) -> bool:
        """Take *record*, whose handler returned *output*; false if its end has more to write."""
        if registry_for(WorkflowState.COMPLETED) is not None:
            return False
        self._done.append((record, output))
        return True

    def give_back(self, *uncalled: WorkflowExecutionRecord) -> None:
        """Give back what was not called, and *uncalled*; in any thread."""
        if self.is_ours:
            self._give_back([one.pk for one in (*uncalled, *all_from(self._uncalled))])

    def _give_back(self, keys: Sequence[int]) -> None:
        if not keys:
            return
        try:
            with unit_of_work():
                persist(self._using, lambda: give_back_begun(self._rows, self._token, keys))
        except Exception:
            logger.exception("%d executions could not be given back; they run later", len(keys))

    def write(self, ended: deque[int], *, waits: bool = True) -> None:
        """Complete what has come to its end; in any thread, by one at a time.

        Adds the keys of those that others wait for to *ended*. If the database is away, they run
        again once their leases have ended. Unless it *waits*, it leaves them to another thread
        that is at it.
        """
        if not self.is_ours or not self._writing.acquire(timeout=PERSIST_SECONDS if waits else 0):
            return
        left = deque[Done]()
        try:
            left.extend(all_from(self._done))
            if left:
                with unit_of_work():
                    self._write(left, ended)
        except BaseException:  # perhaps from a receiver that ends the process
            self._done.extendleft(reversed(left))
            raise
        finally:
            self._writing.release()

    def _write(self, left: deque[Done], ended: deque[int]) -> None:
        """Takes what is written from *left*."""
        awaited = self._complete(left) if len(left) > 1 else {}
        for record, _ in left:
            if awaited.get(record.pk):
                ended.append(record.pk)
        while left:
            record, output = left.popleft()
            if record.pk in awaited:
                notify(WorkflowState.COMPLETED, record, self._using)
            else:
                self._complete_alone(record, output)
                if record.leaves_duty:
                    ended.append(record.pk)

    def _complete(self, done: deque[Done]) -> dict[int, bool]:
        """Whether others wait for it, by the key of each that is completed now."""
        outputs = {record.pk: output for record, output in done}

        def write() -> dict[int, bool]:
            for record, _ in done:
                record.commits.require()
            return complete_together(self._rows, outputs, self._token)

        try:
            return persist(self._using, write)
        except (Exception, Interrupted) as error:
            if is_lost_connection(error):
                done.clear()
                raise
            logger.warning(
                "%d executions could not be completed together; one by one", len(done),
                exc_info=True,
            )  # fmt: skip
            return {}

    def _complete_alone(self, record: WorkflowExecutionRecord, output: dict[str, Any]) -> None:
        lease = get_workflow_settings().execution_lease
        with renewing(lambda: self._rows.renew(record, lease=lease), lease):
            try:
                state = settle_completed(record, self._using, output)
            except Interrupted as stopped:
                leave_if_possible(record, self._using, stopped.error)
                return
            except Exception as error:
                logger.exception("Execution %s was interrupted", record.execution_id)
                leave_if_possible(record, self._using, error)
                return
        if state is not None:
            notify(state, record, self._using)
        if state is WorkflowState.PENDING:  # it was asked to end, and undoes first
            nudge(self._using, record.queue)


def all_from(items: deque[Item]) -> list[Item]:
    """All of *items*, in their order, which are gone from there: another thread may do the same."""
    found: list[Item] = []
    with suppress(IndexError):
        while True:
            found.append(items.popleft())
    return found
