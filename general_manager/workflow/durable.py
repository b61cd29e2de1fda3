"""What a handler may call to remember and to wait: `step`, `wait_for`, `sleep`.

When an execution continues, its handler runs again from the top; what these calls have finished
is answered from the store. The store is the engine's: a dictionary in local mode, tables in
production. Everything else about steps and waits is here, once.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from general_manager.workflow.encoding import copy_encoded, encode
from general_manager.workflow.exceptions import StepInDoubt, StepUsageError, WaitTimeout
from general_manager.workflow.ids import require_id

__all__ = ["current_execution_id", "sleep", "step", "wait_for"]


class StepStatus(StrEnum):
    BEGUN = "begun"
    """A `once=True` step was about to run."""
    OPEN = "open"
    """A wait without an outcome."""
    DONE = "done"
    """Finished: a step's result, or a wait's answer."""
    TIMED_OUT = "timed_out"
    """A wait whose outcome is that nobody answered."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What the store knows of one name: a step, a wait or a sleep."""

    name: str
    status: StepStatus
    result: Any = None
    until: datetime | None = None


class RunStore(Protocol):
    """Where one run keeps what it must not forget.

    Every write raises `StopRun` instead, if the execution is no longer this run's to write:
    cancelled, or taken over by another worker.
    """

    def load(self) -> dict[str, StepRecord]:
        """All that earlier runs of the execution recorded, by name."""
        ...

    def check(self) -> None:
        """Nothing, while the run may go on, as far as is known here without great cost."""
        ...

    def transaction(self) -> AbstractContextManager[object]:
        """What a step's own writes and its checkpoint share; it checks ownership as it ends."""
        ...

    def begin(self, name: str) -> None:
        """Record, durably and before the step runs, that a `once=True` step will."""
        ...

    def finish(self, name: str, result: Any) -> None:
        """Record that the step, or the sleep, is over, with its encoded *result*."""
        ...

    def open_wait(self, name: str, *, timeout: timedelta | None, answerable: bool) -> StepRecord:
        """Record that the execution waits; a wait that is not *answerable* ends by time alone."""
        ...

    def settle_wait(self, name: str) -> StepRecord:
        """The wait as it stands now, timed out if it is due: what is written once stands."""
        ...


class StopRun(BaseException):
    """Unwinds a handler that must not go on. Handlers' ``except Exception`` let it pass."""


class Suspended(StopRun):
    """The handler waits: for *name*, until *until* at the latest."""

    def __init__(self, name: str, until: datetime | None, *, answerable: bool) -> None:
        super().__init__(name, until)
        self.name = name
        self.until = until
        self.answerable = answerable


class Run:
    """One pass of a handler over an execution's recorded steps."""

    def __init__(self, execution_id: str, store: RunStore) -> None:
        self.execution_id = execution_id
        self.stopped: StopRun | None = None
        """Why the run must end, even if the handler swallowed the signal."""
        self._store = store
        self._records = store.load()
        self._used: set[str] = set()
        self._inside: str | None = None

    def step(
        self, name: str, call: Callable[[], Any], *, once: bool = False, atomic: bool = True
    ) -> Any:
        self._enter(name)
        record = self._records.get(name)
        if record is not None:
            if record.status is StepStatus.BEGUN:
                raise StepInDoubt(self.execution_id, name)
            return copy_encoded(record.result)
        with self._stopping():
            self._store.check()
            if once:
                self._store.begin(name)
            self._inside = name
            try:
                with self._store.transaction() if atomic else nullcontext():
                    result = encode(call(), root=f"the result of step {name!r}")
                    self._store.finish(name, result)
            finally:
                self._inside = None
        return copy_encoded(result)

    def wait_for(
        self, name: str, *, timeout: timedelta | None, ask: Callable[[], Any] | None
    ) -> Any:
        self._enter(name)
        record = self._records.get(name)
        with self._stopping():
            if record is None:
                record = self._store.open_wait(name, timeout=timeout, answerable=True)
            if record.status is StepStatus.OPEN:
                if ask is not None:
                    self.step(f"{name}: ask", ask)
                record = self._store.settle_wait(name)
            if record.status is StepStatus.OPEN:
                raise Suspended(name, record.until, answerable=True)
        if record.status is StepStatus.TIMED_OUT:
            raise WaitTimeout(name)
        return copy_encoded(record.result)

    def sleep(self, name: str, duration: timedelta) -> None:
        self._enter(name)
        record = self._records.get(name)
        with self._stopping():
            if record is None:
                record = self._store.open_wait(name, timeout=duration, answerable=False)
            if record.status is StepStatus.OPEN:
                record = self._store.settle_wait(name)
            if record.status is StepStatus.OPEN:
                raise Suspended(name, record.until, answerable=False)

    def _enter(self, name: str) -> None:
        require_id("A step's name", name)
        if self.stopped is not None:
            raise self.stopped  # the handler swallowed it; nothing more may happen in this run
        if self._inside is not None:
            raise StepUsageError(
                f"{name!r} is called inside step {self._inside!r}. A step is finished or not at "
                "all, so it can hold no step or wait of its own: call it from the handler."
            )
        if name in self._used:
            raise StepUsageError(
                f"The name {name!r} is used twice in one run. Names are how a finished step is "
                f'found again: in a loop, add what differs, as in f"{name} {{item_id}}".'
            )
        self._used.add(name)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        try:
            yield
        except StopRun as stop:
            self.stopped = stop
            raise


_current: Final[ContextVar[Run | None]] = ContextVar("general_manager_run", default=None)


@contextmanager
def running(run: Run | None) -> Iterator[None]:
    """Make *run* what `step`, `wait_for` and `sleep` speak to in this thread."""
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)


def step(
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
    run = _current.get()
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
    return _run_of("wait_for").wait_for(name, timeout=timeout, ask=ask)


def sleep(name: str, duration: timedelta) -> None:
    """Put the execution aside for *duration*, counted from the first time this is reached."""
    _require_duration("duration", duration)
    _run_of("sleep").sleep(name, duration)


def current_execution_id() -> str | None:
    """The id of the execution whose handler is running here, for links in mails and logs."""
    run = _current.get()
    return None if run is None else run.execution_id


def _run_of(function: str) -> Run:
    run = _current.get()
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
