"""One pass of a handler over what its execution has recorded, whatever keeps the records.

The store is the engine's: a dictionary in local mode, tables in production. Everything else about
steps and waits is here, once.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from general_manager.workflow.encoding import copy_encoded, encode, encode_mapping
from general_manager.workflow.engine import WorkflowHandler
from general_manager.workflow.exceptions import (
    PermanentFailure,
    StepInDoubt,
    StepUsageError,
    WaitTimeout,
    WorkflowError,
    ends_the_process,
    is_permanent,
)
from general_manager.workflow.ids import require_id
from general_manager.workflow.importing import describe
from general_manager.workflow.steps import (
    ASK_SUFFIX,
    RunStore,
    StepStatus,
    within_limit,
)
from general_manager.workflow.transactions import Surroundings

Result = TypeVar("Result")


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


class Interrupted(StopRun):
    """The database failed a checkpoint, or undid a step: *error* is not the handler's failure."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


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
        self._around = Surroundings(store.using)
        self._again: list[Callable[[], object]] = []

    @property
    def failed_in(self) -> str:
        """The step that raised last."""
        return self._trouble[0] if self._trouble is not None else ""

    def do_again_if_undone(self, act: Callable[[], object]) -> None:
        """*act* was done in a step of this run: it stands, though the step be undone.

        A cancellation of the execution by itself is one: it ends the claim, and so the step.
        """
        if self._inside is not None:
            self._again.append(act)

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
        self._around = Surroundings(self._store.using)
        token = enter_run(self)
        try:
            output = handler(input_data)
            self._around.close_what_was_left_open(describe(handler))
        except StopRun as stop:
            self.stopped = self.stopped or stop
            return {}
        except BaseException as error:
            if ends_the_process(error):
                raise
            if self.stopped is None and self._around.explain(error) and not is_permanent(error):
                self.stopped = Interrupted(error)
            if self.stopped is None:
                raise
            return {}
        finally:
            leave_run(token)
            self._around.discard_what_was_left_open(describe(handler))
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
        if once or not atomic:
            self._around.require_none_inside(f"step {name!r}, which must be remembered at once,")
        with self._stopping():
            if not atomic:
                self._ask(self._store.check)  # an atomic step's transaction asks for itself
            if once:
                self._ask(self._store.begin, name)
            take = self._take_in_transaction if atomic else self._take
            try:
                result = take(name, call)
            except (Exception, Interrupted) as error:
                self._trouble = (name, error)
                raise
        return copy_encoded(result)

    def _take(self, name: str, call: Callable[[], Any]) -> Any:
        what = f"step {name!r}"
        try:
            result = self._called(name, call)
        except BaseException:
            self._around.discard_what_was_left_open(what)
            raise
        self._around.close_what_was_left_open(what)
        self._ask(self._store.finish, name, result)
        return result

    def _take_in_transaction(self, name: str, call: Callable[[], Any]) -> Any:
        self._again.clear()
        try:
            with self._store.transaction():
                result = self._called(name, call)
                self._store.finish(name, result)
        except BaseException as error:
            for act in self._again:
                act()
            if isinstance(error, StopRun) or ends_the_process(error):
                raise
            if self._store.was_undone_by_the_database(error) and not is_permanent(error):
                raise Interrupted(error) from error
            raise
        return result

    def _ask(self, verb: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """What the store answers: its trouble is not the handler's, and ends the run."""
        try:
            return verb(*arguments, **options)
        except WorkflowError:  # it refuses
            raise
        except Exception as error:
            raise Interrupted(error) from error

    def _called(self, name: str, call: Callable[[], Any]) -> Any:
        self._inside = name
        try:
            return within_limit(encode(call(), root=f"the result of step {name!r}"), name)
        finally:
            self._inside = None

    def wait_for(
        self, name: str, *, timeout: timedelta | None, ask: Callable[[], Any] | None
    ) -> Any:
        question = f"{name}{ASK_SUFFIX}"
        if ask is not None:
            require_id("A wait's name with ': ask' behind it", question)
        self._enter(name)
        self._around.require_none_inside(f"wait_for({name!r})")
        record = self._records.get(name)
        with self._stopping():
            if record is None:
                record = self._ask(self._store.open_wait, name, timeout=timeout, answerable=True)
            if record.status is StepStatus.OPEN:
                if ask is not None:
                    self.step(question, ask)
                record = self._ask(self._store.settle_wait, name)
            if record.status is StepStatus.OPEN:
                raise Suspended(name, record.until, answerable=True)
        if record.status is StepStatus.TIMED_OUT:
            raise WaitTimeout(name)
        return copy_encoded(record.result)

    def sleep(self, name: str, duration: timedelta) -> None:
        self._enter(name)
        self._around.require_none_inside(f"sleep({name!r})")
        record = self._records.get(name)
        with self._stopping():
            if record is None:
                record = self._ask(self._store.open_wait, name, timeout=duration, answerable=False)
            if record.status is StepStatus.OPEN:
                record = self._ask(self._store.settle_wait, name)
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
            self._around.expect_changes()
        except StopRun as stop:
            self.stopped = stop
            raise


_current: Final[ContextVar[Run | None]] = ContextVar("general_manager_run", default=None)


def enter_run(run: Run | None) -> Token[Run | None]:
    """Make *run* what `step`, `wait_for` and `sleep` speak to in this thread."""
    return _current.set(run)


def leave_run(token: Token[Run | None]) -> None:
    """Go back to what was before `enter_run`."""
    _current.reset(token)


def current_run() -> Run | None:
    return _current.get()
