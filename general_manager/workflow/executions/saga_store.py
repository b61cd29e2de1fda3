"""Records the sagas of one run in the tables, fenced by the execution's claim."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from general_manager.workflow.core.local_handlers import find_handler
from general_manager.workflow.durable.ending import Ending, ending_of
from general_manager.workflow.durable.options import next_attempt_in
from general_manager.workflow.durable.records import StepRecord, StepStatus
from general_manager.workflow.durable.stops import EndRequested, StopRun
from general_manager.workflow.durable.undos import notify_undone
from general_manager.workflow.executions.commits import StepCommits
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.execution_sagas import begin_undoing, close_saga, end_undoing
from general_manager.workflow.models.executions.ending import asked_to_end
from general_manager.workflow.models.step import StepQuerySet


class SagaStore:
    """The part of a `RunStore` that concerns sagas; and what all of it needs."""

    def __init__(self, record: WorkflowExecutionRecord, using: str) -> None:
        self.ending: Ending | None = ending_of(record.ending)
        self.saga: str | None = None
        self._record = record
        self._using = using
        self._commits = record.commits = StepCommits(record, using)
        self._position = 0
        """The last position in the order of outcomes that this run knows."""

    def has_next_attempt(self, error: BaseException) -> bool:
        record = self._record
        if record.retry is None or find_handler(record.execution_id) is not None:
            return False
        attempts = self._commits.persist(lambda: self._executions.attempts_of(record))
        return next_attempt_in(record.retry, attempts + 1, error) is not None

    def open_saga(self, name: str) -> None:
        position = self._next()
        add = partial(
            self._rows.add, self._record, name, StepStatus.SAGA,
            position=position, result={"opened": position}, saga=name,
        )  # fmt: skip
        if not (self._commits.persist(add) or self._known(name).is_saga):
            raise self._lost()

    def close_saga(self, name: str) -> None:
        close = partial(close_saga, self._executions, self._record, name, self._next())
        if not self._commits.persist(close):
            self._require_not_ending()
            raise self._lost()

    def begin_undoing(self, name: str, failure: dict[str, Any], undos: Sequence[str]) -> None:
        self._write(begin_undoing, name, failure=failure, undos=undos)

    def end_undoing(self, name: str, left: Sequence[str]) -> None:
        self._write(end_undoing, name, left=left)
        notify_undone(self._record.execution_id, self._record.workflow_id, name, left)

    def _write(self, write: Callable[..., bool], name: str, **values: Any) -> None:
        call = partial(write, self._executions, self._record, name, position=self._next(), **values)
        if not self._commits.persist(call):
            raise self._lost()

    def _require_not_ending(self) -> None:
        """Raises `EndRequested` if the execution was asked to end, unless an undo is called."""
        if self.saga is not None:
            return
        ending = self._commits.persist(lambda: asked_to_end(self._executions, self._record))
        if ending is not None:
            raise EndRequested(ending)

    def _known(self, name: str) -> StepRecord:
        """The row that this run has written under *name*; raises `StopRun` if there is none."""
        held = self._executions.held(self._record)
        rows = self._rows.filter(execution_id=self._record.pk, name=name)
        row = self._commits.persist(lambda: rows.first() if held.exists() else None)
        if row is None:
            raise self._lost()
        return row.as_record()

    def _next(self) -> int:
        self._position += 1
        return self._position

    @cached_property
    def _executions(self) -> Executions:
        return WorkflowExecutionRecord.objects.using(self._using)

    @cached_property
    def _rows(self) -> StepQuerySet:
        return WorkflowStep.objects.using(self._using)

    def _lost(self) -> StopRun:
        return StopRun(f"this run no longer holds execution {self._record.execution_id}")
