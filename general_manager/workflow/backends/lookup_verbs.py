"""The verbs that look executions up: by what they are about, by their state, for their result."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from general_manager.exceptions import unsupported
from general_manager.workflow.core.context import current_run
from general_manager.workflow.durable.reports import PROGRESS
from general_manager.workflow.engine import WorkflowDefinition, WorkflowExecution, WorkflowState
from general_manager.workflow.executions.query import (
    CorrelationNotFoundError,
    ExecutionFilter,
    ExecutionQuery,
    ExecutionSource,
    make_filter,
    workflow_id_of,
)
from general_manager.workflow.executions.results import (
    HOLDS_A_WORKER,
    seconds_of,
    wait_for_result,
)

Workflow = WorkflowDefinition | str | None
"""A definition or its id: with a correlation id it names the newest execution under both."""


class LookupVerbs:
    """What every engine finds; an engine answers `_search` and `_reports`."""

    def executions(
        self,
        *,
        workflow: Workflow = None,
        state: WorkflowState | str | Collection[WorkflowState | str] | None = None,
        subject: object = None,
        attributes: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
    ) -> ExecutionQuery:
        """The executions that match every given value, newest first: lazy, see `ExecutionQuery`.

        *state* is one state or several; *subject* what `start` takes; *attributes* those that an
        execution must have, among others. It was started, as `start` was called, at or after
        *started_after* and before *started_before*. No timer fires.
        """
        wanted = make_filter(
            workflow=workflow,
            state=state,
            subject=subject,
            attributes=attributes,
            correlation_id=correlation_id,
            started_after=started_after,
            started_before=started_before,
        )
        return ExecutionQuery(self._search(wanted))

    def result(
        self,
        execution_id: str | None = None,
        *,
        timeout: timedelta | float | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> dict[str, Any]:
        """The output of the execution, once it is completed; waits for that in this thread.

        Raises `WorkflowFailedError` if it failed, `WorkflowCancelledError` if it was cancelled, and
        `ResultTimeout` if it is not over after *timeout* (a `timedelta` or seconds; 0 does not
        wait). Raises `CannotWaitError` instead of waiting inside a transaction, before whose commit
        it may not run, and inside a workflow's handler, whose worker it would hold.
        """
        seconds = seconds_of(timeout)
        known_id = self._id_of(execution_id, workflow, correlation_id)
        return wait_for_result(known_id, self._look, timeout=seconds, why_not=self._why_not_wait)

    def progress(
        self,
        execution_id: str | None = None,
        *,
        name: str = PROGRESS,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> Any:
        """What the handler last reported under *name*; `None` if it has reported nothing."""
        known_id = self._id_of(execution_id, workflow, correlation_id)
        return self._reports(known_id).get(name)

    def _search(self, wanted: ExecutionFilter) -> ExecutionSource:
        raise unsupported(self, "executions")

    def _reports(self, execution_id: str) -> Mapping[str, Any]:
        raise unsupported(self, "progress")

    def _look(self, execution_id: str) -> WorkflowExecution:
        """The execution for a caller that waits for it; may do what is due in this process."""
        raise unsupported(self, "result")

    def _why_not_wait(self) -> str:
        """Why a caller must not wait for an execution here; empty if it may."""
        return HOLDS_A_WORKER if current_run() is not None else ""

    def _id_of(self, execution_id: Any, workflow: Workflow, correlation_id: str | None) -> str:
        """The id as it was given, or that of the newest execution under a correlation id."""
        if workflow is None and correlation_id is None:
            return cast(str, execution_id)  # whatever it is: the look-up checks it
        if execution_id is not None or workflow is None or correlation_id is None:
            raise TypeError("Name an execution by its id, or by workflow= and correlation_id=")
        found = self.executions(workflow=workflow, correlation_id=correlation_id).first()
        if found is None:
            raise CorrelationNotFoundError(workflow_id_of(workflow), correlation_id)
        return found.execution_id
