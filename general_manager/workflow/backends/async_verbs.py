"""The engine's verbs for async code. Each runs its twin in the thread that Django's ORM uses there.

Django has no async transactions: code that needs one goes into a plain function, with the plain
verbs, that is called by ``sync_to_async``.
"""

from asyncio import sleep
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

from general_manager.workflow.backends.lookup_verbs import LookupVerbs, Workflow
from general_manager.workflow.durable.reports import PROGRESS
from general_manager.workflow.engine import WorkflowDefinition, WorkflowExecution
from general_manager.workflow.executions.results import Waiting, seconds_of

Result = TypeVar("Result")


class AsyncVerbs(LookupVerbs):
    """`astart`, `aresume`, `asignal`, `acancel`, `astatus`, `aresult` and `aprogress`."""

    start: Callable[..., WorkflowExecution]
    resume: Callable[..., WorkflowExecution]
    signal: Callable[..., WorkflowExecution]
    cancel: Callable[..., WorkflowExecution]
    status: Callable[..., WorkflowExecution]

    async def astart(
        self,
        workflow: WorkflowDefinition,
        input_data: Mapping[str, Any] | None = None,
        *,
        correlation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        at: datetime | None = None,
        subject: object = None,
        attributes: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> WorkflowExecution:
        """`start`, from async code."""
        given = {
            "correlation_id": correlation_id, "metadata": metadata, "at": at, "subject": subject,
            "attributes": attributes,
        }  # fmt: skip
        return await _in_thread(self.start)(workflow, input_data, **_given(given), **options)

    async def aresume(
        self,
        execution_id: str | None = None,
        signal: Any = None,
        *,
        wait: str | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
        **options: Any,
    ) -> WorkflowExecution:
        """`resume`, from async code."""
        given = {"wait": wait, "workflow": workflow, "correlation_id": correlation_id}
        return await _in_thread(self.resume)(execution_id, signal, **_given(given), **options)

    async def asignal(
        self,
        execution_id: str | None = None,
        name: str = "",
        value: Any = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """`signal`, from async code."""
        given = {"workflow": workflow, "correlation_id": correlation_id}
        return await _in_thread(self.signal)(execution_id, name, value, **_given(given))

    async def acancel(
        self,
        execution_id: str | None = None,
        *,
        reason: str | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
        compensate: bool = False,
        **options: Any,
    ) -> WorkflowExecution:
        """`cancel`, from async code."""
        given = {
            "reason": reason,
            "workflow": workflow,
            "correlation_id": correlation_id,
            "compensate": compensate or None,
        }
        return await _in_thread(self.cancel)(execution_id, **_given(given), **options)

    async def astatus(
        self,
        execution_id: str | None = None,
        *,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> WorkflowExecution:
        """`status`, from async code."""
        given = {"workflow": workflow, "correlation_id": correlation_id}
        return await _in_thread(self.status)(execution_id, **_given(given))

    async def aprogress(
        self,
        execution_id: str | None = None,
        *,
        name: str = PROGRESS,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> Any:
        """`progress`, from async code."""
        given = {"workflow": workflow, "correlation_id": correlation_id}
        return await _in_thread(self.progress)(execution_id, name=name, **given)

    async def aresult(
        self,
        execution_id: str | None = None,
        *,
        timeout: timedelta | float | None = None,
        workflow: Workflow = None,
        correlation_id: str | None = None,
    ) -> dict[str, Any]:
        """`result`, from async code: between two questions it holds no thread."""
        waiting = Waiting(seconds_of(timeout))
        known_id = await _in_thread(self._id_of)(execution_id, workflow, correlation_id)
        look = _in_thread(waiting.look)
        while (output := await look(known_id, self._look, self._why_not_wait)) is None:
            await sleep(waiting.pause)
        return output


def _in_thread(call: Callable[..., Result]) -> Callable[..., Awaitable[Result]]:
    return sync_to_async(call, thread_sensitive=True)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the caller gave: an engine of a project's own may lack the rest."""
    return {name: value for name, value in options.items() if value is not None}
