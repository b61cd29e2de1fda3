"""Executions in memory, and every change of their state."""

from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime, timedelta
from threading import RLock
from typing import Any

from general_manager.workflow.admission.in_memory import Parking
from general_manager.workflow.backends.memory_limits import MemoryLimits
from general_manager.workflow.backends.memory_records import Clock, Record, forget_watchers
from general_manager.workflow.core.actors import current_actor
from general_manager.workflow.core.encoding import copy_encoded
from general_manager.workflow.core.ids import require_execution_id
from general_manager.workflow.durable.records import StepStatus
from general_manager.workflow.durable.stops import Suspended
from general_manager.workflow.engine import WorkflowExecutionNotFoundError, WorkflowState
from general_manager.workflow.executions.rules import open_wait
from general_manager.workflow.history import HistoryEntry, HistoryKind


class ExecutionMemory:
    """Executions by id and by correlation id; keeps the latest *limit* finished ones."""

    def __init__(self, *, limit: int, clock: Clock, mailbox: Any = None) -> None:
        self.lock = RLock()
        self.clock = clock
        self._limit, self._started = limit, 0
        self._records: dict[str, Record] = {}
        self._by_correlation: dict[tuple[str, str], Record] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._newest: dict[str, Record] = {}
        """The newest execution of each chain with more than one."""
        self.signals: dict[str, list[Any]] = {}
        """The signals of each chain, in order; see `memory_signals`."""
        self.signals_sent = 0
        self.watchers: dict[str, list[tuple[Record, str]]] = {}
        """Executions that wait for a chain, each with its gather; see `memory_children`."""
        self.children: dict[str, list[Record]] = {}
        """The children that an execution has started."""
        self.mailbox = mailbox
        """The events that waits look at; `None` for those of the registry in force."""
        self.taken: dict[str, dict[tuple[str, str], str]] = {}
        """What the waits of each chain took of events: mailbox and id, with the wait's name."""
        self.limits = MemoryLimits(clock)
        self.parking = Parking(self)

    def __len__(self) -> int:
        return len(self._records)

    def add_once(self, record: Record) -> Record:
        """Store *record*, or return the active or completed one with its correlation id."""
        with self.lock:
            if record.correlation_id:
                key = (record.definition.workflow_id, record.correlation_id)
                known = self._by_correlation.setdefault(key, record)
                if known is not record:
                    return known
            self._started += 1
            record.number = self._started
            self._records[record.execution_id] = record
            return record

    def add_successor(self, record: Record, before: Record) -> None:
        """Store *record*, which goes on for *before* in its chain."""
        with self.lock:
            record.chain, record.mark = before.chain, before.mark
            self.add_once(record)
            self._newest[record.chain] = record

    def newest_of(self, record: Record) -> Record:
        """The newest execution of the chain of *record*."""
        return self._newest.get(record.chain, record)

    def newest_in(self, chain: str) -> Record | None:
        """The newest execution of a chain, unless it was forgotten."""
        return self._newest.get(chain) or self._records.get(chain)

    def pass_key_on(self, record: Record) -> None:
        """Another execution may have its correlation id now."""
        key = (record.definition.workflow_id, record.correlation_id or "")
        self._by_correlation.pop(key, None)

    def holder_of(self, record: Record) -> Record | None:
        """The active or completed execution that has the correlation id of *record*."""
        return self._by_correlation.get(
            (record.definition.workflow_id, record.correlation_id or "")
        )

    def get(self, execution_id: str) -> Record:
        """The execution with that id, or the newest one as which it continued as new."""
        with self.lock:
            try:
                found = self._records[require_execution_id(execution_id)]
            except KeyError:
                raise WorkflowExecutionNotFoundError(execution_id) from None
            return found if found.renewal is None else self.newest_of(found)

    def note(self, record: Record, kind: HistoryKind, detail: str = "", **about: Any) -> None:
        """Add an entry to the history, by the current actor."""
        with self.lock:
            entry = HistoryEntry(kind, self.clock(), current_actor(), detail, **about)
            record.history.append(entry)

    def latest(self) -> list[Record]:
        """Every execution, the latest first."""
        with self.lock:
            return list(reversed(self._records.values()))

    def due(self) -> list[Record]:
        """Executions with a due timer, those whose deadline has passed first, as in a sweep.

        Of the others, the one that has been due for longest comes first.
        """
        now = self.clock()
        with self.lock:
            records = self._records.values()
            found = [one for one in records if any(time <= now for time in one.timers)]
            found.sort(key=lambda one: (not self.is_expired(one), min(one.timers)))
            return [*found, *self.limits.due()]

    def wakes_at(self, record: Record) -> datetime | None:
        """When something happens to it on its own."""
        with self.lock:
            return min([*record.timers, *self.limits.timers_of(record)], default=None)

    def timers(self) -> list[timedelta]:
        now = self.clock()
        with self.lock:
            records = self._records.values()
            times = [time for one in records for time in one.timers]
            return [time - now for time in (*times, *self.limits.timers())]

    def move_timers(self, by: timedelta) -> None:
        with self.lock:
            self.limits.move_timers(by)
            for record in self._records.values():
                record.move_timers(by)

    def begin(self, record: Record) -> int | None:
        """Pending to running. Returns the number of the run, or `None` if it is not runnable.

        Without a free slot of its limit it joins the line; the run's end gives the slot back.
        """
        with self.lock:
            if record.state is not WorkflowState.PENDING or record.wake_at is not None:
                return None
            if record.is_held or self.parking.parks(record) or not self.limits.take(record):
                return None
            record.state = WorkflowState.RUNNING
            record.run_number += 1
            record.started_at = record.started_at or self.clock()
            return record.run_number

    def run_is_over(self, record: Record) -> None:
        with self.lock:
            self.limits.give_back(record)

    def next_in_line(self, record: Record) -> Record | None:
        """The execution that waits for a slot of the limit of *record*, and may run now."""
        with self.lock:
            self.limits.give_back_unused(record)
            return self.limits.next_of(record)

    def is_expired(self, record: Record) -> bool:
        """Whether its deadline has passed, although it has not ended."""
        is_late = record.deadline is not None and record.deadline <= self.clock()
        return is_late and record.is_active

    def is_running(self, record: Record, run_number: int) -> bool:
        """Whether that run still holds the execution; after its deadline none does."""
        holds = record.state is WorkflowState.RUNNING and record.run_number == run_number
        return holds and not self.is_expired(record)

    def suspend(self, record: Record, run_number: int, stop: Suspended) -> WorkflowState | None:
        """Running to waiting; or to pending if the answer came meanwhile.

        Returns the new state, or `None` if this run no longer holds the execution.
        """
        with self.lock:
            if not self.is_running(record, run_number):
                return None
            step = record.steps[stop.name]
            if step.status is StepStatus.OPEN and record.ending is None:
                record.state = WorkflowState.WAITING
                record.wake_at = stop.until
                record.waiting_for = stop.name if stop.answerable else None
                record.waiting_since = step.started_at
            else:
                record.state = WorkflowState.PENDING
            return record.state

    def postpone(
        self, record: Record, run_number: int, delay: timedelta, why: str, *, step: str = ""
    ) -> bool:
        """Running to pending, due after *delay*, because the attempt failed in *step*."""
        with self.lock:
            if not self.is_running(record, run_number):
                return False
            record.state = WorkflowState.PENDING
            record.wake_at = self.clock() + delay
            kind = HistoryKind.ATTEMPT_FAILED
            self.note(record, kind, why, step=step, number=record.attempts)
            return True

    def answer(self, execution_id: str, signal: Any, wait: str | None, label: str = "") -> Record:
        """Write the encoded *signal* as the outcome of the open wait; waiting becomes pending.

        Raises the errors of `WorkflowEngine.resume`, with nothing written.
        """
        with self.lock:
            record = self.get(execution_id)
            name = open_wait(
                execution_id, "resume", record.state, record.waiting_for, wait,
                children=record.gathering is not None,
            )  # fmt: skip
            record.metadata["resume_signal"] = copy_encoded(signal)
            self.end_wait(
                record, name, StepStatus.DONE, HistoryKind.RESUMED, result=signal, label=label
            )
            return record

    def end_wait(
        self, record: Record, name: str, status: StepStatus, kind: HistoryKind, **values: Any
    ) -> None:
        """Write the open wait's outcome; waiting becomes pending. A run in progress finds it."""
        with self.lock:
            record.keep(name, status, self.clock(), **values)
            record.waiting_for = record.waiting_since = None
            record.unsubscribe()
            record.attempts = 0
            self.note(record, kind, name, step=name)
            if record.state is WorkflowState.WAITING:
                record.state = WorkflowState.PENDING
                record.wake_at = None

    def wake(self, record: Record) -> bool:
        """Waiting or delayed to ready, if the timer is due; true for one caller only."""
        with self.lock:
            if record.wake_at is None or record.wake_at > self.clock():
                return False
            record.state = WorkflowState.PENDING
            record.wake_at = None
            return True

    def end(
        self,
        record: Record,
        state: WorkflowState,
        *,
        run_number: int | None = None,
        output_data: dict[str, Any] | None = None,
        error: str | None = None,
        traceback: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Active to a terminal *state*, which never changes; false if it has ended already.

        With *run_number*, only while that run holds the execution.
        """
        with self.lock:
            if not record.is_active:
                return False
            if run_number is not None and not self.is_running(record, run_number):
                return False
            record.state = state
            record.output_data = output_data
            record.error = error
            record.traceback = traceback
            record.metadata.update(metadata or {})
            record.ended_at = self.clock()
            record.wake_at = record.waiting_for = record.waiting_since = record.parked_at = None
            record.unsubscribe()
            if state is not WorkflowState.COMPLETED and record.correlation_id:
                key = (record.definition.workflow_id, record.correlation_id)
                del self._by_correlation[key]
            self._finished[record.execution_id] = None
            self._forget_oldest()
            return True

    def _forget_oldest(self) -> None:
        while len(self._finished) > self._limit:
            execution_id, _ = self._finished.popitem(last=False)
            record = self._records.pop(execution_id)
            self._forget_signals(record)
            self.children.pop(record.execution_id, None)
            forget_watchers(self.watchers, record)
            if self.holder_of(record) is record and record.correlation_id:
                del self._by_correlation[(record.definition.workflow_id, record.correlation_id)]

    def _forget_signals(self, record: Record) -> None:
        """With the last execution of a chain, all of its signals; else those that it has taken."""
        sent = self.signals.pop(record.chain, None)
        if self.newest_of(record) is record:
            self._newest.pop(record.chain, None)
            self.taken.pop(record.chain, None)
        elif sent:
            left = [one for one in sent if one.taken_by != record.execution_id]
            self.signals[record.chain] = left
