"""The verbs with which operators find and continue executions, the same on both engines."""

from abc import ABC, abstractmethod
from typing import Any

from general_manager.workflow.checkpoints import Resolutions, RetryPreview, Wanted
from general_manager.workflow.encoding import encode
from general_manager.workflow.engine import WorkflowExecution
from general_manager.workflow.rules import check_resolution
from general_manager.workflow.steps import WaitSnapshot


class OperatorVerbs(ABC):
    """What is public; an engine says how its executions are continued and found."""

    def retry_from_checkpoint(
        self, execution_id: str, *, before: str | None = None, repeat_once: bool = False
    ) -> WorkflowExecution:
        """Continue a failed or cancelled execution as a fresh one, which has its finished steps.

        With *before*, the name of a step, a wait or a sleep: without that one and everything that
        ended after it. The old execution stays as it is. Raises `WorkflowInvalidStateError` if it
        is neither failed nor cancelled, was continued before, has nothing of that name or a step
        in doubt, if its correlation id is taken by now, and if a `once=True` step would run again,
        unless *repeat_once*. `preview_retry` says all of it beforehand.
        """
        if before is not None:
            _require_name("before", before)
        return self._continue(execution_id, {}, before=before, repeat_once=repeat_once)

    def resolve_step(
        self,
        execution_id: str,
        step: str,
        *,
        happened: bool,
        result: Any = None,
        repeat_once: bool = False,
    ) -> WorkflowExecution:
        """Say what became of a `once=True` step in doubt, and continue like
        `retry_from_checkpoint`: with *result* for its result if it *happened*, else it runs again.

        A `once=True` step that has a result takes the new one, or runs again, and what ended after
        it is forgotten; another `once=True` step among that only if *repeat_once*.
        """
        check_resolution(step, happened)
        verdict = {step: (happened, encode(result, root="result"))}
        return self._continue(execution_id, verdict, before=None, repeat_once=repeat_once)

    def find_executions(
        self,
        *,
        workflow_id: str | None = None,
        correlation_id: str | None = None,
        subject: str | None = None,
        limit: int = 100,
    ) -> list[WorkflowExecution]:
        """The latest executions of which all that is given is true, the latest first.

        *subject* names the business object that the starting event was about: ``Invoice 7``.
        """
        return self._find(Wanted(workflow_id, correlation_id, subject), limit)

    @abstractmethod
    def preview_retry(
        self, execution_id: str, *, before: str | None = None, repeat_once: bool = False
    ) -> RetryPreview:
        """What `retry_from_checkpoint` would keep, run again and ask again, or why it refuses."""

    @abstractmethod
    def time_out(self, execution_id: str, *, wait: str | None = None) -> WorkflowExecution:
        """Have the open wait end now as if nobody had answered in time: `WaitTimeout`.

        *wait* makes sure that it waits for that. Raises what `resume` raises.
        """

    @abstractmethod
    def find_wait(self, execution_id: str, name: str) -> WaitSnapshot | None:
        """How the wait *name* stands; `None` if the execution has not come to it."""

    @abstractmethod
    def _continue(
        self, execution_id: str, resolved: Resolutions, *, before: str | None, repeat_once: bool
    ) -> WorkflowExecution: ...

    @abstractmethod
    def _find(self, wanted: Wanted, limit: int) -> list[WorkflowExecution]: ...


def _require_name(argument: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be the name of a step, a wait or a sleep, not {value!r}")
