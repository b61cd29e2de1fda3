"""What a handler may call to remember and to wait: `step`, `wait_for`, `sleep`.

When an execution continues, its handler runs again from the top; what these calls have finished
is answered from the store.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, overload

from general_manager.workflow.exceptions import StepUsageError
from general_manager.workflow.runs import Run, current_run

__all__ = ["current_execution_id", "sleep", "step", "wait_for"]

FOR_EVER: Final = timedelta(days=36_500)
"""Longer waits are taken for this long: later dates are past the calendar's end."""


Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

AsText: TypeAlias = Enum | tuple[Any, ...]
"""What looks like JSON to a type checker, and comes back as something else."""

P = ParamSpec("P")
R = TypeVar("R", bound=Json)


# What a type checker sees of `step`. JSON's own types come back as they were; members of an enum
# and tuples, which look like such, and all that JSON turns into text are `Any`. The arguments are
# checked against the function's, unless `once` or `atomic` are among them: Python cannot say both.


@overload
def step(
    name: str,
    fn: Callable[..., AsText],
    /,
    *args: Any,
    once: bool,
    atomic: bool = True,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str, fn: Callable[..., R], /, *args: Any, once: bool, atomic: bool = True, **kwargs: Any
) -> R: ...
@overload
def step(
    name: str,
    fn: Callable[..., object],
    /,
    *args: Any,
    once: bool,
    atomic: bool = True,
    **kwargs: Any,
) -> Any: ...
@overload
def step(
    name: str, fn: Callable[..., AsText], /, *args: Any, atomic: bool, **kwargs: Any
) -> Any: ...
@overload
def step(name: str, fn: Callable[..., R], /, *args: Any, atomic: bool, **kwargs: Any) -> R: ...
@overload
def step(
    name: str, fn: Callable[..., object], /, *args: Any, atomic: bool, **kwargs: Any
) -> Any: ...
@overload
def step(name: str, fn: partial[R], /, *args: Any, **kwargs: Any) -> R: ...
@overload
def step(name: str, fn: Callable[P, AsText], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
@overload
def step(name: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def step(name: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...
def step(  # type: ignore[misc]  # the function's own `once` and `atomic`, which it cannot be given
    name: str,
    fn: Callable[..., Any],
    /,
    *args: Any,
    once: bool = False,
    atomic: bool = True,
    **kwargs: Any,
) -> Any:
    """Call ``fn(*args, **kwargs)`` once for the whole execution and return its result, encoded.

    A finished step is not called again when the execution continues; its stored result is
    returned, as JSON gives it back. *name* must be unique in a run.

    *atomic*: what *fn* writes to the database commits together with the result, or not at all;
    `False` for long or external work. *once*: never call *fn* a second time, even if nobody knows
    how the first call ended; that raises `StepInDoubt`.

    Outside an execution this is a plain call. Raises `StepUsageError` for a name used twice and
    for a step inside a step, `EncodingError` for a result that is not JSON.
    """
    if not callable(fn):
        raise TypeError(f"Step {name!r} needs something to call, not {fn!r}")
    run = current_run()
    if run is None:
        return fn(*args, **kwargs)
    return run.step(name, lambda: fn(*args, **kwargs), once=once, atomic=atomic)


def wait_for(
    name: str, *, timeout: timedelta | None = None, ask: Callable[[], Any] | None = None
) -> Any:
    """Wait until `resume` answers, and return the answer.

    Meanwhile the execution is ``waiting`` and holds no thread. *ask* is called as a step of its
    own once the wait is open, so that no answer can come too early. Raises `WaitTimeout` when
    nobody answers within *timeout*; answer or timeout, the outcome is written once and stands.
    """
    if timeout is not None:
        _require_duration("timeout", timeout)
    if ask is not None and not callable(ask):
        raise TypeError(f"ask must be callable, not {ask!r}")
    timeout = None if timeout is None else min(timeout, FOR_EVER)
    return _run_of("wait_for").wait_for(name, timeout=timeout, ask=ask)


def sleep(name: str, duration: timedelta) -> None:
    """Put the execution aside for *duration*, counted from the first time this is reached."""
    _require_duration("duration", duration)
    _run_of("sleep").sleep(name, min(duration, FOR_EVER))


def current_execution_id() -> str | None:
    """The id of the execution whose handler is running here, for links in mails and logs."""
    run = current_run()
    return None if run is None else run.execution_id


def _run_of(function: str) -> Run:
    run = current_run()
    if run is None:
        raise StepUsageError(
            f"{function}() was called outside a workflow's handler, where nothing can wait: "
            "start an execution with get_workflow_engine().start(...)."
        )
    return run


def _require_duration(argument: str, value: object) -> None:
    if not isinstance(value, timedelta):
        raise TypeError(f"{argument} must be a timedelta, not {value!r}")
    if value < timedelta(0):
        raise ValueError(f"{argument} must not be negative: {value!r}")
