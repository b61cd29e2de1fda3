"""One pass of a handler over what its execution has recorded, whatever keeps the records.

The store is the engine's: a dictionary in local mode, tables in production. Everything else about
steps and waits is here, once.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from datetime import datetime, timedelta
from json import dumps
from typing import Any, Final, Protocol

from general_manager.conf import get_workflow_settings, is_configured
from general_manager.workflow.encoding import copy_encoded, encode, encode_mapping
from general_manager.workflow.engine import WorkflowHandler
from general_manager.workflow.exceptions import (
    EncodingError,
    PermanentFailure,
    StepInDoubt,
    StepUsageError,
    WaitTimeout,
)
from general_manager.workflow.ids import require_id
from general_manager.workflow.importing import describe
from general_manager.workflow.steps import ASK_SUFFIX, StepRecord, StepStatus


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
        """What a step's own writes and its checkpoint share, and the question of ownership."""
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


LONGEST_CHAIN: Final = 20
"""Causes of an error that are looked through for the step that raised it."""


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
        self._trouble: tuple[str, BaseException] | None = None
        """The step that raised last, and what it raised."""

    def where(self, error: BaseException) -> str:
        """The step that raised *error*, or what led to it; empty if it came from between steps."""
        seen: BaseException | None = error
        for _ in range(LONGEST_CHAIN):  # a cause may be its own cause
            if seen is None or self._trouble is None:
                break
            if seen is self._trouble[1]:
                return self._trouble[0]
            seen = seen.__cause__ or seen.__context__
        return error.name if isinstance(error, StepInDoubt | WaitTimeout) else ""

    def call(self, handler: WorkflowHandler, input_data: dict[str, Any]) -> dict[str, Any]:
        """Run *handler* and return its encoded output.

        Once the run was told to stop, `stopped` says why and nothing else counts: neither what the
        handler returns nor what it raises. Otherwise raises what the handler raises, and
        `PermanentFailure` or `EncodingError` for an output that cannot be kept.
        """
        token = enter_run(self)
        try:
            output = handler(input_data)
        except StopRun as stop:
            self.stopped = self.stopped or stop
            return {}
        except Exception:
            if self.stopped is None:
                raise
            return {}
        finally:
            leave_run(token)
        if self.stopped is not None or output is None:
            return {}
        if not isinstance(output, Mapping):
            raise PermanentFailure(
                f"The handler {describe(handler)} must return a mapping or None, not {output!r}"
            )
        return encode_mapping(output, root="output")

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
            if not atomic:
                self._store.check()  # an atomic step's transaction asks for itself
            if once:
                self._store.begin(name)
            self._inside = name
            try:
                with self._store.transaction() if atomic else nullcontext():
                    result = _checked(encode(call(), root=f"the result of step {name!r}"), name)
                    self._store.finish(name, result)
            except Exception as error:
                self._trouble = (name, error)
                raise
            finally:
                self._inside = None
        return copy_encoded(result)

    def wait_for(
        self, name: str, *, timeout: timedelta | None, ask: Callable[[], Any] | None
    ) -> Any:
        question = f"{name}{ASK_SUFFIX}"
        if ask is not None:
            require_id("A wait's name with ': ask' behind it", question)
        self._enter(name)
        record = self._records.get(name)
        with self._stopping():
            if record is None:
                record = self._store.open_wait(name, timeout=timeout, answerable=True)
            if record.status is StepStatus.OPEN:
                if ask is not None:
                    self.step(question, ask)
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


def _checked(result: Any, name: str) -> Any:
    """The encoded *result*, if it is not too large to be read again with every run."""
    most = get_workflow_settings().step_result_max_bytes if is_configured() else None
    size = len(dumps(result, ensure_ascii=False).encode()) if most is not None else 0
    if most is not None and size > most:
        raise EncodingError(
            f"the result of step {name!r}",
            f"it is {size:,} bytes of JSON, and at most {most:,} are kept "
            "(WORKFLOW_STEP_RESULT_MAX_BYTES): store it elsewhere and return where it is",
        )
    return result


_current: Final[ContextVar[Run | None]] = ContextVar("general_manager_run", default=None)


def enter_run(run: Run | None) -> Token[Run | None]:
    """Make *run* what `step`, `wait_for` and `sleep` speak to in this thread."""
    return _current.set(run)


def leave_run(token: Token[Run | None]) -> None:
    """Go back to what was before `enter_run`."""
    _current.reset(token)


def current_run() -> Run | None:
    return _current.get()
