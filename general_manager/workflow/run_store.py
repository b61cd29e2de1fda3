"""The steps of one stored execution's run: `durable`'s store, in tables, fenced by the claim."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from general_manager.atomic import honest_atomic
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


class DatabaseRunStore:
    """Keeps steps beside their execution, on the same database."""

    def __init__(self, record: WorkflowExecutionRecord, using: str) -> None:
        self._record = record
        self._using = using
        self._is_inside = False
        self._began: datetime | None = None
        self._position = 0
        """The latest place in the order of outcomes that this run knows."""
        self._outside: dict[str, dict[str, Any]] = {}
        """What was recorded outside of a step's transaction, and stands whatever is undone."""

    def load(self) -> dict[str, StepRecord]:
        """All recorded steps, in one query; a first run has none, and asks nothing."""
        if self._record.runs == 1:
            return {}
        rows = self._rows.filter(execution_id=self._record.pk)
        known = {row.name: row.as_record() for row in rows}
        self._position = max((one.position for one in known.values()), default=0)
        return known

    def check(self) -> None:
        executions = WorkflowExecutionRecord.objects.using(self._using)
        if not executions.held(self._record).exists():
            raise self._lost()
        self._began = timezone.now()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Step and checkpoint commit together; `finish` asks, in it, who owns the execution."""
        self._is_inside = True
        self._began = timezone.now()
        try:
            with honest_atomic(self._using):
                yield
        finally:
            self._is_inside = False

    def write_back(self) -> None:
        """After a rollback in a caller's transaction: what happened outside happened."""
        for name, values in self._outside.items():
            self._rows.add(self._record, name, **values)

    def begin(self, name: str) -> None:
        values: dict[str, Any] = {"status": StepStatus.BEGUN, "once": True}
        values["position"] = self._next()
        if not self._rows.add(self._record, name, **values):
            raise self._lost()
        self._outside[name] = values

    def finish(self, name: str, result: Any) -> None:
        rows = self._rows
        values: dict[str, Any] = {"status": StepStatus.DONE, "result": result}
        values["position"] = self._next()
        added = rows.add(self._record, name, began=self._began, **values)
        if not added and not rows.finish(self._record, name, result, self._position):
            raise self._lost()
        if not self._is_inside:
            self._outside[name] = {**self._outside.get(name, {}), **values}
        WorkflowExecutionRecord.objects.using(self._using).progressed(self._record)

    def open_wait(self, name: str, *, timeout: timedelta | None, answerable: bool) -> StepRecord:
        if find_handler(self._record.execution_id) is not None:
            # Before anything is asked: no later run could go on from the answer.
            path = str(self._record.handler_path)
            raise HandlerNotImportableError(self._record.workflow_id, path)
        executions = WorkflowExecutionRecord.objects.using(self._using)
        with transaction.atomic(using=self._using):
            if not self._rows.add(
                self._record, name, StepStatus.OPEN, position=0, answerable=answerable
            ):
                raise self._lost()
            wait = self._rows.open_wait(self._record, name, timeout).as_record()
            if answerable:
                row = executions.filter(pk=self._record.pk)
                row.update(waiting_for=name, waiting_since=wait.started_at)
            return wait

    def settle_wait(self, name: str) -> StepRecord:
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

    @property
    def _rows(self) -> StepQuerySet:
        return WorkflowStep.objects.using(self._using)

    def _lost(self) -> StopRun:
        return StopRun(f"execution {self._record.execution_id} is not this run's any more")
