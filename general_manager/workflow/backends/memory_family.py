"""What the end of an execution in memory causes: those that wait for it, and its children.

It waits for the work in progress, so that the stack stays flat.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from general_manager.escaping import get_logger
from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_children import (
    MemoryFound,
    children_to_stop,
    look,
    looks_after,
    start,
    stop,
)
from general_manager.workflow.backends.memory_records import Record, facts_of
from general_manager.workflow.backends.memory_sagas import MemorySagas
from general_manager.workflow.core.context import current_run
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.durable.children.specs import (
    Child,
    ChildOutcome,
    GatherOptions,
    require_depth,
)
from general_manager.workflow.durable.records import StepRecord, StepStatus
from general_manager.workflow.engine import TERMINAL_STATES, WorkflowState
from general_manager.workflow.event_registry import EventRegistry
from general_manager.workflow.events import WorkflowEvent
from general_manager.workflow.executions.end_events import end_event, registry_for

Act = Callable[[], object]

_line: Final[ContextVar[deque[Act] | None]] = ContextVar("general_manager_memory", default=None)

logger = get_logger(__name__)


def run_line(first: Act) -> None:
    """Do *first*, then everything that it has asked for with `soon`, and so on.

    At once, though other work may be in progress: that of a child of an execution that is
    cancelled, for example, which is to end with it.
    """
    line: deque[Act] = deque([first])
    token = _line.set(line)
    try:
        while line:
            line.popleft()()
    finally:
        _line.reset(token)


def soon(act: Act) -> None:
    """Do *act* after the work in progress; at once if there is none."""
    line = _line.get()
    if line is None:
        run_line(act)
    else:
        line.append(act)


class Runs(Protocol):
    memory: ExecutionMemory

    def notify(self, state: WorkflowState, record: Record) -> None: ...

    def run_with_renewals(self, record: Record) -> None: ...


def follow(runs: Runs, found: MemoryFound) -> None:
    """Run what may run, and cancel what is to be stopped; after the work in progress."""
    for child in found.stop:
        _stop(runs, child, "Its parent needs it no longer.")
    for record in found.ready:
        soon(partial(_run, runs, record))


def attend(runs: Runs, ended: Record) -> None:
    """Notify those that wait for an execution that has ended, and stop its children."""
    for found in looks_after(runs.memory, ended):
        follow(runs, found)
    is_plain = ended.state is WorkflowState.CANCELLED and ended.ending is None
    for child in children_to_stop(runs.memory, ended):
        reason = f"Its parent {ended.execution_id} is {ended.state}."
        _stop(runs, child, reason, compensate=not is_plain)


def _run(runs: Runs, record: Record) -> None:
    runs.notify(WorkflowState.PENDING, record)
    runs.run_with_renewals(record)


def _stop(runs: Runs, child: Record, reason: str, *, compensate: bool = True) -> None:
    stopped = stop(runs.memory, child, reason, compensate=compensate)
    if stopped is None:
        return
    if stopped.is_over:
        runs.notify(WorkflowState.CANCELLED, child)
    soon(partial(runs.run_with_renewals, child))  # to undo; or those that wait for its slot


class MemoryChildren(MemorySagas):
    """The part of a `RunStore` that concerns children."""

    follow: Callable[[MemoryFound], None]
    """Does what follows from a look."""

    def start_children(self, name: str, children: Sequence[Child], options: GatherOptions) -> None:
        require_depth(name, self._record.depth)
        with self._fenced():
            self._require_not_ending()
            ready = start(self._memory, self._record, name, children, options)
            self._open_gather(name, options)
        self.follow(MemoryFound(ready))

    def _open_gather(self, name: str, options: GatherOptions) -> None:
        now = self._memory.clock()
        self._record.steps[name] = StepRecord(
            name,
            StepStatus.GATHERING,
            result=options.to_json(),
            until=None if options.timeout is None else now + options.timeout,
            position=self._record.position + 1,
            started_at=now,
        )

    def look_at_children(self, name: str) -> StepRecord:
        return self._look_at_gather(name, may_time_out=True)

    def close_children(self, name: str) -> StepRecord | None:
        with self._fenced():
            record = self._record
            if name not in record.slots:
                return None
            if name not in record.steps:
                self._open_gather(name, GatherOptions())
            step = record.steps[name]
            if step.status is StepStatus.GATHERING:
                record.steps[name] = replace(step, result={**step.result, "closes": True})
        return self._look_at_gather(name)

    def stop_late_children(self, name: str) -> None:
        self._look_at_gather(name)

    def child_outcomes(self, name: str) -> list[ChildOutcome]:
        with self._memory.lock:
            slots = sorted(self._record.slots[name].values(), key=lambda one: one.place)
            found = [one.outcome for one in slots if one.outcome is not None]
            return [replace(one, output=copy_encoded(one.output)) for one in found]

    def _look_at_gather(self, name: str, *, may_time_out: bool = False) -> StepRecord:
        with self._fenced():
            found = look(self._memory, self._record, name, may_time_out=may_time_out)
        self.follow(found)
        with self._fenced():
            return self._record.steps[name]


def emit(state: WorkflowState, record: Record, at: datetime) -> None:
    """Publish the event of *record*, if it has ended in *state* and somebody registered for it.

    Inside an atomic step the event waits for its commit. If the step is rolled back, the execution
    has ended all the same, so it is published then.
    """
    registry = registry_for(state) if state in TERMINAL_STATES else None
    event = None if registry is None else end_event(state, at=at, **facts_of(record))
    if registry is None or event is None:
        return
    publish = partial(_publish, registry, event, record.execution_id)
    if (run := current_run()) is not None:
        run.do_again_if_undone(publish)
    publish()


def _publish(registry: EventRegistry, event: WorkflowEvent, execution_id: str) -> None:
    try:
        registry.publish(event)
    except Exception:  # the end is no failure of the caller's
        logger.exception("The end of execution %s was not emitted", execution_id)
