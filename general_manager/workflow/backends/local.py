"""The local engine: executions run in the caller's thread and are kept in memory."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.core.checks import CheckMessage

from general_manager.check_messages import warning
from general_manager.conf import get_workflow_settings
from general_manager.escaping import get_logger
from general_manager.workflow.admission.in_memory import MemoryPauses
from general_manager.workflow.backends.base import WorkflowEngine
from general_manager.workflow.backends.lookup_verbs import Workflow
from general_manager.workflow.backends.memory import ExecutionMemory
from general_manager.workflow.backends.memory_family import run_line
from general_manager.workflow.backends.memory_records import Clock, Record, handler_of, utc_now
from general_manager.workflow.backends.memory_repairs import (
    continue_as_fresh,
    find_wait,
    preview_retry,
    time_out,
    wake,
)
from general_manager.workflow.backends.memory_runs import MemoryRuns
from general_manager.workflow.backends.memory_sagas import cancel
from general_manager.workflow.backends.memory_search import RememberedExecutions
from general_manager.workflow.backends.memory_sending import send_signal
from general_manager.workflow.backends.memory_signals import signals_of
from general_manager.workflow.core.actors import current_cause
from general_manager.workflow.core.context import current_run
from general_manager.workflow.core.encoding import encode, encode_mapping, error_text
from general_manager.workflow.core.ids import new_id, require_id
from general_manager.workflow.core.limits import line_of
from general_manager.workflow.durable.continuation import Resolutions, RetryPreview
from general_manager.workflow.durable.records import WaitSnapshot
from general_manager.workflow.durable.signals import SignalSnapshot
from general_manager.workflow.engine import (
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowState,
    check_start,
)
from general_manager.workflow.event_registry.mailbox import Mailbox
from general_manager.workflow.executions.query import (
    ExecutionFilter,
    ExecutionSource,
    check_attributes,
)
from general_manager.workflow.executions.rules import check_cancel, check_resume, check_target
from general_manager.workflow.executions.subjects import subject_at_start
from general_manager.workflow.history import HistoryEntry

__all__ = ["LocalWorkflowEngine"]

logger = get_logger(__name__)


class LocalWorkflowEngine(MemoryPauses, WorkflowEngine):
    """Runs each execution at once, in this process, and remembers it until the process ends.

    Keeps the latest *max_executions* finished executions; older ones are dropped along with their
    correlation ids. Nothing happens in the background: due timeouts, sleeps and retries take effect
    when `status`, `start` or `run_due` is called; until then an answer is still in time. For tests:
    *clock* returns the time, with a time zone; waits look at *events*, not at the registry's.
    """

    supports_repairs = True
    supports_lookup = True
    supports_signals = True
    supports_timers = True

    def __init__(
        self, *, max_executions: int = 10_000, clock: Clock = utc_now, events: Mailbox | None = None
    ) -> None:
        if isinstance(max_executions, bool) or not isinstance(max_executions, int):
            raise TypeError(f"max_executions must be an integer, not {max_executions!r}")
        if max_executions < 1:
            raise ValueError(f"max_executions must be 1 or more, not {max_executions}")
        self._memory = ExecutionMemory(limit=max_executions, clock=clock, mailbox=events)
        self._runs = MemoryRuns(self._memory)

    def check(self) -> list[CheckMessage]:
        if not get_workflow_settings().run_async:
            return []
        return [
            warning(
                "W002",
                "WORKFLOW_ASYNC is True, but LocalWorkflowEngine runs handlers in this process.",
                "Use CeleryWorkflowEngine to run handlers in workers.",
            )
        ]

    def start(
        self,
        workflow: WorkflowDefinition,
        input_data: Mapping[str, Any] | None = None,
        *,
        correlation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        at: datetime | None = None,
        subject: object = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> WorkflowExecution:
        check_start(workflow, correlation_id, at)
        given = encode_mapping({} if input_data is None else input_data, root="input_data")
        record = Record(
            new_id(),
            workflow,
            given,
            correlation_id or None,
            encode_mapping({} if metadata is None else metadata, root="metadata"),
            subject=subject_at_start(subject),
            caused_by=current_cause(),
            attributes=check_attributes(attributes),
            line=line_of(workflow.workflow_id, workflow.limit, workflow.rate, given),
            wake_at=at if at is not None and at > self._memory.clock() else None,
        )
        record.deadline = workflow.deadline_from(record.wake_at or self._memory.clock())
        kept = self._memory.add_once(record)
        if kept is not record:
            self._runs.fire(kept)
        elif not self._is_over_at_once(record):
            self._runs.notify(WorkflowState.PENDING, record)
            if record.wake_at is None:
                self._runs.run(record)
        return self._runs.latest(kept)

    def _is_over_at_once(self, record: Record) -> bool:
        """Completed without a handler, failed if the handler is not found; neither runs."""
        state, error = WorkflowState.COMPLETED, None
        try:
            if handler_of(record) is not None or record.wake_at is not None:
                return False
        except Exception as wrong:  # noqa: BLE001 - importing a module may raise anything
            state, error = WorkflowState.FAILED, error_text(wrong)
            logger.error(
                "Workflow %s (%s) failed: %s",
                record.definition.workflow_id, record.execution_id, error,
            )  # fmt: skip
        record.started_at = self._memory.clock()
        self._memory.end(record, state, output_data=None if error else {}, error=error)
        self._runs.notify(state, record)
        return True

    def resume(
        self,
        execution_id: str | None = None,
        signal: Any = None,
        *,
        wait: str | None = None,
        label: str = "",
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """As `WorkflowEngine.resume`; continues at once, in the caller's thread.

        If `ask` is still sending the question, the answer is stored and the run finds it.
        """
        check_resume(wait)
        execution_id = self._id_of(execution_id, workflow, correlation_id)
        answer, label = encode(signal, root="signal"), encode(label, root="label")
        # Fires no due timer first: a timeout counts only once it is written.
        record = self._memory.answer(execution_id, answer, wait, label)
        if record.wake_at is None:
            self._runs.run(record)
        else:  # delayed before its next attempt, which may be due
            self._runs.fire(record)
        return self._runs.latest(record)

    def signal(
        self,
        execution_id: str | None = None,
        name: str = "",
        value: Any = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """As `WorkflowEngine.signal`; an execution that waits for it continues at once."""
        check_target("signal", execution_id, workflow, correlation_id)
        require_id("name", name)
        record = self._memory.get(self._id_of(execution_id, workflow, correlation_id))
        send_signal(self._memory, self._runs, record, name, encode(value, root="value"))
        return self._runs.latest(self._memory.newest_of(record))

    def signals(self, execution_id: str) -> list[SignalSnapshot]:
        return signals_of(self._memory, self._memory.get(execution_id))

    def cancel(
        self,
        execution_id: str | None = None,
        *,
        reason: str | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
        compensate: bool = False,
    ) -> WorkflowExecution:
        check_cancel(reason, compensate=compensate)
        execution_id = self._id_of(execution_id, workflow, correlation_id)
        given = encode(reason, root="reason")
        record = cancel(self._memory, execution_id, given, compensate=compensate)
        if not record.is_active:
            run_line(lambda: self._runs.notify(WorkflowState.CANCELLED, record))
            return self._runs.latest(record)
        run = current_run()
        if run is not None and run.execution_id == record.execution_id and record.ending:
            run.sagas.asked_to_end(record.ending)
        self._runs.run(record)
        return self._runs.latest(record)

    def status(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        record = self._memory.get(self._id_of(execution_id, workflow, correlation_id))
        self._runs.fire(record)
        return self._runs.latest(record)

    def preview_retry(
        self, execution_id: str, *, before: str | None = None, repeat_once: bool = False
    ) -> RetryPreview:
        return preview_retry(self._memory, execution_id, before, repeat_once=repeat_once)

    def time_out(
        self,
        execution_id: str | None = None,
        *,
        wait: str | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        record = time_out(self._memory, self._id_of(execution_id, workflow, correlation_id), wait)
        if record.wake_at is None:
            self._runs.run(record)
        return self._runs.latest(record)

    def find_wait(self, execution_id: str, name: str) -> WaitSnapshot | None:
        return find_wait(self._memory, execution_id, name)

    def wake(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        record = wake(self._memory, self._id_of(execution_id, workflow, correlation_id))
        self._runs.fire(record)
        return self._runs.latest(record)

    def history(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> list[HistoryEntry]:
        execution_id = self._id_of(execution_id, workflow, correlation_id)
        with self._memory.lock:
            return list(self._memory.get(execution_id).history)

    def _continue(
        self, execution_id: str, resolved: Resolutions, *, before: str | None, repeat_once: bool
    ) -> WorkflowExecution:
        options: dict[str, Any] = {"before": before, "repeat_once": repeat_once}
        record = continue_as_fresh(self._memory, execution_id, resolved, **options)
        self._runs.notify(WorkflowState.PENDING, record)
        self._runs.run(record)
        return self._runs.latest(record)

    def _search(self, wanted: ExecutionFilter) -> ExecutionSource:
        return RememberedExecutions(self._memory, wanted)

    def _reports(self, execution_id: str) -> Mapping[str, Any]:
        with self._memory.lock:
            return dict(self._memory.get(execution_id).reports)

    def question(self, execution_id: str) -> str | None:
        """The name of the open wait, if there is one."""
        return self._memory.get(execution_id).waiting_for

    def wakes_at(self, execution_id: str) -> datetime | None:
        """When its timer fires: of a wait, sleep, attempt or deadline, or of its rate."""
        return self._memory.wakes_at(self._memory.get(execution_id))

    def run_due(self) -> int:
        """Fire every due timer; returns the number of executions that ran."""
        return sum(self._runs.fire(record) for record in self._memory.due())

    def timers(self) -> list[timedelta]:
        """The time until each timeout, end of a sleep, attempt and deadline; negative if due."""
        return self._memory.timers()

    def move_timers(self, by: timedelta) -> None:
        """Make every timer fire *by* sooner, for tests."""
        self._memory.move_timers(by)
