"""The production engine: executions are rows, and Celery workers run them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from general_manager.conf import require_time_zones
from general_manager.escaping import get_logger
from general_manager.workflow.backends.lookup_verbs import Workflow
from general_manager.workflow.backends.stored_reading import StoredExecutionReader, run_soon
from general_manager.workflow.core.actors import current_cause
from general_manager.workflow.core.context import current_run
from general_manager.workflow.core.encoding import encode, encode_mapping
from general_manager.workflow.core.ids import new_id, require_id
from general_manager.workflow.core.limits import line_of
from general_manager.workflow.core.local_handlers import keep_handler
from general_manager.workflow.core.observers import notify_state
from general_manager.workflow.durable.continuation import Resolutions
from general_manager.workflow.durable.ending import ending_of
from general_manager.workflow.durable.signals import SignalSnapshot
from general_manager.workflow.engine import (
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowInvalidStateError,
    WorkflowState,
    check_start,
)
from general_manager.workflow.executions import ending
from general_manager.workflow.executions.cancelling import cancel
from general_manager.workflow.executions.children.attending import (
    ask_children_soon,
    attend_soon,
)
from general_manager.workflow.executions.children.counting import children_of
from general_manager.workflow.executions.children.handlers import error_of, stored_handler
from general_manager.workflow.executions.query import check_attributes
from general_manager.workflow.executions.repairs import continue_as_fresh, time_out, wake
from general_manager.workflow.executions.rules import (
    check_cancel,
    check_resume,
    check_target,
    open_wait,
    too_late,
)
from general_manager.workflow.executions.signals import signal, signals_of
from general_manager.workflow.executions.subjects import subject_at_start
from general_manager.workflow.history import HistoryKind
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.executions.values import dedup_key, limit_values

__all__ = ["CeleryWorkflowEngine"]

logger = get_logger(__name__)

SNAPSHOT_FIELDS = tuple({one.name for one in fields(WorkflowExecution)} - {"attributes"})


class CeleryWorkflowEngine(StoredExecutionReader):
    """Stores executions in the caller's transaction; after its commit a worker runs them.

    With `WORKFLOW_ASYNC` off they run in the caller's process, at once or after its commit.
    """

    supports_tables = True
    supports_repairs = True
    supports_lookup = True
    supports_signals = True

    def __init__(self) -> None:
        require_time_zones(type(self).__name__)

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
        later = at if at is not None and at > timezone.now() else None
        about = encode_mapping({} if metadata is None else metadata, root="metadata")
        handler = stored_handler(workflow)
        error = error_of(handler, workflow, later)
        state = WorkflowState.PENDING
        if error is not None:
            state, later = WorkflowState.FAILED, None
        elif handler.path is None and later is None:
            state = WorkflowState.COMPLETED
        is_over = state is not WorkflowState.PENDING
        key = None if error is not None else dedup_key(workflow.workflow_id, correlation_id)
        given = encode_mapping({} if input_data is None else input_data, root="input_data")
        line = line_of(workflow.workflow_id, workflow.limit, workflow.rate, given)
        execution = WorkflowExecution(
            execution_id=new_id(),
            workflow_id=workflow.workflow_id,
            state=state,
            input_data=given,
            output_data={} if state is WorkflowState.COMPLETED else None,
            correlation_id=correlation_id or None,
            error=error,
            metadata=about,
            starts_at=later,
            subject=subject_at_start(subject),
            attributes=check_attributes(attributes),
            deadline=None if is_over else workflow.deadline_from(later or timezone.now()),
        )
        if error is not None and (earlier := self._known(workflow, correlation_id)) is not None:
            return earlier.snapshot()
        known = ending.start_once(
            self._executions,
            **{name: getattr(execution, name) for name in SNAPSHOT_FIELDS},
            attributes=execution.attributes or None,
            version=workflow.version,
            handler_path=None if error is not None else handler.path,
            dedup_key=key,
            caused_by=current_cause(),
            retry=None if workflow.retry is None else workflow.retry.to_json(),
            timeout=workflow.timeout,
            queue=workflow.queue,
            priority=workflow.priority,
            lifetime=workflow.deadline,
            **limit_values(line),
        )
        if known is not None:
            return known.snapshot()
        if error is not None:
            logger.error(
                "Workflow %s (%s) failed: %s", workflow.workflow_id, execution.execution_id, error
            )
        if is_over:
            execution = self.status(execution.execution_id)  # its times are the database's
        notify_state(state, lambda: execution)
        if later is not None:
            return execution
        if handler.own is not None:
            keep_handler(execution.execution_id, handler.own)
        slot_key = None if line is None else line.key
        if not is_over and self._run_soon(execution.execution_id, workflow.queue, slot_key):
            return self.status(execution.execution_id)
        return execution

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
        """As `WorkflowEngine.resume`; a worker continues after the caller's commit.

        Completes an execution that is waiting without an open `wait_for`.
        """
        check_resume(wait)
        execution_id = self._id_of(execution_id, workflow, correlation_id)
        answer, label = encode(signal, root="signal"), encode(label, root="label")
        executions = self._executions
        with transaction.atomic(using=executions.db):
            record = executions.select_for_update().by_id(execution_id)
            is_waiting = record.state == WorkflowState.WAITING
            steps = WorkflowStep.objects.using(executions.db)
            metadata = {**record.metadata, "resume_signal": answer}
            if is_waiting and record.waiting_for is None and not steps.are_open(record):
                ending.complete_unasked(executions, record, metadata)
                attend_soon(executions, record.pk, self._run_soon)
                return self._notified(record)
            children = children_of(executions, record) is not None
            name = open_wait(
                execution_id, "resume", record.state, record.waiting_for, wait, children=children
            )
            answering = steps.answering(record, name, answer, label=label)
            if not executions.wait_ended(record, HistoryKind.RESUMED, answering, metadata):
                raise too_late(execution_id, "resume", record.state, name)
        if is_waiting and self._run_soon(record.execution_id, record.queue, record.slot_key):
            return self.status(record.execution_id)
        record.waiting_for, record.metadata = None, metadata
        if is_waiting:
            record.state = WorkflowState.PENDING
        return record.snapshot()

    def signal(
        self,
        execution_id: str | None = None,
        name: str = "",
        value: Any = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """As `WorkflowEngine.signal`; in the caller's transaction it locks nothing.

        If the process dies before it has looked for a wait, the sweep looks.
        """
        check_target("signal", execution_id, workflow, correlation_id)
        require_id("name", name)
        named = self._executions.by_id(self._id_of(execution_id, workflow, correlation_id))
        given = encode(value, root="value")
        return self.status(signal(self._executions, named, name, given, self._run_soon))

    def signals(self, execution_id: str) -> list[SignalSnapshot]:
        return signals_of(self._executions, self._executions.by_id(execution_id))

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
        record, is_ready = cancel(self._executions, execution_id, given, compensate=compensate)
        run_ = current_run()
        if run_ is not None and run_.execution_id == record.execution_id:
            again = partial(self._cancel_again, execution_id, reason, compensate=compensate)
            run_.do_again_if_undone(again)
            asked = ending_of(record.ending)
            if asked is not None:
                run_.sagas.asked_to_end(asked)
        if is_ready:
            ask_children_soon(self._executions, record, self._run_soon)
        if is_ready or record.slot_key is not None:  # its slot may be free
            self._run_soon(record.execution_id, record.queue, record.slot_key)
        if record.ended_at is None:
            return self.status(record.execution_id)
        attend_soon(self._executions, record.pk, self._run_soon)
        return self._notified(record)

    def _cancel_again(self, execution_id: str, reason: str | None, *, compensate: bool) -> None:
        with suppress(WorkflowInvalidStateError):  # it has ended already
            self.cancel(execution_id, reason=reason, compensate=compensate)

    def time_out(
        self,
        execution_id: str | None = None,
        *,
        wait: str | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        execution_id = self._id_of(execution_id, workflow, correlation_id)
        record, is_ready = time_out(self._executions, execution_id, wait, self._run_soon)
        if is_ready:
            self._run_soon(record.execution_id, record.queue, record.slot_key)
        return self.status(record.execution_id)

    def wake(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        execution_id = self._id_of(execution_id, workflow, correlation_id)
        record = wake(self._executions, execution_id)
        self._run_soon(record.execution_id, record.queue, record.slot_key)
        return self.status(execution_id)

    def _continue(
        self, execution_id: str, resolved: Resolutions, *, before: str | None, repeat_once: bool
    ) -> WorkflowExecution:
        record = continue_as_fresh(
            self._executions, execution_id, resolved, before=before, repeat_once=repeat_once
        )
        notify_state(WorkflowState.PENDING, record.snapshot)
        self._run_soon(record.execution_id, record.queue, record.slot_key)
        return self.status(record.execution_id)

    def _known(
        self, workflow: WorkflowDefinition, correlation_id: str | None
    ) -> WorkflowExecutionRecord | None:
        """The active or completed execution with this correlation id."""
        key = dedup_key(workflow.workflow_id, correlation_id)
        return None if key is None else self._executions.filter(dedup_key=key).first()

    def _run_soon(self, execution_id: str, queue: str, slot_key: str | None) -> bool:
        return run_soon(execution_id, queue, slot_key, self._using)

    def _notified(self, record: WorkflowExecutionRecord) -> WorkflowExecution:
        execution = self.status(record.execution_id)
        notify_state(execution.state, lambda: execution)
        return execution
