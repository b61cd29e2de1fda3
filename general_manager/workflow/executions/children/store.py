"""Records the children of one run in the tables, fenced by the execution's claim."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from general_manager.conf import get_workflow_settings
from general_manager.workflow.core.ids import new_id
from general_manager.workflow.core.limits import line_of
from general_manager.workflow.core.local_handlers import find_handler, keep_handler
from general_manager.workflow.core.observers import notify_state
from general_manager.workflow.durable.children.specs import (
    Child,
    ChildOutcome,
    GatherOptions,
    in_start_order,
    require_depth,
)
from general_manager.workflow.durable.records import StepRecord, StepStatus
from general_manager.workflow.engine import WorkflowState
from general_manager.workflow.executions import ending
from general_manager.workflow.executions.children.attending import Runnable, attend, follow
from general_manager.workflow.executions.children.handlers import error_of, stored_handler
from general_manager.workflow.executions.handler_modules import not_importable
from general_manager.workflow.executions.saga_store import SagaStore
from general_manager.workflow.models.children import look as looks
from general_manager.workflow.models.children.starting import (
    NewChild,
    find_cycles,
    mark_joined,
    settle_cycles,
    start_chunk,
)
from general_manager.workflow.models.children.states import in_chunks
from general_manager.workflow.models.children.table import SlotQuerySet, WorkflowChildSlot
from general_manager.workflow.models.executions.values import dedup_key, limit_values
from general_manager.workflow.transport.nudges import nudge


class ChildStore(SagaStore):
    """The part of a `RunStore` that concerns children."""

    def __init__(self, record: Any, using: str) -> None:
        super().__init__(record, using)
        self.to_run: list[Runnable] = []
        """What may run after this run."""

    def start_children(self, name: str, children: Sequence[Child], options: GatherOptions) -> None:
        record = self._record
        if find_handler(record.execution_id) is not None:
            raise not_importable(record.workflow_id, str(record.handler_path))
        require_depth(name, record.depth)
        known = self._known_places(name) if record.runs > 1 else set()
        keys = {
            place: key
            for place, one in enumerate(children)
            if (key := dedup_key(one.definition.workflow_id, one.correlation_id)) is not None
        }
        places = in_start_order(children, known, keys)
        for chunk in in_chunks(places):
            new = [self._new(place, children[place], keys.get(place)) for place in chunk]
            self._start(name, new, options)
        opening: dict[str, Any] = {
            "status": StepStatus.GATHERING, "position": self._next(), "result": options.to_json(),
            "timeout": options.timeout,
        }  # fmt: skip
        if not self._commits.persist(lambda: self._rows.add(record, name, **opening)):
            self._require_not_ending()
            self._known(name)

    def _known_places(self, name: str) -> set[int]:
        """Of children that an earlier run has started before it died, or that a repair has kept."""
        places = self._slots(name).values_list("place", flat=True)
        return set(self._commits.persist(lambda: list(places)))

    def _new(self, place: int, one: Child, key: str | None) -> NewChild:
        handler = stored_handler(one.definition)
        error = error_of(handler, one.definition, None)
        state = WorkflowState.PENDING
        if error is not None:
            state, key = WorkflowState.FAILED, None
        elif handler.path is None:
            state = WorkflowState.COMPLETED
        execution_id = new_id()
        if handler.own is not None:
            keep_handler(execution_id, handler.own)
        definition = one.definition
        values = {
            "execution_id": execution_id,
            "workflow_id": definition.workflow_id,
            "version": definition.version,
            "handler_path": None if error is not None else handler.path,
            "input_data": one.input_data,
            "output_data": {} if state is WorkflowState.COMPLETED else None,
            "metadata": {},
            "correlation_id": one.correlation_id,
            "dedup_key": key,
            "retry": None if definition.retry is None else definition.retry.to_json(),
            "timeout": definition.timeout,
            "lifetime": definition.deadline,
            "queue": definition.queue,
            "priority": definition.priority,
            "state": state,
            "error": error,
            **limit_values(
                line_of(definition.workflow_id, definition.limit, definition.rate, one.input_data)
            ),
        }
        return NewChild(place, one.key or str(place), one.abandon, values)

    def _start(self, name: str, new: Sequence[NewChild], options: GatherOptions) -> None:
        start = partial(
            start_chunk, self._executions, self._record, name, new,
            at_once=options.at_once, start_once=ending.start_once,
        )  # fmt: skip
        started = self._commits.persist(start)
        if started is None:
            raise self._lost()
        self._record.has_children = True
        for one in new:
            if one.place not in started.joined:
                notify_state(one.values["state"], partial(self._snapshot, one.execution_id))
        for one in started.ready:
            self._run_soon(one.execution_id, one.values["queue"], one.values.get("slot_key"))

    def _snapshot(self, execution_id: str) -> Any:
        return self._executions.get(execution_id=execution_id).snapshot()

    def look_at_children(self, name: str) -> StepRecord:
        self.check_claim()
        executions, record = self._executions, self._record
        self._commits.persist(lambda: mark_joined(executions, record, name))
        cycles = self._commits.persist(lambda: find_cycles(executions, record, name))
        if cycles:
            self._commits.persist(lambda: settle_cycles(executions, record, name, cycles))
        self._look_at_gather(name, may_time_out=True)
        return self._outcome(name)

    def close_children(self, name: str) -> StepRecord | None:
        opening = {
            "status": StepStatus.GATHERING,
            "position": self._next(),
            "result": GatherOptions().to_json(),
        }
        executions, record = self._executions, self._record
        close = partial(looks.close, executions, record, name, **opening)
        if not self._commits.persist(close):
            self.check_claim()
            return None
        self._look_at_gather(name)
        return self._outcome(name)

    def stop_late_children(self, name: str) -> None:
        slots = self._slots(name).open().filter(is_stopped=True)
        if self._commits.persist(slots.exists):
            self._look_at_gather(name)

    def child_outcomes(self, name: str) -> list[ChildOutcome]:
        return self._commits.persist(self._slots(name).outcomes)

    def _look_at_gather(self, name: str, *, may_time_out: bool = False) -> None:
        executions, key = self._executions, self._record.pk
        look = partial(looks.look, executions, key, name, may_time_out=may_time_out)
        found = self._commits.persist(look)
        ended = follow(executions, key, name, found, self._run_soon)
        attend(executions, ended, self._run_soon)

    def _outcome(self, name: str) -> StepRecord:
        found = self._known(name)
        self._position = max(self._position, found.position)
        return found

    def check_claim(self) -> None:
        """Raises `StopRun` if this run no longer holds the execution."""
        held = self._executions.held(self._record)
        if not self._commits.persist(held.exists):
            raise self._lost()

    def _slots(self, name: str) -> SlotQuerySet:
        return WorkflowChildSlot.objects.using(self._using).of(self._record.pk, name)

    def _run_soon(self, execution_id: str, queue: str, slot_key: str | None) -> None:
        """By workers at once, unless a look at its limit's line comes first; here after this run.

        One look is enough for all children that stand in one line.
        """
        if slot_key is None and get_workflow_settings().run_async:
            nudge(self._using, queue)
        elif slot_key is None or all(one[2] != slot_key for one in self.to_run):
            self.to_run.append((execution_id, queue, slot_key))
