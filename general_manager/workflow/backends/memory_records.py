"""Executions as the local engine's memory holds them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from general_manager.workflow.encoding import copy_encoded
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    HistoryEntry,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowHandler,
    WorkflowState,
    waiting_values,
)
from general_manager.workflow.exceptions import PermanentFailure
from general_manager.workflow.handler_modules import resolve_handler
from general_manager.workflow.steps import StepRecord, StepStatus

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class Record:
    """One execution, as the engine's memory holds it. Touch it under the memory's lock only."""

    execution_id: str
    definition: WorkflowDefinition
    input_data: dict[str, Any]
    correlation_id: str | None
    metadata: dict[str, Any]
    subject: str | None = None
    """What the event is about that started it, if one did and says so."""
    state: WorkflowState = WorkflowState.PENDING
    output_data: dict[str, Any] | None = None
    error: str | None = None
    traceback: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    wake_at: datetime | None = None
    waiting_for: str | None = None
    waiting_since: datetime | None = None
    attempts: int = 0
    run_number: int = 0
    steps: dict[str, StepRecord] = field(default_factory=dict)
    position: int = 0
    """The latest place in the order of outcomes."""
    history: list[HistoryEntry] = field(default_factory=list)

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES

    def keep(self, name: str, status: StepStatus, now: datetime, **values: Any) -> StepRecord:
        """Write an outcome, as the latest of all, over what is known of *name*."""
        known = self.steps.get(name) or StepRecord(name, status, started_at=now)
        self.position += 1
        ended = None if status is StepStatus.BEGUN else now
        step = replace(known, status=status, position=self.position, finished_at=ended, **values)
        self.steps[name] = step
        return step

    def snapshot(self) -> WorkflowExecution:
        return WorkflowExecution(
            execution_id=self.execution_id,
            workflow_id=self.definition.workflow_id,
            state=self.state,
            input_data=copy_encoded(self.input_data),
            output_data=copy_encoded(self.output_data),
            correlation_id=self.correlation_id,
            started_at=self.started_at,
            ended_at=self.ended_at,
            error=self.error,
            metadata=copy_encoded(self.metadata),
            traceback=self.traceback,
            **waiting_values(self.state, self.waiting_for, self.waiting_since, self.wake_at),
        )


def handler_of(record: Record) -> WorkflowHandler | None:
    if record.definition.handler is not None:
        return record.definition.handler
    path = record.definition.metadata.get("handler_path")
    if path is None:
        return None
    handler = resolve_handler(str(path))
    if not callable(handler):
        raise PermanentFailure(f'metadata["handler_path"] names {path!r}, which is not callable')
    return cast(WorkflowHandler, handler)
