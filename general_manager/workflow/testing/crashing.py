"""The runs of a workflow that crashes where its memory says."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import DEFAULT_DB_ALIAS

from general_manager.workflow.core.encoding import copy_encoded, encode
from general_manager.workflow.core.transactions import own_transaction
from general_manager.workflow.durable.answers.sources import Source
from general_manager.workflow.durable.children.specs import Child, ChildOutcome, GatherOptions
from general_manager.workflow.durable.ending import Ending
from general_manager.workflow.durable.options import PLAIN_STEP, StepOptions
from general_manager.workflow.durable.records import FailedAttempt, StepRecord, StepStatus
from general_manager.workflow.durable.renewal import ContinuedAsNew
from general_manager.workflow.durable.run import Run
from general_manager.workflow.durable.steps import Steps
from general_manager.workflow.durable.stops import (
    Interrupted,
    Retrying,
    StopRun,
    Suspended,
    WaitsForChildren,
)
from general_manager.workflow.engine import WorkflowHandler
from general_manager.workflow.testing.crashed_children import outcomes_of
from general_manager.workflow.testing.running import MOST_TURNS, TIMEOUT

BEFORE: Final = "before"
IN: Final = "in"
AFTER: Final = "after"
LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


class Crash(StopRun):
    """Simulates the death of the process: nothing in the handler may catch it."""


@dataclass
class Memory:
    """The steps of one execution, and where it crashes: at the *point* of a named step."""

    answers: Mapping[str, Any]
    crash_at: tuple[str, str] | None = None
    failing: Mapping[str, Exception] = field(default_factory=dict)
    """Steps that raise this instead of being called."""
    steps: dict[str, StepRecord] = field(default_factory=dict)
    using: str | None = DEFAULT_DB_ALIAS
    ending: Ending | None = None
    saga: str | None = None
    reached: list[str] = field(default_factory=list)
    block: own_transaction = field(default_factory=lambda: own_transaction(DEFAULT_DB_ALIAS))
    asked: set[str] = field(default_factory=set)
    children: dict[str, list[Child]] = field(default_factory=dict)
    effects: Callable[[], Counter[str]] = Counter
    """Counts a project's own effects."""
    before: Counter[str] = field(default_factory=Counter)
    """The effects before the step in which it crashes."""
    repeated: Counter[str] = field(default_factory=Counter)
    """The step's effects outside the database when it crashed."""

    # The methods of a `RunStore` follow.

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
        self.steps[name] = StepRecord(name, StepStatus.STARTED)

    def begin_attempt(self, name: str, timeout: timedelta) -> None:
        pass

    def has_next_attempt(self, error: BaseException) -> bool:
        del error  # there is one attempt
        return False

    def open_saga(self, name: str) -> None:
        self.steps[name] = StepRecord(name, StepStatus.SAGA, saga=name)

    def close_saga(self, name: str) -> None:
        self.steps[name] = StepRecord(name, StepStatus.DONE, saga=name)

    def begin_undoing(self, name: str, failure: dict[str, Any], undos: Sequence[str]) -> None:
        self._crash_in(name)
        about = {"undos": list(undos)}
        self.steps[name] = StepRecord(name, StepStatus.UNDOING, about, failure=failure, saga=name)
        self.reached += [] if name in self.reached else [name]
        self.reached += [undo for undo in reversed(undos) if undo not in self.reached]
        for wait in self.steps.values():
            if wait.status is StepStatus.OPEN:
                self.steps[wait.name] = StepRecord(wait.name, StepStatus.CLOSED)

    def end_undoing(self, name: str, left: Sequence[str]) -> None:
        self.crash(name, AFTER)
        status = StepStatus.INCOMPLETE if left else StepStatus.UNDONE
        about = {**self.steps[name].result, "left": list(left)}
        self.steps[name] = replace(self.steps[name], status=status, result=about)

    def finish(self, name: str, result: Any, *, asked_inside: bool = False) -> None:
        del asked_inside
        self._crash_in(name)
        self.steps[name] = StepRecord(name, StepStatus.DONE, result, saga=self.saga)

    def fail(self, name: str, failure: dict[str, Any], attempts: int) -> None:
        self._crash_in(name)
        self.steps[name] = StepRecord(name, StepStatus.FAILED, failure=failure, attempts=attempts)

    def postpone(self, attempt: FailedAttempt, delay: timedelta) -> None:
        del delay  # it is over at once
        self._crash_in(attempt.name)
        self.steps[attempt.name] = StepRecord(
            attempt.name,
            StepStatus.RETRYING,
            until=LONG_AGO,
            failure=attempt.failure,
            attempts=attempt.number,
            saga=self.saga,
        )

    def is_due(self, name: str) -> bool:
        return self.steps[name].until == LONG_AGO  # as every delay, see `postpone`

    def _crash_in(self, name: str) -> None:
        if self.crash_at == (name, IN):
            self.repeated = self.effects() - self.before
        self.crash(name, IN)

    def open_wait(
        self,
        name: str,
        *,
        timeout: timedelta | None,
        answerable: bool,
        suspends: bool,
        signal: str | None = None,
        sources: Sequence[Source] = (),
    ) -> StepRecord:
        del suspends, signal  # it is recorded at once, and answered under its name
        if answerable:
            self.asked.add(name)
        until = None if timeout is None else LONG_AGO
        stored = [one.to_json() for one in sources]
        self.steps[name] = StepRecord(name, StepStatus.OPEN, until=until, sources=stored)
        return self.steps[name]

    def settle_wait(self, name: str) -> StepRecord:
        """Answers every wait, and ends every time limit, at once."""
        wait = self.steps[name]
        answer = self.answers.get(name, TIMEOUT)
        if answer is not TIMEOUT:
            given = answer() if callable(answer) else answer
            branch, given = branch_of(wait, given)
            wait = StepRecord(name, StepStatus.DONE, encode(given, root="answer"), branch=branch)
        elif wait.until is not None:
            wait = StepRecord(name, StepStatus.TIMED_OUT)
        self.steps[name] = wait
        return wait

    def start_children(self, name: str, children: Sequence[Child], options: GatherOptions) -> None:
        self._crash_in(name)
        self.asked.add(name)
        self.children[name] = list(children)
        until = None if options.timeout is None else LONG_AGO
        self.steps[name] = StepRecord(name, StepStatus.GATHERING, until=until)

    def look_at_children(self, name: str) -> StepRecord:
        """All children are over at once, with the outputs that are the gather's answer."""
        record = self.steps[name]
        if self.answers.get(name, TIMEOUT) is not TIMEOUT:
            record = StepRecord(name, StepStatus.DONE)
        elif record.until is not None:
            record = StepRecord(name, StepStatus.TIMED_OUT)
        self.steps[name] = record
        return record

    def close_children(self, name: str) -> StepRecord | None:
        if name not in self.steps:
            return None
        self.steps[name] = StepRecord(name, StepStatus.CLOSED)
        return self.steps[name]

    def stop_late_children(self, name: str) -> None:
        pass

    def child_outcomes(self, name: str) -> list[ChildOutcome]:
        given = self.answers[name]
        outputs = encode(given() if callable(given) else given, root="answer")
        return outcomes_of(name, self.children[name], outputs)

    def write_reports(self, values: Mapping[str, Any], *, at_end: bool) -> bool:
        del values, at_end  # nobody looks at the progress here
        return True

    def crash(self, name: str, point: str) -> None:
        if self.crash_at == (name, point):
            self.crash_at = None
            raise Crash(f"{point} {name}")


