"""User code may be ``async def``: what it returns is awaited here, whatever form it has.

What a call returns tells a coroutine function, a partial of one, an object with an async
``__call__``, and a plain function that returns a coroutine. It runs to its end on an event loop of
its own, with the caller's context variables. asgiref runs what is sensitive to threads, such as the
ORM, in the calling thread: on the connection, and inside the transaction, that are open here.
"""

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from inspect import isawaitable
from typing import Any

from asgiref.sync import async_to_sync

from general_manager.workflow.exceptions import StepUsageError


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What user code returns, or what awaiting that gives; it runs in a context of its own.

    It sees the caller's context variables. What it sets in them ends with it, so a language or time
    zone that it activates is not the next one's in this thread.
    """
    return copy_context().run(_called, function, arguments)


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return settled(function(*arguments))


def settled(value: Any) -> Any:
    """*value*, or what awaiting it gives. Raises `StepUsageError` on an event loop's thread."""
    if value is None or not isawaitable(value):  # most handlers of events return nothing
        return value
    if is_on_a_loop():
        close = getattr(value, "close", None)
        if close is not None:
            close()  # or Python warns that it was never awaited
        raise StepUsageError(
            "An async function is to be run on the thread of an event loop, which would wait for "
            "itself. In async code call the twins: await engine.astart(...), "
            "await registry.apublish(...), await astep(...)."
        )
    return async_to_sync(_awaited)(value)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def require_a_thread(what: str, twin: str) -> None:
    """A coroutine runs on the thread of an event loop, where Django refuses the database."""
    if is_on_a_loop():
        raise StepUsageError(f"{what} was called in a coroutine: write {twin}.")


def is_on_a_loop() -> bool:
    """Whether an event loop runs in this thread, so that no code here may block it."""
    try:
        get_running_loop()
    except RuntimeError:
        return False
    return True
