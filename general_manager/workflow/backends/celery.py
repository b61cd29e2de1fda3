"""The engine for real load: executions are rows, workers run them, messages only nudge."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.db import router, transaction
from django.utils import timezone

from general_manager.conf import get_workflow_settings, require_time_zones
from general_manager.workflow.actors import current_cause
from general_manager.workflow.aside import aside, tell
from general_manager.workflow.backends.repairs import continue_failed, wake_early
from general_manager.workflow.encoding import encode, encode_mapping, error_text
from general_manager.workflow.engine import (
    ACTIVE_STATES,
    HistoryEntry,
    WorkflowCancelledError,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowHandler,
    WorkflowInvalidStateError,
    WorkflowState,
    WorkflowWaitMismatchError,
    check_start,
)
from general_manager.workflow.exceptions import (
    HandlerNotAllowedError,
    HandlerNotImportableError,
)
from general_manager.workflow.executor import run
from general_manager.workflow.handler_modules import is_allowed, resolve_handler
from general_manager.workflow.ids import new_id
from general_manager.workflow.importing import describe, path_of
from general_manager.workflow.in_process import perform, perform_soon
from general_manager.workflow.local_handlers import keep_handler
from general_manager.workflow.messages import run_execution_soon
from general_manager.workflow.models import WorkflowExecutionRecord, WorkflowStep
from general_manager.workflow.models.execution import (
    MAX_PATH_LENGTH,
    ExecutionQuerySet,
)
from general_manager.workflow.models.execution_values import dedup_key
from general_manager.workflow.signals import execution_changed
from general_manager.workflow.transactions import is_in_transaction

__all__ = ["CeleryWorkflowEngine"]

logger = logging.getLogger(__name__)

SNAPSHOT_FIELDS = tuple(one.name for one in fields(WorkflowExecution))


class CeleryWorkflowEngine:
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
        handler = _find_handler(workflow)
        error = handler.error
        state = WorkflowState.PENDING
        if error is not None:
            state = WorkflowState.FAILED
        elif handler.path is None:
            state = WorkflowState.COMPLETED
        is_over = state is not WorkflowState.PENDING
        key = None if error is not None else dedup_key(workflow.workflow_id, correlation_id)
        now = timezone.now() if is_over else None
        execution = WorkflowExecution(
            execution_id=new_id(),
            workflow_id=workflow.workflow_id,
            state=state,
            input_data=encode_mapping({} if input_data is None else input_data, root="input_data"),
            output_data={} if state is WorkflowState.COMPLETED else None,
            correlation_id=correlation_id or None,
            started_at=now,
            ended_at=now,
            error=error,
            metadata=about,
        )
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
        tell(execution_changed, type(self), execution=execution)
        if handler.own is not None:
            keep_handler(execution.execution_id, handler.own)
        if not is_over and self._go_on(execution.execution_id):
            return self.status(execution.execution_id)
        return execution

    def resume(
        self, execution_id: str, signal: Any = None, *, wait: str | None = None
    ) -> WorkflowExecution:
        """Answer the open wait; a worker goes on after the caller's commit.

        An execution that waits without an open `wait_for` is completed by this.
        """
        answer = encode(signal, root="signal")
        executions = self._executions
        with transaction.atomic(using=executions.db):
            record = executions.select_for_update().by_id(execution_id)
            name = record.waiting_for
            is_waiting = record.state == WorkflowState.WAITING
            is_asking = name is not None and record.state in ACTIVE_STATES
            if not (is_asking or is_waiting):
                raise _refusal(record, "resume", (WorkflowState.WAITING,))
            if wait is not None and wait != name:
                raise WorkflowWaitMismatchError(
                    execution_id, "resume", record.state, (record.state,),
                    f"It waits for {name!r}, and the answer is for {wait!r}.",
                )  # fmt: skip
            metadata = {**record.metadata, "resume_signal": answer}
            steps = WorkflowStep.objects.using(executions.db)
            if name is None and steps.filter(execution=record, status="open").exists():
                raise _refusal(record, "resume", (record.state,), "It sleeps, and asks nothing.")
            if name is None:
                executions.filter(pk=record.pk).end(
                    WorkflowState.COMPLETED, output_data={}, metadata=metadata
                )
                return self._told(record)
            if not steps.answer(record, name, answer):
                detail = f"Nobody answered {name!r} in time."
                raise _refusal(record, "resume", (record.state,), detail)
            executions.answered(record, metadata)
        if is_waiting:
            self._go_on(execution_id)
        return self.status(execution_id)

    def cancel(self, execution_id: str, *, reason: str | None = None) -> WorkflowExecution:
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"reason must be text, not {reason!r}")
        executions = self._executions
        with transaction.atomic(using=executions.db):
            record = executions.select_for_update().by_id(execution_id)
            metadata = dict(record.metadata)
            if reason is not None:
                metadata["cancel_reason"] = encode(reason, root="reason")
            if not executions.cancel(record, metadata, reason or ""):
                raise _refusal(record, "cancel", ACTIVE_STATES)
        return self._told(record)

    def retry_from_checkpoint(self, execution_id: str) -> WorkflowExecution:
        """Continue a failed execution as a fresh one, which has its finished steps.

        The failed one stays as it is. Raises `WorkflowInvalidStateError` if it is not failed, was
        continued before, has a step in doubt, or if its correlation id is taken by now.
        """
        return self._continued(continue_failed(self._executions, execution_id, {}))

    def resolve_step(
        self, execution_id: str, step: str, *, happened: bool, result: Any = None
    ) -> WorkflowExecution:
        """Say what became of a `once=True` step in doubt, and continue like
        `retry_from_checkpoint`: with *result* for its result if it *happened*, else it runs again.
        """
        verdict = (bool(happened), encode(result, root="result"))
        return self._continued(continue_failed(self._executions, execution_id, {step: verdict}))

    def wake(self, execution_id: str) -> WorkflowExecution:
        """End the rest between two attempts, or a sleep, now."""
        self._go_on(wake_early(self._executions, execution_id).execution_id)
        return self.status(execution_id)

    def history(self, execution_id: str) -> list[HistoryEntry]:
        """What happened to the execution out of the ordinary, in order."""
        record = self._executions.by_id(execution_id)
        rows = record.history.using(self._executions.db).order_by("pk")
        return [row.as_entry() for row in rows]

    def _continued(self, record: WorkflowExecutionRecord) -> WorkflowExecution:
        tell(execution_changed, type(self), execution=record.snapshot())
        self._go_on(record.execution_id)
        return self.status(record.execution_id)

    def status(self, execution_id: str) -> WorkflowExecution:
        return self._executions.by_id(execution_id).snapshot()

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
        tell(execution_changed, type(self), execution=execution)
        return execution


def _run_here(execution_id: str, using: str) -> None:
    with aside(atomic=False):  # the execution belongs to no other that is running in this thread
        run(execution_id, using)


@dataclass(frozen=True, slots=True)
class _Handler:
    """What a start stores of its handler: a *path*, what is wrong with it, and what only this
    process has.
    """

    path: str | None = None
    error: str | None = None
    own: WorkflowHandler | None = None


def _find_handler(workflow: WorkflowDefinition) -> _Handler:
    """A path comes from the definition alone, never from what `start` was given."""
    handler = workflow.handler
    if handler is None:
        return _named(workflow.metadata.get("handler_path"))
    name = describe(handler)
    path = path_of(handler) if is_allowed(name) else None
    if path is not None and len(path) <= MAX_PATH_LENGTH:
        return _Handler(path)
    if not get_workflow_settings().run_async:
        return _Handler(name[:MAX_PATH_LENGTH], own=handler)
    if path is not None:
        return _Handler(error=_too_long(path))
    is_nowhere = "<" in name or name.startswith("__main__.")
    if not is_nowhere and not is_allowed(name):
        return _Handler(error=str(HandlerNotAllowedError(name)))
    return _Handler(error=str(HandlerNotImportableError(workflow.workflow_id, name)))


def _named(given: object) -> _Handler:
    if given is None:
        return _Handler()
    path = str(given)
    try:
        handler = resolve_handler(path)
    except Exception as error:  # noqa: BLE001 - a module that is imported runs the user's code
        return _Handler(error=error_text(error))
    if not callable(handler):
        return _Handler(error=f'metadata["handler_path"] names {path!r}, which is not callable')
    return _Handler(path, error=_too_long(path) if len(path) > MAX_PATH_LENGTH else None)


def _too_long(path: str) -> str:
    return f"The path {path!r} of the handler has more than {MAX_PATH_LENGTH} characters."


def _refusal(
    record: WorkflowExecutionRecord, verb: str, allowed: tuple[str, ...], detail: str = ""
) -> WorkflowInvalidStateError:
    is_cancelled = record.state == WorkflowState.CANCELLED
    kind = WorkflowCancelledError if is_cancelled else WorkflowInvalidStateError
    return kind(record.execution_id, verb, record.state, allowed, detail)
