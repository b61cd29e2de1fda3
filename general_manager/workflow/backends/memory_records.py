"""The record of an execution in the local engine's memory."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.core.limits import Line
from general_manager.workflow.durable.children.specs import ChildOutcome
from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.durable.records import OPEN_SAGA, StepRecord, StepStatus
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    ChildCount,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowHandler,
    WorkflowState,
    waiting_values,
)
from general_manager.workflow.event_registry.mailbox import next_mark
from general_manager.workflow.exceptions import PermanentFailure
from general_manager.workflow.executions.handler_modules import resolve_handler
from general_manager.workflow.history import HistoryEntry

Clock = Callable[[], datetime]
ENDS_OF_STEPS: Final = (
    StepStatus.DONE, StepStatus.TIMED_OUT, StepStatus.FAILED, StepStatus.CLOSED,
    StepStatus.UNDONE, StepStatus.INCOMPLETE,
)  # fmt: skip
"""Statuses of steps that have ended."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class MemorySlot:
    """The place of one child in a gather. Read and write it under the memory's lock only."""

    place: int
    key: str
    workflow_id: str
    child: str
    """The child's chain."""
    is_own: bool = True
    """Its parent started it, rather than joining it by its correlation id."""
    is_held: bool = False
    is_stopped: bool = False
    outcome: ChildOutcome | None = None


