"""The abstract engine: every verb, and what an engine says that it supports."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.core.checks import CheckMessage

from general_manager.exceptions import unsupported
from general_manager.workflow.admission.verbs import PauseVerbs
from general_manager.workflow.backends.async_verbs import AsyncVerbs
from general_manager.workflow.backends.lookup_verbs import Workflow
from general_manager.workflow.core.encoding import encode
from general_manager.workflow.durable.continuation import Resolutions, RetryPreview
from general_manager.workflow.durable.records import WaitSnapshot
from general_manager.workflow.durable.signals import SignalSnapshot
from general_manager.workflow.engine import WorkflowDefinition, WorkflowExecution
from general_manager.workflow.executions.rules import check_resolution
from general_manager.workflow.history import HistoryEntry

__all__ = ["WorkflowEngine"]


class WorkflowEngine(PauseVerbs, AsyncVerbs, ABC):
    """The base class of engines: `WORKFLOW_ENGINE` names a subclass of it.

    `start`, `resume`, `cancel` and `status` are required; `supports_...` says what else an engine
    can do. Each verb returns a snapshot. An execution is named by its id, or by *workflow* and
    *correlation_id*: the newest one under both.
    """

    supports_tables: ClassVar[bool] = False
    """Executions are rows of `WorkflowExecutionRecord`: they outlive the process, `start` is part
    of the caller's transaction, and the admin, the sweep and health read them."""
    supports_repairs: ClassVar[bool] = False
    """`retry_from_checkpoint`, `preview_retry`, `resolve_step`, `time_out` and `wake`."""
    supports_lookup: ClassVar[bool] = False
    """`executions`, `result`, `progress`, `find_wait`, `history`, `resume(label=)`, and executions
    that are named by their correlation id."""
    supports_signals: ClassVar[bool] = False
    """`signal`, `signals`, and `wait_for(signal=)`."""
    supports_pauses: ClassVar[bool] = False
    """`pause`, `unpause` and `pauses` of workflows."""
    supports_timers: ClassVar[bool] = False
    """Timers fire in this process, when `run_due` is called."""

    @abstractmethod
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
        """Start an execution, now or at the time *at*, which must be aware.

        While one with the same workflow id and *correlation_id* is active or completed, that one
        is returned and nothing is started. An empty *correlation_id* never matches.

        *subject* is the business object that it is about: a model instance, a manager, or a text
        such as ``Invoice 7``; by default the subject of the event whose handler runs here.
        *attributes* are a few single values, such as ``{"customer": 7}``. `executions` finds it by
        both.
        """

    @abstractmethod
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
        """Answer the open wait with *signal*; with *wait*, only if the open wait has that name.

        *label* is the text of the button that gave the answer, for pages that show it. Raises
        `WorkflowInvalidStateError` if no wait is open, and its subclass
        `WorkflowWaitMismatchError` if another wait is.
        """

    def signal(
        self,
        execution_id: str | None = None,
        name: str = "",
        value: Any = None,
        *,
        workflow: WorkflowDefinition | str | None = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """Send *value* under *name* to an active execution, whether or not it waits for it yet.

        Signals are kept in order. `wait_for` takes the oldest of its name: no signal comes too
        early. The execution is named by its id, or by *workflow* and *correlation_id*: the newest
        one under them. In a caller's transaction the signal is sent by its commit.

        Raises `WorkflowInvalidStateError` if the execution is over. A signal that crosses its end
        is kept, and `signals` shows it as unread.
        """
        raise unsupported(self, "signal")

    def signals(self, execution_id: str) -> list[SignalSnapshot]:
        """Every signal sent to the execution, and to those that it continues, in order."""
        raise unsupported(self, "signals")

    @abstractmethod
    def cancel(
        self,
        execution_id: str | None = None,
        *,
        reason: str | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
        compensate: bool = False,
    ) -> WorkflowExecution:
        """Stop an active execution permanently.

        At once; with *compensate* its open sagas are undone first, and it is active until then. The
        step under way may finish; every further one raises `WorkflowCancelRequested`. A plain
        cancel stops the undoing at once, and names in ``error`` what is left.
        """

    @abstractmethod
    def status(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """The execution as it is now; `WorkflowExecutionNotFoundError` if there is none."""

    def check(self) -> list[CheckMessage]:
        """Messages for `manage.py check` about this engine under the current settings."""
        return []

    def retry_from_checkpoint(
        self,
        execution_id: str | None = None,
        *,
        before: str | None = None,
        repeat_once: bool = False,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """Continue a failed or cancelled execution as a fresh one that keeps its finished steps.

        *before* names a step, a wait or a sleep: the fresh execution then runs that one again, and
        everything that ended after it. The old execution does not change. Raises
        `WorkflowInvalidStateError` if it is neither failed nor cancelled, was continued already,
        has no record named *before*, or has a step in doubt; if its correlation id is taken; and
        if a `once=True` step would run again, unless *repeat_once*. `preview_retry` reports all of
        this without changing anything.
        """
        if before is not None:
            _require_name("before", before)
        known_id = self._id_of(execution_id, workflow, correlation_id)
        return self._continue(known_id, {}, before=before, repeat_once=repeat_once)

    def resolve_step(
        self,
        execution_id: str,
        step: str,
        *,
        happened: bool,
        result: Any = None,
        repeat_once: bool = False,
    ) -> WorkflowExecution:
        """Record whether a `once=True` step in doubt *happened*, and continue like
        `retry_from_checkpoint`: if it happened, with *result* as its result; else it runs again.

        A `once=True` step that already has a result gets the new one, or runs again; everything
        that ended after it runs again too. That may include other `once=True` steps only with
        *repeat_once*.
        """
        check_resolution(step, happened)
        verdict = {step: (happened, encode(result, root="result"))}
        return self._continue(execution_id, verdict, before=None, repeat_once=repeat_once)

    def preview_retry(
        self, execution_id: str, *, before: str | None = None, repeat_once: bool = False
    ) -> RetryPreview:
        """What `retry_from_checkpoint` would keep, run and ask again, or why it would refuse."""
        raise unsupported(self, "preview_retry")

    def time_out(
        self,
        execution_id: str | None = None,
        *,
        wait: str | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """End the open wait now as if its timeout had passed: the handler gets `WaitTimeout`.

        With *wait*, only if the open wait has that name. Raises the same errors as `resume`.
        """
        raise unsupported(self, "time_out")

    def wake(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """End the delay before the next attempt, or a sleep, now."""
        raise unsupported(self, "wake")

    def history(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> list[HistoryEntry]:
        """Unusual events in the execution's life, in order: failed attempts, answers, repairs."""
        raise unsupported(self, "history")

    def find_wait(self, execution_id: str, name: str) -> WaitSnapshot | None:
        """The wait *name* as it is now; `None` if the execution has not reached it."""
        raise unsupported(self, "find_wait")

    def run_due(self) -> int:
        """Fire every due timer of this process; returns the number of executions that ran."""
        return 0

    def timers(self) -> list[timedelta]:
        """The time until each timer of this process fires; negative if it is due."""
        return []

    def move_timers(self, by: timedelta) -> None:
        """Make every timer of this process fire *by* sooner, for tests."""

    def _look(self, execution_id: str) -> WorkflowExecution:
        return self.status(execution_id)

    def _continue(
        self, execution_id: str, resolved: Resolutions, *, before: str | None, repeat_once: bool
    ) -> WorkflowExecution:
        raise unsupported(self, "retry_from_checkpoint")


def _require_name(argument: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be the name of a step, a wait or a sleep, not {value!r}")
