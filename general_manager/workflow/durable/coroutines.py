"""The durable calls for ``async def`` handlers: each runs its twin in the handler's own thread.

There the connection, the transaction of an atomic step and the claim are at home. That thread does
one call after the other, so `asyncio.gather` runs steps in the order in which it starts them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async

from general_manager.workflow.durable import (
    Json,
    child_result,
    gather,
    report,
    sleep,
    step,
    wait_for,
)
from general_manager.workflow.durable.children.specs import RAISE, Child
from general_manager.workflow.durable.under_way import in_its_thread
from general_manager.workflow.engine import Retry, WorkflowDefinition

__all__ = ["achild_result", "agather", "areport", "asleep", "astep", "await_for"]


async def astep(
    name: str,
    fn: Callable[..., Any],
    /,
    *args: Any,
    once: bool = False,
    atomic: bool = True,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    **kwargs: Any,
) -> Any:
    """`step` for a coroutine: *fn* may be async or not. Its result comes back as JSON decodes it.

    The ORM's async methods, called in an atomic step's *fn*, write in the step's transaction.
    """
    call: Callable[..., Any] = partial(step, once=once, atomic=atomic, retry=retry, timeout=timeout)
    return await in_its_thread(name, partial(call, name, fn, *args, **kwargs))


async def await_for(
    name: str,
    *,
    signal: str | None = None,
    timeout: timedelta | None = None,
    ask: Callable[[], Any] | None = None,
) -> Any:
    """`wait_for` for a coroutine; *ask* may be async or not."""
    call = partial(wait_for, name, signal=signal, timeout=timeout, ask=ask)
    return await in_its_thread(name, call)


async def asleep(name: str, duration: timedelta) -> None:
    """`sleep` for a coroutine: durable, unlike `asyncio.sleep`."""
    await in_its_thread(name, partial(sleep, name, duration))


async def agather(
    name: str,
    children: Sequence[Child],
    *,
    at_once: int | None = None,
    on_failure: str = RAISE,
    timeout: timedelta | None = None,
) -> list[Any]:
    """`gather` for a coroutine."""
    options: dict[str, Any] = {"at_once": at_once, "on_failure": on_failure, "timeout": timeout}
    call: Callable[[], Any] = partial(gather, name, children, **options)
    found: list[Any] = await in_its_thread(name, call)
    return found


async def achild_result(
    name: str,
    definition: WorkflowDefinition,
    input_data: Mapping[str, Any] | None = None,
    *,
    correlation_id: str | None = None,
    abandon: bool = False,
    timeout: timedelta | None = None,
) -> dict[str, Any]:
    """`child_result` for a coroutine."""
    options: dict[str, Any] = {
        "correlation_id": correlation_id,
        "abandon": abandon,
        "timeout": timeout,
    }
    call: Callable[[], Any] = partial(child_result, name, definition, input_data, **options)
    output: dict[str, Any] = await in_its_thread(name, call)
    return output


async def areport(name: str, value: Json) -> None:
    """`report` for a coroutine."""
    await sync_to_async(report, thread_sensitive=True)(name, value)
