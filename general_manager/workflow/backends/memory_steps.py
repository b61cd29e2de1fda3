"""Records the steps of one run in memory, fenced by the number of the run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections, router

from general_manager.conf import is_configured
from general_manager.guarding import attempt
from general_manager.names import APP_LABEL
from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_answers import settle, subscribe
from general_manager.workflow.backends.memory_family import MemoryChildren
from general_manager.workflow.backends.memory_records import Record
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.core.isolation import RunSavepoints
from general_manager.workflow.core.transactions import own_transaction
from general_manager.workflow.durable.answers.sources import Source
from general_manager.workflow.durable.errors import StepTimeout
from general_manager.workflow.durable.records import FailedAttempt, StepRecord, StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.history import HistoryKind


class MemoryRunStore(MemoryChildren):
    """Keeps the steps of one run in the engine's memory, fenced by the number of the run."""

    def __init__(
        self,
        memory: ExecutionMemory,
        record: Record,
        run_number: int,
        look: Callable[[Record], None],
    ) -> None:
        super().__init__(memory, record, run_number)
        self._look = look
        self.using: str | None = home() if is_configured() else None
        self._block: own_transaction | None = None

    def load(self) -> dict[str, StepRecord]:
        with self._memory.lock:
            return dict(self._record.steps)

    def check(self) -> None:
        with self._fenced():
            self._require_not_ending()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A database transaction if there is a database; the step is removed if it fails.

        After the commit the step is done, even if an ``on_commit`` hook raises.
        """
        self.check()
        done, attempts = len(self._written), self._record.attempts
        has_database = self.using is not None and _has_database(self.using)
        self._block = own_transaction(self.using) if self.using and has_database else None
        self._is_inside = True
        try:
            with self._block or nullcontext():
                yield
        except BaseException:
            self._undo(done, attempts)
            raise
        finally:
            self._is_inside = False

    def was_undone_by_the_database(self, error: BaseException) -> bool:
        return self._block is not None and self._block.was_undone_by_the_database(error)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Inside a caller's transaction, a failing run rolls back its writes and its steps."""
        attempts, savepoints = self._record.attempts, RunSavepoints()
        try:
            with savepoints:
                yield
        except BaseException:
            if savepoints.is_undone:
                self._undo(0, attempts)
            raise

    def _undo(self, kept: int, attempts: int) -> None:
        """Take back the steps that were rolled back, all but the first *kept* ones of this run.

        Never an answer, a `once` step, or a failure that was recorded by itself.
        """
        with self._memory.lock:
            for name, before in reversed(self._written[kept:]):
                del self._record.steps[name]
                if before is not None:
                    self._record.steps[name] = before
            self._record.attempts = attempts
            del self._written[kept:]

    def begin(self, name: str) -> None:
        with self._fenced():
            self._record.keep(name, StepStatus.STARTED, self._memory.clock(), once=True)

    def begin_attempt(self, name: str, timeout: timedelta) -> None:
        with self._fenced():
            self._require_not_ending()
            now = self._memory.clock()
            self._record.keep(name, StepStatus.RUNNING, now, until=now + timeout)

    def finish(self, name: str, result: Any, *, asked_inside: bool = False) -> None:
        del asked_inside
        with self._fenced():
            before, now = self._record.steps.get(name), self._memory.clock()
            limit = before.until if before and before.status is StepStatus.RUNNING else None
            if limit is not None and limit <= now:
                raise StepTimeout(name)  # nothing can interrupt it in the caller's own thread
            if before is None or before.status is not StepStatus.STARTED:
                self._written.append((name, before))
            self._record.attempts = 0  # progress: the retry budget starts again
            done = {"result": result, "failure": None, "until": None, "saga": self.saga}
            self._record.keep(name, StepStatus.DONE, now, **done)

    def fail(self, name: str, failure: dict[str, Any], attempts: int) -> None:
        with self._fenced():
            self._record.attempts = 0
            failed = {"failure": failure, "attempts": attempts, "until": None, "saga": self.saga}
            self._keep(name, StepStatus.FAILED, **failed)

    def postpone(self, attempt: FailedAttempt, delay: timedelta) -> None:
        with self._fenced():
            name, failure, number, is_new = attempt
            now = self._memory.clock()
            values = {"attempts": number, "failure": failure, "until": now + delay}
            self._record.keep(name, StepStatus.RETRYING, now, saga=self.saga, **values)
            self._record.state, self._record.wake_at = WorkflowState.PENDING, now + delay
            if is_new:
                kind, why = HistoryKind.ATTEMPT_FAILED, failure["text"]
                self._memory.note(self._record, kind, why, step=name, number=number)

    def is_due(self, name: str) -> bool:
        with self._fenced():
            until = self._record.steps[name].until
            if until is None or until <= self._memory.clock():
                return True
            self._record.state, self._record.wake_at = WorkflowState.PENDING, until
            return False

    def open_wait(
        self,
        name: str,
        *,
        timeout: timedelta | None,
        answerable: bool,
        suspends: bool,
        signal: str | None = None,
        sources: Sequence[Source] = (),
    ) -> StepRecord:
        del suspends  # recording it now costs nothing here
        now = self._memory.clock()
        until = None if timeout is None else now + timeout
        with self._fenced():
            wait = StepRecord(
                name,
                StepStatus.OPEN,
                until=until,
                position=self._record.position + 1,
                answerable=answerable,
                signal=(signal or name) if answerable and not sources else None,
                started_at=now,
                sources=[one.to_json() for one in sources],
            )
            subscribe(self._memory, self._record, name, sources, self._look)
            self._record.steps[name] = wait
            if answerable:
                self._record.waiting_for, self._record.waiting_since = name, now
                settle(self._memory, self._record)
            return self._record.steps[name]

    def settle_wait(self, name: str) -> StepRecord:
        with self._fenced():
            if self._record.steps[name].sources:
                settle(self._memory, self._record)  # until a timeout is written, an event wins
            wait = self._record.steps[name]
            now = self._memory.clock()
            is_due = wait.until is not None and wait.until <= now
            if wait.status is StepStatus.OPEN and is_due:
                wait = self._record.keep(name, StepStatus.TIMED_OUT, now)
                self._record.waiting_for = self._record.waiting_since = None
                self._record.unsubscribe()
                if wait.answerable:
                    kind = HistoryKind.WAIT_TIMED_OUT
                    self._memory.note(self._record, kind, name, step=name)
            return wait

    def write_reports(self, values: Mapping[str, Any], *, at_end: bool) -> bool:
        del at_end  # no transaction holds memory back
        with self._memory.lock:
            if self._memory.is_running(self._record, self._run_number):
                self._record.reports.update(copy_encoded(values))
        return True


def home() -> str:
    """The database of executions in production: atomic steps write there in both modes."""
    if not apps.is_installed(APP_LABEL):
        return DEFAULT_DB_ALIAS
    return router.db_for_write(apps.get_model(APP_LABEL, "WorkflowExecutionRecord"))


def _has_database(alias: str) -> bool:
    """Whether a step can write to that database.

    Local mode works without one: not configured, not running, or forbidden in a test. A step that
    needs it raises its own error then.
    """

    def ask() -> bool:
        connections[alias].cursor().close()
        return True

    return attempt(ask, otherwise=False)
