"""The steps of one run in the local engine's memory, fenced like rows in a database."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections, router

from general_manager.conf import is_configured
from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_records import Record
from general_manager.workflow.engine import HistoryKind
from general_manager.workflow.runs import StopRun
from general_manager.workflow.steps import StepRecord, StepStatus
from general_manager.workflow.transactions import caller_savepoints, own_transaction


class MemoryRunStore:
    """The steps of one run, in the engine's memory; fenced like rows in a database."""

    def __init__(self, memory: ExecutionMemory, record: Record, run_number: int) -> None:
        self.using: str | None = _home() if is_configured() else None
        self._memory = memory
        self._record = record
        self._run_number = run_number
        self._block: own_transaction | None = None
        self._finished: list[str] = []
        """Steps of this run that a rollback would undo."""

    def load(self) -> dict[str, StepRecord]:
        with self._memory.lock:
            return dict(self._record.steps)

    def check(self) -> None:
        with self._fenced():
            pass

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A database transaction where there is a database; the step is forgotten if it fails.

        Once it has committed the step is done, whatever an ``on_commit`` hook raises then.
        """
        self.check()
        done, attempts = len(self._finished), self._record.attempts
        has_database = self.using is not None and _has_database(self.using)
        self._block = own_transaction(self.using) if self.using and has_database else None
        try:
            with self._block or nullcontext():
                yield
        except BaseException:
            self._undo(self._finished[done:], attempts)
            raise

    def was_undone_by_the_database(self, error: BaseException) -> bool:
        return self._block is not None and self._block.was_undone_by_the_database(error)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Inside a caller's transaction, a run that fails undoes its writes and its steps."""
        savepoints = caller_savepoints()
        if savepoints is None:
            yield
            return
        attempts = self._record.attempts
        try:
            with savepoints:
                yield
        except BaseException:
            self._undo(self._finished, attempts)
            raise

    def _undo(self, names: list[str], attempts: int) -> None:
        """Forget the steps whose writes were rolled back; never an answer, nor a `once` step."""
        with self._memory.lock:
            for name in names:
                del self._record.steps[name]
            self._record.attempts = attempts
            self._finished = [name for name in self._finished if name not in names]

    def begin(self, name: str) -> None:
        with self._fenced():
            self._record.keep(name, StepStatus.BEGUN, self._memory.clock(), once=True)

    def finish(self, name: str, result: Any) -> None:
        with self._fenced():
            if name not in self._record.steps:  # else it was begun, to run once: that stands
                self._finished.append(name)
            self._record.attempts = 0  # it made progress: its budget of attempts starts anew
            self._record.keep(name, StepStatus.DONE, self._memory.clock(), result=result)

    def open_wait(self, name: str, *, timeout: timedelta | None, answerable: bool) -> StepRecord:
        now = self._memory.clock()
        until = None if timeout is None else now + timeout
        with self._fenced():
            wait = StepRecord(
                name, StepStatus.OPEN, until=until, answerable=answerable, started_at=now
            )
            self._record.steps[name] = wait
            if answerable:
                self._record.waiting_for, self._record.waiting_since = name, now
        return wait

    def settle_wait(self, name: str) -> StepRecord:
        with self._fenced():
            wait = self._record.steps[name]
            now = self._memory.clock()
            is_due = wait.until is not None and wait.until <= now
            if wait.status is StepStatus.OPEN and is_due:
                wait = self._record.keep(name, StepStatus.TIMED_OUT, now)
                self._record.waiting_for = self._record.waiting_since = None
                if wait.answerable:
                    kind = HistoryKind.WAIT_TIMED_OUT
                    self._memory.note(self._record, kind, name, step=name)
            return wait

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        with self._memory.lock:
            if not self._memory.is_running(self._record, self._run_number):
                raise StopRun(f"execution {self._record.execution_id} is {self._record.state}")
            yield


def _home() -> str:
    """Where executions would live in production: atomic steps write there in both modes."""
    if not apps.is_installed("general_manager"):
        return DEFAULT_DB_ALIAS
    return router.db_for_write(apps.get_model("general_manager", "WorkflowExecutionRecord"))


def _has_database(alias: str) -> bool:
    """Whether a step could write to that database at all.

    Local mode works without one: none configured, none running, or a test that may not touch it.
    A step that does need it then says so itself.
    """
    try:
        connections[alias].cursor().close()
    except Exception:  # noqa: BLE001 - each of those cases has an exception of its own
        return False
    return True
