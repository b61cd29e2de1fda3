"""What is read of stored executions: their state, history, result, and those that match."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.db import router

from general_manager.conf import get_workflow_settings
from general_manager.escaping import is_storable
from general_manager.workflow.admission.lines import look_soon
from general_manager.workflow.admission.pausing import pause, read_pauses, unpause
from general_manager.workflow.backends.base import WorkflowEngine
from general_manager.workflow.backends.lookup_verbs import Workflow
from general_manager.workflow.core.context import current_run
from general_manager.workflow.core.transactions import is_in_transaction
from general_manager.workflow.durable.continuation import RetryPreview
from general_manager.workflow.durable.records import WaitSnapshot
from general_manager.workflow.engine import TERMINAL_STATES, WorkflowExecution
from general_manager.workflow.executions.children.counting import with_children
from general_manager.workflow.executions.query import ExecutionFilter, ExecutionSource
from general_manager.workflow.executions.repairs import find_wait, preview_retry
from general_manager.workflow.executions.results import IN_A_TRANSACTION
from general_manager.workflow.executions.runner import run_here
from general_manager.workflow.executions.search import StoredExecutions
from general_manager.workflow.history import HistoryEntry
from general_manager.workflow.models import WorkflowExecutionRecord
from general_manager.workflow.models.execution import Executions
from general_manager.workflow.models.pause import Released
from general_manager.workflow.pauses import Pause, PauseKind
from general_manager.workflow.transport.in_process import perform, perform_soon
from general_manager.workflow.transport.nudges import nudge


class StoredExecutionReader(WorkflowEngine):
    """The verbs that change no execution, over the tables."""

    supports_pauses = True

    def status(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        execution_id = self._id_of(execution_id, workflow, correlation_id)
        return with_children(self._executions, self._executions.by_id(execution_id))

    def preview_retry(
        self, execution_id: str, *, before: str | None = None, repeat_once: bool = False
    ) -> RetryPreview:
        return preview_retry(self._executions, execution_id, before, repeat_once=repeat_once)

    def find_wait(self, execution_id: str, name: str) -> WaitSnapshot | None:
        if not is_storable(name):  # so no wait has it
            self._executions.by_id(execution_id)
            return None
        return find_wait(self._executions, execution_id, name)

    def history(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> list[HistoryEntry]:
        execution_id = self._id_of(execution_id, workflow, correlation_id)
        record = self._executions.by_id(execution_id)
        rows = record.history.using(self._using).order_by("pk")
        return [row.as_entry() for row in rows]

    def _search(self, wanted: ExecutionFilter) -> ExecutionSource:
        return StoredExecutions(self._executions, wanted)

    def _reports(self, execution_id: str) -> Mapping[str, Any]:
        return self._executions.only("reports").by_id(execution_id).reports or {}

    def _look(self, execution_id: str) -> WorkflowExecution:
        """Without workers, it runs here what is due."""
        execution = self.status(execution_id)
        if execution.state in TERMINAL_STATES or get_workflow_settings().run_async:
            return execution
        if current_run() is None and not is_in_transaction(self._using):
            perform(lambda: run_here(execution_id, self._using), self._executions.db)
        return self.status(execution_id)

    def _why_not_wait(self) -> str:
        is_inside = is_in_transaction(self._using)
        return super()._why_not_wait() or (IN_A_TRANSACTION if is_inside else "")

    def _pause(self, workflow_id: str, reason: str) -> Pause:
        return pause(PauseKind.WORKFLOW, workflow_id, reason)

    def _unpause(self, workflow_id: str) -> bool:
        return unpause(PauseKind.WORKFLOW, workflow_id, _run_released)

    def _pauses(self) -> list[Pause]:
        return read_pauses(PauseKind.WORKFLOW)

    @property
    def _executions(self) -> Executions:
        return WorkflowExecutionRecord.objects.using(self._using)

    @property
    def _using(self) -> str:
        return str(router.db_for_write(WorkflowExecutionRecord))


def run_soon(execution_id: str, queue: str, slot_key: str | None, using: str) -> bool:
    """Run the execution after the commit, by a worker or here; true if it ran here at once.

    With a limit, look at its line then: it runs if it gets a slot.
    """
    run_async = get_workflow_settings().run_async
    if slot_key is not None:
        key = slot_key
        if run_async or is_in_transaction(using):
            look_soon(using, key, run_here)
            return False
        perform(lambda: look_soon(using, key, run_here), using)
        return True
    if run_async:
        nudge(using, queue)
        return False
    if is_in_transaction(using):
        perform_soon(lambda: run_here(execution_id, using), using)
        return False
    perform(lambda: run_here(execution_id, using), using)
    return True


def _run_released(using: str, released: Released) -> None:
    for line in released.lines:
        look_soon(using, line, run_here)
    if get_workflow_settings().run_async:
        for queue in released.queues:
            nudge(using, queue)
        return
    for one in released.ids:
        perform_soon(partial(run_here, one, using), using)
