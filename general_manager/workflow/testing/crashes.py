"""Kill a workflow before, in and after each of its steps, and see whether it ends the same."""

from collections import Counter
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
from general_manager.workflow.testing.comparing import Comparison, Observed
from general_manager.workflow.testing.effects import counted, read_tables
from general_manager.workflow.testing.running import MOST_TURNS, TIMEOUT, require_asked
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
    asked: set[str] = field(default_factory=set)
    effects: Callable[[], Counter[str]] = Counter
    """Counts a project's own effects."""
    before: Counter[str] = field(default_factory=Counter)
    """Those before the step that is to crash inside."""
    repeated: Counter[str] = field(default_factory=Counter)
    """What that step had done outside of the database when it crashed."""

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
        if self.crash_at == (name, IN):
            self.repeated = self.effects() - self.before
        self.crash(name, IN)
        self.steps[name] = StepRecord(name, StepStatus.DONE, result)

    def open_wait(self, name: str, *, timeout: timedelta | None, answerable: bool) -> StepRecord:
        if answerable:
            self.asked.add(name)
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
            if self._memory.crash_at == (name, IN):
                self._memory.before = self._memory.effects()
        result = super().step(name, call, once=once, atomic=atomic)
        if is_new:
            self._memory.crash(name, AFTER)
        return result


Effects = Callable[[], Any]


def assert_crash_safe(
    workflow: WorkflowDefinition | WorkflowHandler,
    input_data: Mapping[str, Any] | None = None,
    *,
    answers: Mapping[str, Any] | None = None,
    effects: Effects | None = None,
    at_least_once: bool = False,
) -> dict[str, Any]:
    """Raise `AssertionError` if a crash changes what *workflow* returns or leaves behind.

    The handler runs twice undisturbed; then once for each point before, in and after each step,
    where it dies and is run again as after the death of a worker. Each time it must return the
    same and leave the same rows, but for keys, times and random values that can be traced to the
    same column or step. Each run is rolled back on the default database. A `once=True` step that
    dies inside may end in doubt: that is what it promises. *answers* are as for `run`.

    *effects* returns what there is outside of the database, such as `sent_mails`: a list, a set, a
    mapping or a number. What each run adds to it must be the same. A step that dies between its
    effect and its commit has that effect again, since steps are at-least-once for everything that
    is not in the database; with *at_least_once* such a repetition is accepted, and only that.

    Returns the undisturbed output.
    """
    handler = workflow.handler if isinstance(workflow, WorkflowDefinition) else workflow
    if handler is None:
        raise TypeError("assert_crash_safe() needs a workflow with a handler")
    given = encode_mapping({} if input_data is None else input_data, root="input_data")
    trial = Trial(handler, given, answers or {}, effects)
    calm = trial.observe()
    trial.require_all_answers_asked()
    trial.calm += [calm, trial.observe()]
    for name in trial.reached:
        for point in (BEFORE, IN, AFTER):
            memory = Memory(trial.answers, crash_at=(name, point))
            try:
                crashed = trial.observe(memory)
            except StepInDoubt:
                continue
            accepted = memory.repeated if at_least_once else Counter()
            trial.require_same(crashed, f"a crash {point} step {name!r}", accepted, memory.repeated)
    return calm.output


class _UndoneError(Exception):
    pass


class Trial:
    """One workflow, run again and again."""

    def __init__(
        self,
        handler: WorkflowHandler,
        input_data: dict[str, Any],
        answers: Mapping[str, Any],
        effects: Effects | None,
    ) -> None:
        self.handler = handler
        self.input_data = input_data
        self.answers = answers
        self.effects = effects
        self.calm: list[Observed] = []
        self.reached: list[str] = []
        """The steps of an undisturbed run, in order."""
        self._asked: set[str] = set()

    def observe(self, memory: Memory | None = None) -> Observed:
        """Run to the end, look, and roll back."""
        memory = memory or Memory(self.answers)
        memory.effects = self._count_effects
        try:
            with transaction.atomic(using=DEFAULT_DB_ALIAS):
                before = self._count_effects()
                output = _run_to_its_end(self.handler, self.input_data, memory)
                steps = {name: record.result for name, record in memory.steps.items()}
                after = self._count_effects()
                after.subtract(before)
                added = Counter({text: count for text, count in after.items() if count})
                found = Observed(output, steps, read_tables(), added)
                raise _UndoneError  # noqa: TRY301 - the way to roll an `atomic` block back
        except _UndoneError:
            self.reached = self.reached or memory.reached
            self._asked |= memory.asked
            return found

    def require_all_answers_asked(self) -> None:
        require_asked(self.answers, self._asked, "The execution completed.")

    def require_same(
        self, crashed: Observed, where: str, accepted: Counter[str], repeated: Counter[str]
    ) -> None:
        difference = Comparison(self.calm).difference(crashed)
        if difference:
            # Another undisturbed run may differ too: in a time of which seconds are kept, say.
            self.calm.append(self.observe())
            difference = Comparison(self.calm).difference(crashed)
        if difference:
            raise AssertionError(
                f"After {where} {difference}\nCode between steps may run again, and so does a step "
                "whose writes do not commit with it: put what must happen once into an atomic step."
            )
        added = crashed.added.copy()
        added.subtract(accepted)
        difference = Comparison(self.calm).added_difference(added)
        if difference:
            name = getattr(self.effects, "__name__", repr(self.effects))
            raise AssertionError(
                f"After {where} the effects that {name!r} returns differ:\n{difference}\n"
                f"{AT_LEAST_ONCE if repeated else CODE_BETWEEN}"
            )

    def _count_effects(self) -> Counter[str]:
        return Counter() if self.effects is None else counted(self.effects())


AT_LEAST_ONCE: Final = (
    "What a step does outside of the database happens at least once, by design: its worker may die "
    "before the step is recorded. Use once=True for what must not be repeated, or accept the "
    "repetition: assert_crash_safe(..., at_least_once=True)."
)
CODE_BETWEEN: Final = "Code between steps may run again: put what must happen once into a step."


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