def branch_of(wait: StepRecord, given: Any) -> tuple[str | None, Any]:
    """The source and the value of a given answer: of a `first_of`, both may be given as a pair."""
    names = {one["branch"] for one in wait.sources}
    if isinstance(given, tuple) and len(given) == 2 and given[0] in names:
        return given[0], given[1]
    return None, given


class CrashingSteps(Steps):
    """Steps and undos, of which some fail as their memory says."""

    def _called(self, name: str, call: Callable[[], Any]) -> Any:
        failing = self._store.failing if isinstance(self._store, Memory) else {}
        if name in failing:
            raise copy(failing[name])  # each attempt has a traceback of its own
        return super()._called(name, call)


class CrashingRun(Run):
    """One run of the handler that crashes where its memory says."""

    steps_type = CrashingSteps

    def __init__(self, memory: Memory) -> None:
        super().__init__("crash-test", memory)
        self._memory = memory

    def step(self, name: str, call: Callable[[], Any], options: StepOptions = PLAIN_STEP) -> Any:
        memory = self._memory
        if name not in memory.reached:
            memory.reached.append(name)
        known = memory.steps.get(name)
        is_new = known is None or known.status is StepStatus.RETRYING
        if is_new:
            self._crash(name, BEFORE)
            if memory.crash_at == (name, IN):
                memory.before = memory.effects()
        try:
            result = super().step(name, call, options)
        except Exception:
            if is_new:
                self._crash(name, AFTER)
            raise
        if is_new:
            self._crash(name, AFTER)
        return result

    def _crash(self, name: str, point: str) -> None:
        with self._stopping():
            self._memory.crash(name, point)


def run_to_its_end(
    handler: WorkflowHandler, input_data: dict[str, Any], memory: Memory
) -> dict[str, Any]:
    for _ in range(MOST_TURNS):
        run = CrashingRun(memory)
        output = run.call(handler, copy_encoded(input_data))
        if isinstance(run.stopped, Crash | Retrying):
            continue
        if isinstance(run.stopped, Interrupted):
            raise run.stopped.error
        if isinstance(run.stopped, Suspended | WaitsForChildren):
            raise AssertionError(  # noqa: TRY004 - a verdict on the workflow, not on a type
                f"{run.stopped.name!r} has neither an answer nor a timeout"
            )
        for close in run.closings:
            close()
        if isinstance(run.stopped, ContinuedAsNew):
            return run.stopped.input_data
        return output
    raise AssertionError(f"The handler has not finished after {MOST_TURNS} runs")