@dataclass(slots=True, eq=False)
class Record:
    """One execution in the engine's memory. Read and write it under the memory's lock only."""

    execution_id: str
    definition: WorkflowDefinition
    input_data: dict[str, Any]
    correlation_id: str | None
    metadata: dict[str, Any]
    subject: str | None = None
    """The business object that it is about, if there is one."""
    caused_by: str | None = None
    """Id of the event whose handler started it, if one did."""
    attributes: dict[str, Any] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    """Its place in the order of starts."""
    state: WorkflowState = WorkflowState.PENDING
    output_data: dict[str, Any] | None = None
    error: str | None = None
    traceback: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    wake_at: datetime | None = None
    waiting_for: str | None = None
    waiting_since: datetime | None = None
    ending: Ending | None = None
    """How it is to end, once its sagas are undone."""
    attempts: int = 0
    run_number: int = 0
    steps: dict[str, StepRecord] = field(default_factory=dict)
    position: int = 0
    """The last position in the order of outcomes."""
    deadline: datetime | None = None
    """When it must have ended, if its workflow has a deadline."""
    parked_at: datetime | None = None
    """Since when it is parked, because its workflow is paused."""
    deadline_left: timedelta | None = None
    """What was left of its deadline when it was parked."""
    renewal: "Record | None" = None
    """The execution as which it continued as new."""
    chain: str = ""
    """The id of the first execution of its chain."""
    history: list[HistoryEntry] = field(default_factory=list)
    parent: str | None = None
    """The id of the execution that started it as its child."""
    root: str | None = None
    """The id of the first of its ancestors."""
    depth: int = 0
    abandoned: bool = False
    """It goes on if its parent is cancelled or fails."""
    is_held: bool = False
    """It waits until another child of its gather is over."""
    slots: dict[str, dict[int, MemorySlot]] = field(default_factory=dict)
    """Its children, by gather and place."""
    mark: int = 0
    """When the first execution of its chain was started, among events."""
    mailbox: Any = None
    """Where events look for its open wait, if they do."""
    subscription: tuple[str, str] = ("", "")
    """Under which name they find it there."""
    waiting_mark: int = 0
    """When that wait was opened, among events."""
    line: Line | None = None
    """The line of its workflow's limit, if there is one."""
    in_line: bool = False
    """Whether it is in that line, or was there as it ended."""
    has_token: bool = False
    """Whether it has started, and so counts for the rate already."""
    has_slot: bool = False
    """Whether the execution that it continues left it its slot."""

    def __post_init__(self) -> None:
        self.chain = self.chain or self.execution_id
        self.mark = next_mark()

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES

    @property
    def waits_for_slot(self) -> bool:
        is_ready = self.state is WorkflowState.PENDING and self.wake_at is None
        return self.in_line and is_ready and self.parked_at is None

    @property
    def timers(self) -> list[datetime]:
        """When something happens to it on its own."""
        times = (self.wake_at, self.deadline if self.is_active else None)
        return [one for one in times if one is not None]

    @property
    def is_for_later(self) -> bool:
        """It was started for a time that has not come."""
        return self.state is WorkflowState.PENDING and not self.run_number

    @property
    def open_sagas(self) -> list[str]:
        """Sagas that have begun, and are neither closed nor undone."""
        return [name for name, one in self.steps.items() if one.status in OPEN_SAGA]

    @property
    def left_undone(self) -> list[str]:
        """Undos that have not run, of sagas that are being undone."""
        undoing = [one for one in self.steps.values() if one.status is StepStatus.UNDOING]
        names = [name for one in undoing for name in one.result["undos"]]
        done = {name for name, one in self.steps.items() if one.status is StepStatus.DONE}
        return [name for name in reversed(names) if name not in done]

    @property
    def gathering(self) -> ChildCount | None:
        """The children that it waits for, if it does."""
        if self.state is not WorkflowState.WAITING or not self.slots:
            return None
        waits = (name for name, one in self.steps.items() if one.status is StepStatus.GATHERING)
        name = next(waits, None)
        if name is None:
            return None
        slots = self.slots.get(name, {})
        over = sum(one.outcome is not None for one in slots.values())
        return ChildCount(name, over, len(slots))

    def move_timers(self, by: timedelta) -> None:
        if self.wake_at is not None:
            self.wake_at -= by
        if self.deadline is not None:
            self.deadline -= by
        for name, step in self.steps.items():
            if step.until is not None:
                self.steps[name] = replace(step, until=step.until - by)

    def unsubscribe(self) -> None:
        """Its wait has an outcome, or it has ended: no event looks for it any more."""
        if self.mailbox is not None:
            self.mailbox.unsubscribe(self.subscription)
            self.mailbox = None

    def to_end(self, ending: Ending) -> None:
        """It is to undo and to end. Its deadline would stop the undos, and no longer counts."""
        self.ending, self.deadline, self.deadline_left = ending, None, None

    def keep(self, name: str, status: StepStatus, now: datetime, **values: Any) -> StepRecord:
        """Write the latest outcome to the record of *name*."""
        known = self.steps.get(name) or StepRecord(name, status, started_at=now)
        self.position += 1
        ended = now if status in ENDS_OF_STEPS else None
        step = replace(known, status=status, position=self.position, finished_at=ended, **values)
        self.steps[name] = step
        return step

    def snapshot(self, *, with_children: bool = False) -> WorkflowExecution:
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
            starts_at=self.wake_at if self.is_for_later else None,
            deadline=self.deadline if self.is_active else None,
            subject=self.subject,
            attributes=dict(self.attributes),
            paused_since=self.parked_at,
            parent_id=self.parent,
            root_id=self.root,
            depth=self.depth,
            children=self.gathering if with_children else None,
            in_line_for=self.line.label if self.waits_for_slot and self.line else None,
            **waiting_values(self.state, self.waiting_for, self.waiting_since, self.wake_at),
        )


def forget_watchers(watchers: dict[str, list[tuple[Record, str]]], record: Record) -> None:
    """*record*, which is forgotten, waits for no chain any more."""
    for chain in {one.child for slots in record.slots.values() for one in slots.values()}:
        left = [one for one in watchers.pop(chain, ()) if one[0] is not record]
        if left:
            watchers[chain] = left


def family_of(record: Record) -> dict[str, Any]:
    """What passes to whatever goes on for a child."""
    return {name: getattr(record, name) for name in ("parent", "root", "depth", "abandoned")}


def facts_of(record: Record) -> dict[str, Any]:
    """What the event of its end says."""
    names = ("execution_id", "correlation_id", "subject", "attributes", "error", "caused_by")
    facts = {name: getattr(record, name) for name in names}
    return {**facts, "workflow_id": record.definition.workflow_id}


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
