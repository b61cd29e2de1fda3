"""The engine for real load: executions are rows, workers run them, messages only nudge."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from django.db import router, transaction

from general_manager.conf import get_workflow_settings, require_time_zones
from general_manager.escaping import get_logger
from general_manager.workflow.actors import current_cause
from general_manager.workflow.aside import aside, tell_state
from general_manager.workflow.backends.handlers import find_handler
from general_manager.workflow.backends.repairs import (
    continue_as_fresh,
    find_wait,
    preview_retry,
    time_out_early,
    wake_early,
)
from general_manager.workflow.backends.verbs import OperatorVerbs
from general_manager.workflow.checkpoints import Resolutions, RetryPreview, Wanted
from general_manager.workflow.encoding import encode, encode_mapping
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    HistoryEntry,
    HistoryKind,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowInvalidStateError,
    WorkflowState,
    WorkflowWaitMismatchError,
    check_start,
)
from general_manager.workflow.executor import run
from general_manager.workflow.ids import new_id
from general_manager.workflow.in_process import perform, perform_soon
from general_manager.workflow.local_handlers import keep_handler
from general_manager.workflow.lookup import find
from general_manager.workflow.messages import run_execution_soon
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.execution import ExecutionQuerySet
from general_manager.workflow.models.execution_values import dedup_key
from general_manager.workflow.rules import (
    SLEEPS,
    check_cancel,
    check_resume,
    not_this_wait,
    refusal,
)
from general_manager.workflow.runs import current_run
from general_manager.workflow.steps import WaitSnapshot
from general_manager.workflow.transactions import is_in_transaction

__all__ = ["CeleryWorkflowEngine"]

logger = get_logger(__name__)

SNAPSHOT_FIELDS = tuple(one.name for one in fields(WorkflowExecution))


class CeleryWorkflowEngine(OperatorVerbs):
    """Stores executions in the caller's transaction; after its commit a worker runs them.

    With `WORKFLOW_ASYNC` off they run in the caller's process, at once or after its commit.
    """

    def __init__(self) -> None:
        require_time_zones(type(self).__name__)

    def start(
        self,
        workflow: WorkflowDefinition,
        input_data: Mapping[str, Any] | None = None,
        *,
        correlation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> WorkflowExecution:
        check_start(workflow, correlation_id)
        about = encode_mapping({} if metadata is None else metadata, root="metadata")
        handler = find_handler(workflow)
        error = handler.error
        state = WorkflowState.PENDING
        if error is not None:
            state = WorkflowState.FAILED
        elif handler.path is None:
            state = WorkflowState.COMPLETED
        is_over = state is not WorkflowState.PENDING
        key = None if error is not None else dedup_key(workflow.workflow_id, correlation_id)
        execution = WorkflowExecution(
            execution_id=new_id(),
            workflow_id=workflow.workflow_id,
            state=state,
            input_data=encode_mapping({} if input_data is None else input_data, root="input_data"),
            output_data={} if state is WorkflowState.COMPLETED else None,
            correlation_id=correlation_id or None,
            error=error,
            metadata=about,
        )
        if error is not None and (earlier := self._known(workflow, correlation_id)) is not None:
            return earlier.snapshot()
        known = self._executions.start_once(
            **{name: getattr(execution, name) for name in SNAPSHOT_FIELDS},
            version=workflow.version,
            handler_path=None if error is not None else handler.path,
            dedup_key=key,
            caused_by=current_cause(),
            retry=None if workflow.retry is None else workflow.retry.to_json(),
            timeout=workflow.timeout,
        )
        if known is not None:
            return known.snapshot()
        if error is not None:
            logger.error(
                "Workflow %s (%s) failed: %s", workflow.workflow_id, execution.execution_id, error
            )
        if is_over:
            execution = self.status(execution.execution_id)  # its times are the database's
        tell_state(state, lambda: execution)
        if handler.own is not None:
            keep_handler(execution.execution_id, handler.own)
        if not is_over and self._go_on(execution.execution_id):
            return self.status(execution.execution_id)
        return execution

    def resume(
        self, execution_id: str, signal: Any = None, *, wait: str | None = None, label: str = ""
    ) -> WorkflowExecution:
        """Answer the open wait; a worker goes on after the caller's commit.

        An execution that waits without an open `wait_for` is completed by this.
        """
        check_resume(wait)
        answer, label = encode(signal, root="signal"), encode(label, root="label")
        executions = self._executions
        with transaction.atomic(using=executions.db):
            record = executions.select_for_update().by_id(execution_id)
            name = record.waiting_for
            is_waiting = record.state == WorkflowState.WAITING
            is_asking = name is not None and record.state in ACTIVE_STATES
            if not (is_asking or is_waiting):
                raise _refusal(record, "resume", (WorkflowState.WAITING,))
            steps = WorkflowStep.objects.using(executions.db)
            if name is None and steps.filter(execution=record, status="open").exists():
                raise _refusal(record, "resume", (record.state,), SLEEPS)
            if wait is not None and wait != name:
                raise WorkflowWaitMismatchError(
                    execution_id, "resume", record.state, (record.state,),
                    not_this_wait(str(name), wait),
                )  # fmt: skip
            metadata = {**record.metadata, "resume_signal": answer}
            if name is None:
                executions.filter(pk=record.pk).end(
                    WorkflowState.COMPLETED, output_data={}, metadata=metadata
                )
                return self._told(record)
            if not steps.answer(record, name, answer, label=label):
                detail = f"Nobody answered {name!r} in time."
                raise _refusal(record, "resume", (record.state,), detail)
            executions.wait_ended(record, HistoryKind.RESUMED, metadata)
        if is_waiting:
            self._go_on(execution_id)
        return self.status(execution_id)

    def cancel(self, execution_id: str, *, reason: str | None = None) -> WorkflowExecution:
        check_cancel(reason)
        executions = self._executions
        with transaction.atomic(using=executions.db):
            record = executions.select_for_update().by_id(execution_id)
            metadata = dict(record.metadata)
            if reason is not None:
                metadata["cancel_reason"] = encode(reason, root="reason")
            if not executions.cancel(record, metadata, reason or ""):
                raise _refusal(record, "cancel", ACTIVE_STATES)
        run_ = current_run()
        if run_ is not None and run_.execution_id == execution_id:
            run_.do_again_if_undone(lambda: self._cancel_again(execution_id, reason))
        return self._told(record)

    def _cancel_again(self, execution_id: str, reason: str | None) -> None:
        with suppress(WorkflowInvalidStateError):  # it is over already
            self.cancel(execution_id, reason=reason)

    def preview_retry(
        self, execution_id: str, *, before: str | None = None, repeat_once: bool = False
    ) -> RetryPreview:
        return preview_retry(self._executions, execution_id, before, repeat_once=repeat_once)

    def time_out(self, execution_id: str, *, wait: str | None = None) -> WorkflowExecution:
        _record, is_ready = time_out_early(self._executions, execution_id, wait)
        if is_ready:
            self._go_on(execution_id)
        return self.status(execution_id)

    def find_wait(self, execution_id: str, name: str) -> WaitSnapshot | None:
        return find_wait(self._executions, execution_id, name)

    def wake(self, execution_id: str) -> WorkflowExecution:
        """End the rest between two attempts, or a sleep, now."""
        self._go_on(wake_early(self._executions, execution_id).execution_id)
        return self.status(execution_id)

    def history(self, execution_id: str) -> list[HistoryEntry]:
        """What happened to the execution out of the ordinary, in order."""
        record = self._executions.by_id(execution_id)
        rows = record.history.using(self._executions.db).order_by("pk")
        return [row.as_entry() for row in rows]

    def _continue(
        self, execution_id: str, resolved: Resolutions, *, before: str | None, repeat_once: bool
    ) -> WorkflowExecution:
        record = continue_as_fresh(
            self._executions, execution_id, resolved, before=before, repeat_once=repeat_once
        )
        tell_state(WorkflowState.PENDING, record.snapshot)
        self._go_on(record.execution_id)
        return self.status(record.execution_id)

    def status(self, execution_id: str) -> WorkflowExecution:
        return self._executions.by_id(execution_id).snapshot()

    def _known(
        self, workflow: WorkflowDefinition, correlation_id: str | None
    ) -> WorkflowExecutionRecord | None:
        """The active or completed execution with this correlation id."""
        key = dedup_key(workflow.workflow_id, correlation_id)
        return None if key is None else self._executions.filter(dedup_key=key).first()

    def _find(self, wanted: Wanted, limit: int) -> list[WorkflowExecution]:
        return [record.snapshot() for record in find(self._executions, wanted, limit)]

    @property
    def _executions(self) -> ExecutionQuerySet:
        return WorkflowExecutionRecord.objects.using(router.db_for_write(WorkflowExecutionRecord))

    def _go_on(self, execution_id: str) -> bool:
        """Have the execution run: by a worker after commit, or, if this is true, here and now."""
        using = router.db_for_write(WorkflowExecutionRecord)
        if get_workflow_settings().run_async:
            run_execution_soon(execution_id, using)
            return False
        if is_in_transaction(using):
            perform_soon(lambda: _run_here(execution_id, using), using)
            return False
        perform(lambda: _run_here(execution_id, using), using)
        return True

    def _told(self, record: WorkflowExecutionRecord) -> WorkflowExecution:
        execution = self.status(record.execution_id)
        tell_state(execution.state, lambda: execution)
        return execution


def _run_here(execution_id: str, using: str) -> None:
    with aside(atomic=False):  # the execution belongs to no other that is running in this thread
        run(execution_id, using)


def _refusal(
    record: WorkflowExecutionRecord, verb: str, allowed: tuple[str, ...], detail: str = ""
) -> WorkflowInvalidStateError:
    return refusal(record.execution_id, verb, record.state, allowed, detail)
