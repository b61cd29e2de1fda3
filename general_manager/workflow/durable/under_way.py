"""The durable calls of a coroutine: each runs in its handler's thread, and none is cut off.

`asyncio.timeout` around a call ends it by the clock of one run. The handler sees `TimeoutError`,
and a later run, which finds the call finished or waits less long, would take another branch.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asgiref.sync import sync_to_async

from general_manager.workflow.core.context import current_run
from general_manager.workflow.exceptions import StepUsageError


@dataclass(eq=False, slots=True)
class _Call:
    name: str
    is_excused: bool = False


class UnderWay:
    """The calls of one run that a coroutine awaits, and the first one that was cut off."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._cut_off = ""

    async def awaited(self, name: str, call: Callable[..., Any]) -> Any:
        """The result of *call*, made in the thread of the handler's run."""
        mine = _Call(name)
        self._calls.append(mine)
        try:
            return await sync_to_async(call, thread_sensitive=True)()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_asked_to_end():
                self._cut_off = self._cut_off or ("" if mine.is_excused else name)
            else:
                self._excuse_others()
            raise
        finally:
            self._calls.remove(mine)

    def _excuse_others(self) -> None:
        """A call has failed: a `TaskGroup` cancels the others, in this run and in every later one.

        What leaves the group is that failure.
        """
        for one in self._calls:
            one.is_excused = True

    def require_whole(self) -> None:
        """Raises `StepUsageError` if the handler goes on after a call that was cut off."""
        if self._cut_off:
            raise StepUsageError(
                f"{self._cut_off!r} was cut off from outside, as asyncio.timeout(), "
                "asyncio.wait_for() and Task.cancel() do it, and the handler goes on. A later run "
                "may find it finished, and would take another branch: limit it by timeout= of the "
                "step or of the wait."
            )


def _is_asked_to_end() -> bool:
    """Whether this task was cancelled, rather than what it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def in_its_thread(name: str, call: Callable[[], Any]) -> Any:
    """Make the durable call *name* in the thread of the handler's run."""
    run = current_run()
    if run is None:
        return await sync_to_async(call, thread_sensitive=True)()
    return await run.under_way.awaited(name, call)
