"""The calls of a handler that take no function of its own: waits, sagas, reports."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeAlias

from general_manager.workflow.core.context import current_run
from general_manager.workflow.core.coroutines import require_a_thread
from general_manager.workflow.core.ids import require_id
from general_manager.workflow.durable.children.specs import (
    COLLECT,
    RAISE,
    Child,
    GatherOptions,
)
from general_manager.workflow.durable.children.specs import child as child
from general_manager.workflow.durable.plain_saga import PlainSaga
from general_manager.workflow.durable.renewal import end_as_new
from general_manager.workflow.durable.run import Run
from general_manager.workflow.durable.sagas import Block
from general_manager.workflow.engine import WorkflowDefinition
from general_manager.workflow.exceptions import StepUsageError

LONGEST_WAIT: Final = timedelta(days=36_500)
"""Longer waits are cut to this: later dates are past the calendar's end."""

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


def wait_for(
    name: str,
    *,
    signal: str | None = None,
    timeout: timedelta | None = None,
    ask: Callable[[], Any] | None = None,
) -> Any:
    """Wait until `resume` or a signal answers, and return the answer.

    It takes the oldest signal that was sent under the name *signal*, by default *name*, and that
    no earlier wait has taken: at once if there is one, and then nothing is asked.

    Meanwhile the execution is ``waiting`` and holds no thread. *ask* is called as a step of its
    own once the wait is open, so an answer cannot come too early. Raises `WaitTimeout` if there is
    no answer within *timeout*. The outcome, answer or timeout, is written once and never changes.
    """
    timeout = checked_timeout(timeout)
    if ask is not None and not callable(ask):
        raise TypeError(f"ask must be callable, not {ask!r}")
    if signal is not None:
        require_id("signal", signal)
    require_a_thread("wait_for()", "await await_for(...)")
    run = run_of("wait_for")
    return run.wait(name, timeout, ask, signal=signal or name).own_result()


def sleep(name: str, duration: timedelta) -> None:
    """Suspend the execution for *duration*, counted from the first time this is reached."""
    _require_duration("duration", duration)
    require_a_thread("sleep()", "await asleep(...)")
    run_of("sleep").sleep(name, min(duration, LONGEST_WAIT))


def gather(
    name: str,
    children: Sequence[Child],
    *,
    at_once: int | None = None,
    on_failure: str = RAISE,
    timeout: timedelta | None = None,
) -> list[Any]:
    """Start *children*, wait until all are over, and return their outputs, in order.

    ::

        parts = gather("pages", [child(PAGE, {"page": n}) for n in pages], at_once=20)

    Meanwhile the execution is ``waiting`` and holds no thread; it continues once, after the last
    child. At most *at_once* of them are started and not over at a time. With ``on_failure="raise"``
    the first child that fails ends the others, and `ChildFailed` is raised once all are over; with
    ``"collect"`` each failed child's place holds its `ChildFailed`. If the children are not over
    within *timeout*, those that are left are cancelled, and `WaitTimeout` is raised.

    If the execution is cancelled or fails, so are its children, except those with ``abandon=True``.
    Raises `StepUsageError` for a key used twice, and `ChildCycle` for a child that waits for this
    execution.
    """
    if at_once is not None and (isinstance(at_once, bool) or not isinstance(at_once, int)):
        raise TypeError(f"at_once must be a whole number or None, not {at_once!r}")
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once must be 1 or more, not {at_once}")
    if on_failure not in (RAISE, COLLECT):
        raise ValueError(f'on_failure must be "raise" or "collect", not {on_failure!r}')
    if timeout is not None:
        _require_duration("timeout", timeout)
        timeout = min(timeout, LONGEST_WAIT)
    require_a_thread("gather()", "await agather(...)")
    options = GatherOptions(at_once, on_failure, timeout)
    return run_of("gather").gatherings.gather(name, children, options)


def child_result(
    name: str,
    definition: WorkflowDefinition,
    input_data: Mapping[str, Any] | None = None,
    *,
    correlation_id: str | None = None,
    abandon: bool = False,
    timeout: timedelta | None = None,
) -> dict[str, Any]:
    """Start one child, wait until it is over, and return its output.

    Raises `ChildFailed` if it fails or is cancelled, and as `gather` otherwise.
    """
    one = child(definition, input_data, correlation_id=correlation_id, abandon=abandon)
    output: dict[str, Any] = gather(name, [one], timeout=timeout)[0]
    return output


def continue_as_new(input_data: Mapping[str, Any]) -> NoReturn:
    """End this execution here, and go on with a new one that has *input_data* and no steps.

    For workflows without an end, so that their histories have one. In one commit the execution is
    completed and the new one started, with its correlation id, its deadline and the signals that
    nobody has read. The old id then answers for the new one. Raises `StepUsageError` inside a step,
    in a transaction, in a saga, and while a wait is open.
    """
    end_as_new(run_of("continue_as_new"), input_data)


def report(name: str, value: Json) -> None:
    """Say how far the execution is: ``report("progress", {"done": 3, "of": 10})``.

    The engine's `progress` returns the last *value* of each *name*, and pages show ``progress`` as
    a bar. Written at most once a second, and when the run ends; inside a transaction, such as that
    of an atomic step, after its commit. It is no step: when the handler runs again, it reports
    again. Outside an execution it does nothing. Raises `EncodingError` for a value that is not JSON
    or has more than 4,000 bytes.
    """
    run: Run | None = current_run()
    if run is not None:
        require_a_thread("report()", "await areport(...)")
        run.report(name, value)


def saga(name: str) -> Block | PlainSaga:
    """A block whose steps are undone if an exception leaves it for good.

    ::

        with saga("booking") as undo:
            undo("refund", refund_if_charged, key)
            step("charge", charge, key, atomic=False)

    ``undo(name, fn, *args, atomic=True, retry=None, **kwargs)`` registers a call. If an exception
    leaves the block that no further attempt of the execution follows, it is recorded; then the
    registered calls run as steps, last first, each retried for a day unless *retry* says
    otherwise; then the exception goes on. Register what takes back an effect outside the database
    before its step, with a key of your own, and let it do nothing if there is nothing to take back.

    Inside another saga, a block that ends well leaves its undos to that one. Outside an execution
    the calls are made at once. *name* must be unique in a run. In a coroutine write
    ``async with saga(...)``; what is registered may be async.
    """
    run: Run | None = current_run()
    return PlainSaga() if run is None else run.saga(name)


def current_execution_id() -> str | None:
    """The id of the execution whose handler is running here, for links in mails and logs."""
    run: Run | None = current_run()
    return None if run is None else run.execution_id


def run_of(function: str) -> Run:
    """The run of the handler that calls *function*; raises `StepUsageError` outside of one."""
    run: Run | None = current_run()
    if run is None:
        raise StepUsageError(
            f"{function}() was called outside a workflow's handler, so no execution can wait: "
            "start an execution with get_workflow_engine().start(...)."
        )
    return run


def checked_timeout(timeout: timedelta | None) -> timedelta | None:
    """*timeout*, at most `LONGEST_WAIT`; raises `TypeError` or `ValueError` for a wrong one."""
    if timeout is None:
        return None
    _require_duration("timeout", timeout)
    return min(timeout, LONGEST_WAIT)


def _require_duration(argument: str, value: object) -> None:
    if not isinstance(value, timedelta):
        raise TypeError(f"{argument} must be a timedelta, not {value!r}")
    if value < timedelta(0):
        raise ValueError(f"{argument} must not be negative: {value!r}")
