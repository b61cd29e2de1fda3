"""The steps of one stored execution's run: `durable`'s store, in tables, fenced by the claim."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

from django.db import connections, transaction

from general_manager.workflow.connections import persist, refresh
from general_manager.workflow.engine import HistoryKind
from general_manager.workflow.exceptions import HandlerNotImportableError
from general_manager.workflow.local_handlers import find_handler
from general_manager.workflow.models import (
    WorkflowExecutionRecord,
    WorkflowHistory,
    WorkflowStep,
)
from general_manager.workflow.models.step import StepQuerySet
from general_manager.workflow.runs import StopRun
from general_manager.workflow.steps import StepRecord, StepStatus
from general_manager.workflow.transactions import own_transaction


class DatabaseRunStore:
    """Keeps steps beside their execution, on the same database.

    Each write may be repeated over a fresh connection: what is there already, under the claim that
    this run holds, was written by it.
    """

    def __init__(self, record: WorkflowExecutionRecord, using: str) -> None:
        self.using: str | None = using
        self.uncalled: str | None = None
        """A `once=True` step that may be recorded as begun, and was not called."""
        self._record = record
        self._using = using
        self._is_inside = False
        self._block = own_transaction(using)
        self._began = monotonic()
        self._position = 0
        """The latest place in the order of outcomes that this run knows."""
        self._outside: dict[str, dict[str, Any]] = {}
        """What was recorded outside of a step's transaction, and stands whatever is undone."""

    def load(self) -> dict[str, StepRecord]:
        """All recorded steps, in one query; a first run has none, and asks nothing."""
        if self._record.runs == 1:
            return {}
        rows = self._rows.filter(execution_id=self._record.pk)
        found = persist(self._using, lambda: list(rows))
        known = {row.name: row.as_record() for row in found}
        self._position = max((one.position for one in known.values()), default=0)
        return known

    def check(self) -> None:
        held = WorkflowExecutionRecord.objects.using(self._using).held(self._record)
        if not persist(self._using, held.exists):
            raise self._lost()
        self._began = monotonic()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Step and checkpoint commit together; `finish` asks, in it, who owns the execution."""
        refresh(connections[self._using])
        self._block = own_transaction(self._using)
        self._is_inside = True
        self._began = monotonic()
        try:
            with self._block:
                yield
        finally:
            self._is_inside = False

    def was_undone_by_the_database(self, error: BaseException) -> bool:
        return self._block.was_undone_by_the_database(error)

    def write_back(self) -> None:
        """After a rollback in a caller's transaction: what happened outside happened."""
        for name, values in self._outside.items():
            self._rows.add(self._record, name, **values)

    def begin(self, name: str) -> None:
        begun = StepStatus.BEGUN
        values: dict[str, Any] = {"status": begun, "once": True, "position": self._next()}
        self.uncalled = name
        if not self._written(lambda: self._rows.add(self._record, name, **values), name, begun):
            raise self._lost()
        self.uncalled = None
        self._outside[name] = values

    def finish(self, name: str, result: Any) -> None:
        rows, done = self._rows, StepStatus.DONE
        values: dict[str, Any] = {"status": done, "result": result, "position": self._next()}
        took = timedelta(seconds=monotonic() - self._began)

        def write() -> bool:
            added = rows.add(self._record, name, took=took, **values)
            return added or rows.finish(self._record, name, result, self._position)

        if self._is_inside:
            if not write():
                raise self._lost()
        else:
            if not self._written(write, name, done):
                raise self._lost()
            self._outside[name] = {**self._outside.get(name, {}), **values}
        executions = WorkflowExecutionRecord.objects.using(self._using)
        persist(self._using, lambda: executions.progressed(self._record))

    def open_wait(self, name: str, *, timeout: timedelta | None, answerable: bool) -> StepRecord:
        if find_handler(self._record.execution_id) is not None:
            # Before anything is asked: no later run could go on from the answer.
            path = str(self._record.handler_path)
            raise HandlerNotImportableError(self._record.workflow_id, path)
        return persist(self._using, lambda: self._open_wait(name, timeout, answerable=answerable))

    def settle_wait(self, name: str) -> StepRecord:
        return persist(self._using, lambda: self._settle_wait(name))

    def _open_wait(self, name: str, timeout: timedelta | None, *, answerable: bool) -> StepRecord:
        executions = WorkflowExecutionRecord.objects.using(self._using)
        with transaction.atomic(using=self._using):
            if not self._rows.add(
                self._record, name, StepStatus.OPEN, position=0, answerable=answerable
            ):
                return self._known(name)
            wait = self._rows.open_wait(self._record, name, timeout).as_record()
            if answerable:
                row = executions.filter(pk=self._record.pk)
                row.update(waiting_for=name, waiting_since=wait.started_at)
            return wait

    def _settle_wait(self, name: str) -> StepRecord:
        self.check()
        ended = self._rows.time_out(self._record, name, self._position + 1)
        wait = self._rows.get(execution_id=self._record.pk, name=name).as_record()
        self._position = max(self._position, wait.position)
        if ended:
            executions = WorkflowExecutionRecord.objects.using(self._using)
            executions.progressed(self._record)
            if wait.answerable:
                executions.stopped_asking(self._record, name)
                history = WorkflowHistory.objects.using(self._using)
                history.note(
                    HistoryKind.WAIT_TIMED_OUT, execution=self._record, detail=name, step=name
                )
        return wait

    def _next(self) -> int:
        self._position += 1
        return self._position

    def _written(self, write: Callable[[], bool], name: str, status: StepStatus) -> bool:
        if persist(self._using, write):
            return True
        try:
            return self._known(name).status is status
        except StopRun:
            return False

    def _known(self, name: str) -> StepRecord:
        """What this run has written under *name* already; raises `StopRun` if it has not."""
        held = WorkflowExecutionRecord.objects.using(self._using).held(self._record)
        rows = self._rows.filter(execution_id=self._record.pk, name=name)
        row = persist(self._using, lambda: rows.first() if held.exists() else None)
        if row is None:
            raise self._lost()
        return row.as_record()

    @property
    def _rows(self) -> StepQuerySet:
        return WorkflowStep.objects.using(self._using)

    def _lost(self) -> StopRun:
        return StopRun(f"execution {self._record.execution_id} is not this run's any more")
