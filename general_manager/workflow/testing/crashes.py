"""Kill a workflow before, in and after each of its steps, and see whether it ends the same."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS, transaction

from general_manager.workflow.encoding import copy_encoded, encode, encode_mapping
from general_manager.workflow.engine import WorkflowDefinition, WorkflowHandler
from general_manager.workflow.exceptions import StepInDoubt
from general_manager.workflow.runs import Interrupted, Run, Suspended
from general_manager.workflow.steps import StepRecord, StepStatus
from general_manager.workflow.testing.effects import database_effects
from general_manager.workflow.testing.running import MOST_TURNS, TIMEOUT
from general_manager.workflow.transactions import own_transaction

BEFORE: Final = "before"
IN: Final = "in"
AFTER: Final = "after"
LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


class Crash(BaseException):
    """The death of the process: nothing in the handler may catch it."""


@dataclass
class Memory:
    """The steps of one execution, and where it is to crash: at the *point* of a named step."""

    answers: Mapping[str, Any]
    crash_at: tuple[str, str] | None = None
    steps: dict[str, StepRecord] = field(default_factory=dict)
    using: str | None = DEFAULT_DB_ALIAS
    reached: list[str] = field(default_factory=list)
    block: own_transaction = field(default_factory=lambda: own_transaction(DEFAULT_DB_ALIAS))

    # What follows is a `RunStore`.

    def load(self) -> dict[str, StepRecord]:
        return dict(self.steps)

    def check(self) -> None:
        pass

    @contextmanager
    def transaction(self) -> Iterator[None]:
        kept = dict(self.steps)
        self.block = own_transaction(DEFAULT_DB_ALIAS)
        try:
            with self.block:
                yield
        except BaseException:
            self.steps = kept
            raise

    def was_undone_by_the_database(self, error: BaseException) -> bool:
        return self.block.was_undone_by_the_database(error)

    def begin(self, name: str) -> None:
        self.steps[name] = StepRecord(name, StepStatus.BEGUN)

    def finish(self, name: str, result: Any) -> None:
        self.crash(name, IN)
        self.steps[name] = StepRecord(name, StepStatus.DONE, result)

    def open_wait(self, name: str, *, timeout: timedelta | None, answerable: bool) -> StepRecord:
        del answerable  # a sleep has a timeout and no answer: that is all the difference
        until = None if timeout is None else LONG_AGO
        self.steps[name] = StepRecord(name, StepStatus.OPEN, until=until)
        return self.steps[name]

    def settle_wait(self, name: str) -> StepRecord:
        """Questions are answered, and time is up, as soon as somebody looks."""
        wait = self.steps[name]
        answer = self.answers.get(name, TIMEOUT)
        if answer is not TIMEOUT:
            given = answer() if callable(answer) else answer
            wait = StepRecord(name, StepStatus.DONE, encode(given, root="answer"))
        elif wait.until is not None:
            wait = StepRecord(name, StepStatus.TIMED_OUT)
        self.steps[name] = wait
        return wait

    def crash(self, name: str, point: str) -> None:
        if self.crash_at == (name, point):
            self.crash_at = None
            raise Crash(f"{point} {name}")


class CrashingRun(Run):
    """One pass of the handler that dies where its memory says."""

    def __init__(self, memory: Memory) -> None:
        super().__init__("crash-test", memory)
        self._memory = memory

    def step(
        self, name: str, call: Callable[[], Any], *, once: bool = False, atomic: bool = True
    ) -> Any:
        if name not in self._memory.reached:
            self._memory.reached.append(name)
        is_new = name not in self._memory.steps
        if is_new:
            self._memory.crash(name, BEFORE)
        result = super().step(name, call, once=once, atomic=atomic)
        if is_new:
            self._memory.crash(name, AFTER)
        return result


def assert_crash_safe(
    workflow: WorkflowDefinition | WorkflowHandler,
    input_data: Mapping[str, Any] | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
    effects: Callable[[], Any] = database_effects,
) -> dict[str, Any]:
    """Raise `AssertionError` if a crash changes what *workflow* returns or leaves in the database.

    The handler runs once undisturbed; then once for each point before, in and after each step,
    where it dies and is run again as after the death of a worker. Each time its output and what
    *effects* returns must be the same; by default that is every row of every model, without
    generated keys and times. Each run is rolled back. A `once=True` step that dies inside may end
    in doubt: that is what it promises. *answers* are as for `run`. Needs the default database.
    Returns the undisturbed output.
    """
    handler = workflow.handler if isinstance(workflow, WorkflowDefinition) else workflow
    if handler is None:
        raise TypeError("assert_crash_safe() needs a workflow with a handler")
    given = encode_mapping({} if input_data is None else input_data, root="input_data")
    calm = Memory(answers or {})
    output, left = _rolled_back(handler, given, calm, effects)
    for name in calm.reached:
        for point in (BEFORE, IN, AFTER):
            memory = Memory(answers or {}, crash_at=(name, point))
            try:
                again, left_again = _rolled_back(handler, given, memory, effects)
            except StepInDoubt:
                continue
            where = f"a crash {point} step {name!r}"
            if again != output:
                raise AssertionError(f"After {where} it returns {again!r}, without {output!r}.")
            if left_again != left:
                raise AssertionError(
                    f"After {where} the database differs:\n  with:    {left_again!r}\n"
                    f"  without: {left!r}\nCode between steps may run again: put what must happen "
                    "once into a step."
                )
    return output


class _UndoneError(Exception):
    pass


def _rolled_back(
    handler: WorkflowHandler,
    input_data: dict[str, Any],
    memory: Memory,
    effects: Callable[[], Any],
) -> tuple[dict[str, Any], Any]:
    try:
        with transaction.atomic(using=DEFAULT_DB_ALIAS):
            output = _run_to_its_end(handler, input_data, memory)
            left = effects()
            raise _UndoneError  # noqa: TRY301 - the way to roll an `atomic` block back
    except _UndoneError:
        return output, left


def _run_to_its_end(
    handler: WorkflowHandler, input_data: dict[str, Any], memory: Memory
) -> dict[str, Any]:
    for _ in range(MOST_TURNS):
        run = CrashingRun(memory)
        try:
            output = run.call(handler, copy_encoded(input_data))
        except Crash:
            continue
        if isinstance(run.stopped, Interrupted):
            raise run.stopped.error
        if isinstance(run.stopped, Suspended):
            raise AssertionError(  # noqa: TRY004 - a verdict on the workflow, not on a type
                f"{run.stopped.name!r} has neither an answer nor a timeout"
            )
        return output
    raise AssertionError(f"The handler is not done after {MOST_TURNS} runs")
