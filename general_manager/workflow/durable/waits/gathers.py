"""What a run does at a gather: start the children, wait for them, give back what they came to."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from general_manager.workflow.durable.children.specs import (
    Child,
    GatherOptions,
    require_lines,
    with_keys,
)
from general_manager.workflow.durable.records import RunStore, StepRecord, StepStatus
from general_manager.workflow.durable.sagas import Sagas
from general_manager.workflow.durable.steps import Steps, asked
from general_manager.workflow.durable.stops import EndRequested, WaitsForChildren
from general_manager.workflow.exceptions import WaitTimeout


class Gatherings:
    """The gathers of one run."""

    def __init__(
        self,
        store: RunStore,
        sagas: Sagas,
        records: Mapping[str, StepRecord],
        enter: Callable[[str], None],
        stopping: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._store = store
        self._steps: Steps = sagas.steps
        self._sagas = sagas
        self._records = records
        self._enter = enter
        self._stopping = stopping

    def gather(self, name: str, children: Sequence[Child], options: GatherOptions) -> list[Any]:
        """The children's outputs, in order; raises `ChildFailed` or `WaitTimeout`."""
        keyed = with_keys(name, children)
        self._enter(name)
        self._steps.around.require_none_inside(f"gather({name!r})")
        record = self._records.get(name)
        if record is not None and record.status is StepStatus.TIMED_OUT:
            with self._stopping():
                asked(self._store.stop_late_children, name)
        if record is None or record.status is StepStatus.GATHERING:
            record = self._settled(name, keyed, options, record)
        if record.status is StepStatus.FAILED:
            raise self._steps.outcomes.again(record)
        if record.status is StepStatus.CLOSED:
            self._sagas.require_forwards()
        if record.status is not StepStatus.DONE:
            raise WaitTimeout(name)
        with self._stopping():
            found = asked(self._store.child_outcomes, name)
        return [one.result(name) for one in found]

    def _settled(
        self,
        name: str,
        children: Sequence[Child],
        options: GatherOptions,
        record: StepRecord | None,
    ) -> StepRecord:
        """The record of a gather that has its outcome; ends the run if it has none yet."""
        if self._sagas.ending is not None and not self._sagas.is_undoing:
            self._close(name)
        self._sagas.require_forwards()
        with self._stopping():
            try:
                if record is None:
                    require_lines(children)
                    self._steps.record_failures()
                    asked(self._store.start_children, name, children, options)
                record = asked(self._store.look_at_children, name)
            except EndRequested as request:
                error = self._sagas.asked_to_end(request.ending)
            else:
                if record.status is StepStatus.GATHERING:
                    raise WaitsForChildren(name, record.until)
                return record
        self._close(name)
        raise error

    def _close(self, name: str) -> None:
        """The execution is to undo and to end: first its children, as far as it has any here."""
        with self._stopping():
            record = asked(self._store.close_children, name)
            if record is not None and record.status is StepStatus.GATHERING:
                raise WaitsForChildren(name, None)
