"""The calls of a handler: `step`, `wait_for`, `sleep`, which are durable, and `report`.

When an execution continues, its handler runs again from the top; finished calls return their
stored results.
"""

from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from functools import partial
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, overload

from general_manager.workflow.core.context import current_run
from general_manager.workflow.core.coroutines import require_a_thread, settled
from general_manager.workflow.durable.calls import Json as Json
from general_manager.workflow.durable.calls import (
    child,
    child_result,
    continue_as_new,
    current_execution_id,
    gather,
    report,
    saga,
    sleep,
    wait_for,
)
from general_manager.workflow.durable.options import StepOptions, checked
from general_manager.workflow.engine import Retry

__all__ = [
    "child",
    "child_result",
    "continue_as_new",
    "current_execution_id",
    "gather",
    "report",
    "saga",
    "sleep",
    "step",
    "wait_for",
]

AsText: TypeAlias = Enum | tuple[Any, ...]
"""Types that a type checker takes for JSON, but that come back as something else."""

P = ParamSpec("P")
R = TypeVar("R", bound=Json)


# The signatures of `step` for type checkers. JSON's own types come back unchanged. Members of an
# enum, tuples, and all that JSON turns into text are `Any`. The arguments are checked against the
# function's, unless an option of the step is among them: Python's types cannot express both.


@overload
def step(
    name: str,
    fn: Callable[..., AsText],
    /,
    *args: Any,
    once: bool,
    atomic: bool = True,
    retry: None = None,
    timeout: None = None,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str,
    fn: Callable[..., R],
    /,
    *args: Any,
    once: bool,
    atomic: bool = True,
    retry: None = None,
    timeout: None = None,
    **kwargs: Any,
) -> R: ...
@overload
def step(
    name: str,
    fn: Callable[..., object],
    /,
    *args: Any,
    once: bool,
    atomic: bool = True,
    retry: None = None,
    timeout: None = None,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str,
    fn: Callable[..., AsText],
    /,
    *args: Any,
    atomic: bool,
    once: Literal[False] = False,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str,
    fn: Callable[..., R],
    /,
    *args: Any,
    atomic: bool,
    once: Literal[False] = False,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    **kwargs: Any,
) -> R: ...
@overload
def step(
    name: str,
    fn: Callable[..., object],
    /,
    *args: Any,
    atomic: bool,
    once: Literal[False] = False,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str,
    fn: Callable[..., AsText],
    /,
    *args: Any,
    retry: Retry | None,
    once: Literal[False] = False,
    atomic: bool = True,
    timeout: timedelta | None = None,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str,
    fn: Callable[..., R],
    /,
    *args: Any,
    retry: Retry | None,
    once: Literal[False] = False,
    atomic: bool = True,
    timeout: timedelta | None = None,
    **kwargs: Any,
) -> R: ...
@overload
def step(
    name: str,
    fn: Callable[..., object],
    /,
    *args: Any,
    retry: Retry | None,
    once: Literal[False] = False,
    atomic: bool = True,
    timeout: timedelta | None = None,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str,
    fn: Callable[..., AsText],
    /,
    *args: Any,
    timeout: timedelta | None,
    once: Literal[False] = False,
    atomic: bool = True,
    retry: None = None,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str,
    fn: Callable[..., R],
    /,
    *args: Any,
    timeout: timedelta | None,
    once: Literal[False] = False,
    atomic: bool = True,
    retry: None = None,
    **kwargs: Any,
) -> R: ...
@overload
def step(
    name: str,
    fn: Callable[..., object],
    /,
    *args: Any,
    timeout: timedelta | None,
    once: Literal[False] = False,
    atomic: bool = True,
    retry: None = None,
    **kwargs: Any,
) -> Any: ...
@overload
def step(name: str, fn: partial[R], /, *args: Any, **kwargs: Any) -> R: ...
@overload
def step(name: str, fn: Callable[P, AsText], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
@overload
def step(name: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def step(name: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
def step(  # type: ignore[misc]  # the function's own arguments of these names cannot be given
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
    """Call ``fn(*args, **kwargs)`` once for the whole execution and return its result, encoded.

    A finished step is not called again when the execution continues: its stored result is
    returned, as JSON decodes it. *name* must be unique in a run.

    *atomic*: the database writes of *fn* commit together with the result, or not at all; pass
    `False` for long or external work. *once*: never call *fn* a second time, even if the outcome
    of the first call is unknown; that raises `StepInDoubt`.

    *retry* gives the step a budget of its own; between attempts the execution holds no worker.
    *timeout* limits one attempt; its later writes are discarded. After the last attempt such a
    step raises `StepFailed`, in every later run too; if the handler does not catch it, the
    execution fails at once. Other steps raise what *fn* raises, or `StepFailed` if that exception
    cannot be rebuilt in a later run; if the handler catches it, later runs raise it again instead
    of calling *fn*.

    *fn* may be async. Outside an execution this is a plain call. Raises `StepUsageError` for a name
    used twice, for a step inside a step and for *once* with *retry* or *timeout*, `EncodingError`
    for a result that is not JSON.
    """
    if not callable(fn):
        raise TypeError(f"Step {name!r} needs a callable, not {fn!r}")
    options = checked(name, StepOptions(once, atomic, retry, timeout))
    run = current_run()
    if run is None:
        return settled(fn(*args, **kwargs))
    require_a_thread("step()", "await astep(...)")
    return run.step(name, lambda: fn(*args, **kwargs), options)
